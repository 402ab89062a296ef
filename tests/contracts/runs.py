"""Short runs of the table's callbacks, to compare them with each other."""

from collections.abc import Collection
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning.pytorch import Callback, LightningModule, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from tests.contracts.part import Need, Part
from tests.contracts.parts import CALLBACKS
from tests.resume_tools import Regression, StatefulLoader, callback_states, final_state
from tests.small_runs import quiet_trainer

__all__ = ["checkpoint_every_step", "fit", "regression", "without"]


def checkpoint_every_step(folder: Path, every: int = 1) -> ModelCheckpoint:
    """Keep a checkpoint of every step, or of every so many, named by it."""
    return ModelCheckpoint(folder, "{step}", every_n_train_steps=every, save_top_k=-1)


def regression(*parts: Part | None, asks: bool = False) -> Regression:
    """A module in which these parts find what they need."""
    return _module({need for part in parts if part for need in part.needs}, asks=asks)


def _module(needs: Collection[Need], *, asks: bool = False) -> Regression:
    return Regression(
        "none" if "no schedule" in needs else "cosine_step",
        adam="Adam" in needs,
        asks=asks,
        whitened="whitened layers" in needs,
    )


def fit(
    folder: Path,
    callbacks: list[Callback],
    module: LightningModule | None = None,
    ckpt_path: Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Fit two epochs, and return what the run ended with."""
    module = module or regression(*(CALLBACKS.get(type(callback).__name__) for callback in callbacks))
    loaders = (
        [StatefulLoader(images=True), StatefulLoader(2, images=True)]
        if isinstance(module, Regression)
        else []
    )
    trainer = quiet_trainer(
        logger=TensorBoardLogger(folder),
        callbacks=callbacks,
        default_root_dir=folder,
        **{"max_epochs": 2, **options},
    )
    trainer.fit(module, *loaders, ckpt_path=ckpt_path)
    return {**final_state(trainer, module), "callbacks": callback_states(trainer)}


def without(part: Part, **options: Any) -> dict[str, Any]:
    """What a run of the part's module from seed 1 ends with if there are no callbacks at all."""
    return _without(
        frozenset(part.needs & {"no schedule", "Adam", "whitened layers"}), tuple(sorted(options.items()))
    )


@cache
def _without(needs: frozenset[Need], options: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    seed_everything(1, verbose=False)
    with TemporaryDirectory() as folder:
        return fit(Path(folder), [], _module(needs), **dict(options))
