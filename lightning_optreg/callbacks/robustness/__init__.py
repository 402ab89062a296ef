"""Adversarial examples: training on them, and how many a trained network withstands."""
