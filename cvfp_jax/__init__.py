"""Train and study context-vector-fixed-point (CVFP) language models, and fit scaling laws to them."""

__version__ = "0.1.0"
