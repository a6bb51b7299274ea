"""One cell, and all cells of a sweep."""
