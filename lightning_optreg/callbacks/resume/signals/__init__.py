"""Signals that ask a run to stop, and processes that a launcher started."""
