"""Callbacks that average predictions or recompute statistics for evaluation."""
