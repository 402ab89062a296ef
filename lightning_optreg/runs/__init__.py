"""A run's folder, which one process writes to, and its checkpoints, which are whole or not there at all.

`AtomicCheckpointIO` is a plugin for any Lightning Trainer; the command line uses it unless the configuration
names another `CheckpointIO`.
"""

from lightning_optreg.runs.checkpoint_io import AtomicCheckpointIO

__all__ = ["AtomicCheckpointIO"]
