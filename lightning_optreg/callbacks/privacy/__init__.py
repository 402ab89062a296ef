"""Train so that the weights say little about any single example."""
