"""Callbacks that change training batches."""
