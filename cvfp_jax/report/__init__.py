"""From records and fits to tables, figures and documents."""
