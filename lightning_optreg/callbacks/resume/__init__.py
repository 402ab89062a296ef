"""Callbacks that resume a run exactly, as if it had never stopped."""
