"""A run's folder, which one process writes to, and its checkpoints, which are whole or not there at all.

`AtomicCheckpointIO` is a plugin for any Lightning Trainer; the command line uses it unless the configuration
names another `CheckpointIO`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_optreg.runs.checkpoint_io import AtomicCheckpointIO

__all__ = ["AtomicCheckpointIO"]


def __getattr__(name: str) -> Any:
    # Imported when asked for (PEP 562): other modules of this package are used before Lightning is imported,
    # which takes seconds.
    if name == "AtomicCheckpointIO":
        from lightning_optreg.runs.checkpoint_io import AtomicCheckpointIO

        return AtomicCheckpointIO
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
