"""From text to token ids and frozen embedding tables."""
