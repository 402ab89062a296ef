"""The progress of a run within its loops."""
