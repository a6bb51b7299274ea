"""What long work saves on its way."""
