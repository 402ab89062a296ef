"""Signals that stop a run, and processes started by a launcher."""
