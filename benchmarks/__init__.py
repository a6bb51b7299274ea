"""This project measured beside plain PyTorch; see docs/speed.md."""
