"""This project measured beside plain PyTorch; see BUILD.md."""
