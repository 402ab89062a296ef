"""Callbacks that change or check gradients and weights."""
