"""What is averaged when a network is evaluated."""
