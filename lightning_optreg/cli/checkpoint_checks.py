"""A checkpoint against what is configured: refused where it does not fit, and compared where it does."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from lightning_optreg.places import Place
from lightning_optreg.runs.checkpoints import check_states_fit, differences, misfits, report
from lightning_optreg.trust import check_paths

__all__ = ["check_training_state", "check_weights", "say_differences"]


def check_training_state(checkpoint: Mapping[str, Any], path: Place, folders: Sequence[str]) -> None:
    """Refuse a checkpoint that a fit cannot go on from.

    Args:
        checkpoint: Its content.
        path: Its file, for the message.
        folders: Where the fit writes its checkpoints.

    Raises:
        ValueError: If it holds only weights, or paths outside of these folders.
    """
    has_states = {"optimizer_states", "lr_schedulers"} <= checkpoint.keys()
    if not has_states or "fit_loop" not in checkpoint.get("loops", {}):
        raise ValueError(
            f"ckpt_path: {str(path)!r} holds only weights and no training state: a fit cannot resume from "
            "it; test, validate and predict can use it"
        )
    check_paths(checkpoint.get("callbacks"), folders, f"ckpt_path: {str(path)!r}")


def check_weights(checkpoint: Mapping[str, Any], path: Place, module: nn.Module) -> None:
    """Refuse a checkpoint whose weights are not those of the module.

    Args:
        checkpoint: Its content.
        path: Its file, for the message.
        module: The module that is to get them.

    Raises:
        ValueError: If names or shapes differ.
    """
    misfit = misfits(module, checkpoint["state_dict"])
    if misfit is not None:
        raise ValueError(f"ckpt_path: {str(path)!r}: {misfit}")


def say_differences(
    checkpoint: Mapping[str, Any],
    path: Place,
    config: dict[str, Any],
    *,
    fitting: bool,
    reset_optimizer: bool,
) -> None:
    """Report in which settings a checkpoint's run differs from this one.

    Args:
        checkpoint: Its content.
        path: Its file, for the message.
        config: This run's configuration.
        fitting: Whether the run is a fit; otherwise only model and data are compared.
        reset_optimizer: Whether the optimizer starts afresh.

    Raises:
        ValueError: If a fit cannot restore the optimizer's or the schedule's state.
    """
    state = checkpoint.get("callbacks", {}).get("SaveConfig")
    saved = state.get("config") if isinstance(state, dict) else None
    if not isinstance(saved, dict):
        rank_zero_info(f"ckpt_path: {str(path)!r} holds no configuration to compare with")
        return
    changes = differences(saved, config, parts=None if fitting else ("model", "data"))
    if fitting and not reset_optimizer:
        check_states_fit(changes)
    for line in report(changes, fitting=fitting, reset_optimizer=reset_optimizer):
        rank_zero_info(line)
