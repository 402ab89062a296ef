"""What a run keeps: checkpoints that are whole or not there, and a folder that one process writes to.

`AtomicCheckpointIO` is a plugin for any Lightning Trainer; the command line uses it unless the configuration
names another `CheckpointIO`.
"""

from lightning_optreg.runs.checkpoint_io import AtomicCheckpointIO

__all__ = ["AtomicCheckpointIO"]
