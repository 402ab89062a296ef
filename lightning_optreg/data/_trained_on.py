"""Compare the data that a checkpoint's network was trained on with the present data."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_optreg.data.statistics import Statistics

__all__ = ["check_classes", "check_held_out", "statistics_of"]


def check_classes(trained: Sequence[str] | None, here: Sequence[str], owner: str) -> None:
    """Refuse data whose classes are not those of the network's scores.

    Args:
        trained: The classes of the checkpoint's run, in order; None if the checkpoint doesn't say.
        here: The classes of the data.
        owner: Name of the data module, for the error message.

    Raises:
        MisconfigurationException: If the classes or their order differ; lists both.

    Example:
        >>> check_classes(["cat", "dog"], ["cat", "dog"], "ImageFolderDataModule")
    """
    if trained is None or list(trained) == list(here):
        return
    raise MisconfigurationException(
        f"{owner}: the checkpoint's network was trained on {_listed(trained, here)}, but the data have "
        f"{_listed(here, trained)}"
    )


def check_held_out(
    trained: Mapping[str, Any] | None, here: Mapping[str, Any] | None, owner: str, *, is_test: bool
) -> None:
    """Refuse a network that has seen the images which are held out here.

    Args:
        trained: What the checkpoint's run held out: the result of `Division.held`; None for no fold.
        here: What is held out here.
        owner: Name of the data module, for the error message.
        is_test: Whether the network is only tested or used for prediction.

    Raises:
        MisconfigurationException: If another fold was held out, or none.

    Example:
        >>> check_held_out({"fold": 3, "folds": 5}, {"fold": 3, "folds": 5}, "Data", is_test=False)
    """
    if is_test:
        if here is None or here.get("held_out") == "validation":
            return  # the dataset's own test set, which no run is trained on
        # Whether it was held out for validation or for the test makes no difference to the test.
        trained, here = ({**each, "held_out": ""} if each else each for each in (trained, here))
    if trained == here:
        return
    raise MisconfigurationException(
        f"{owner}: the checkpoint's run held out {_fold(trained)}, and here it is {_fold(here)}"
        f"{_more(trained, here)}: its network was trained on images that are held out here"
    )


def _fold(held: Mapping[str, Any] | None) -> str:
    return "no fold" if held is None else f"fold {held['fold']} of {held['folds']}"


def _more(trained: Mapping[str, Any] | None, here: Mapping[str, Any] | None) -> str:
    """Return what else differs between two deals."""
    if trained is None or here is None:
        return ""
    keys = [key for key in here if key not in ("fold", "folds") and trained.get(key) != here[key]]
    told = [f"{key} {trained.get(key)!r} there and {here[key]!r} here" for key in keys]
    return f" ({', '.join(told)})" if told else ""


def _listed(names: Sequence[str], others: Sequence[str]) -> str:
    """Return all names of a few classes, or the first that differ of many."""
    if len(names) <= 10:
        return f"the classes {', '.join(names)}"
    differing = [f"{name} as class {k}" for k, name in enumerate(names) if list(others[k : k + 1]) != [name]]
    return f"{len(names)} classes, with {', '.join(differing[:3]) or 'the same first ones'}"


def statistics_of(preprocessing: Mapping[str, Any] | None, mode: str, here: Statistics) -> Statistics | None:
    """Return the statistics that a network's images were normalised with, if they are not those of the data.

    Args:
        preprocessing: The result of `ImageDataModule.preprocessing` when the checkpoint was written; None if
            the checkpoint doesn't have it.
        mode: How the data are normalised now. The mode of the checkpoint's run is not imposed on them.
        here: The statistics of the present training images.

    Returns:
        None if they agree, or the checkpoint has none for this mode or for images of this shape.

    Example:
        >>> from lightning_optreg.data import compute_statistics
        >>> here = compute_statistics(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1))
        >>> before = {"normalize": "mean_std", "mean": [0.25], "std": [0.5]}
        >>> statistics_of(before, "mean_std", here).mean
        tensor([0.2500])
    """
    if preprocessing is None or preprocessing["normalize"] != mode:
        return None
    used = {name: preprocessing[name] for name in ("mean", "std", "mean_image") if name in preprocessing}
    kept = {name: torch.as_tensor(value, dtype=torch.float32) for name, value in used.items()}
    if any(value.shape != getattr(here, name).shape for name, value in kept.items()):
        return None
    if all(torch.equal(value, getattr(here, name)) for name, value in kept.items()):
        return None
    return replace(here, **kept)
