"""Callbacks that decide when training takes steps, with which optimizer, and when it stops."""
