"""Contexts of a stream, and what is measured of them."""
