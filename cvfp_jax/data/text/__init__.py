"""Samples from the user's own files, in the formats and layouts that people have them in."""
