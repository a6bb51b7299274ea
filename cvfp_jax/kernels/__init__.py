"""The core's numbers, computed faster."""
