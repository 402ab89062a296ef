"""What a batch becomes before the training step."""
