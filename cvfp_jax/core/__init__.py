"""The equations."""
