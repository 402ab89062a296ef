"""What is done to gradients and weights."""
