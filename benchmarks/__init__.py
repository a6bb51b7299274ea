"""Speed and memory, beside a plain PyTorch implementation of the same steps."""
