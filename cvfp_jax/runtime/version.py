"""The version of the package, below all that says it."""

VERSION = "0.1.0"
