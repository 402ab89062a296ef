"""Callbacks that draw, measure and write records of a run."""
