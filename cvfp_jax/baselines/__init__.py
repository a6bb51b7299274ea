"""What ordinary models get on the same tokens, with the same embedding and head."""
