"""What the network takes from the data: its number of classes and the shape of an image."""

from collections.abc import Sequence
from typing import Any

from jsonargparse import Namespace

from lightning_optreg.classifier import ImageClassifier
from lightning_optreg.cli.given import is_given
from lightning_optreg.data import ImageDataModule

__all__ = ["LINKED", "settle_links"]

LINKED = ("num_classes", "input_shape")
"""Arguments that a network takes from the data."""


def settle_links(
    module: ImageClassifier, datamodule: ImageDataModule, net: Namespace, argv: Sequence[str]
) -> None:
    """Note what the network got from the data; refuse what the user set differently.

    Args:
        module: The module, whose hyperparameters name the network.
        datamodule: The data.
        net: The network's settings.
        argv: The command line.

    Raises:
        ValueError: If the command line or a configuration file gives another value than the data have.
    """
    noted = module.hparams["net"]["init_args"]
    accepted = net.get("init_args") or Namespace()
    for name in LINKED:
        value = _plain(getattr(datamodule, name))
        if name not in accepted:
            noted.pop(name, None)  # Lightning notes it even if the network takes no such argument
            continue
        given = _plain(accepted[name])
        if given != value and is_given(argv, f"model.net.{name}"):
            raise ValueError(
                f"model.net.{name} is {given} and the data have {value}: leave it out, it is taken from "
                "the data"
            )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
