"""Short runs of the tables' parts in which someone watches whether a step waits for the device."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, seed_everything
from torch import nn

from lightning_optreg import ImageClassifier
from tests.contracts.images import FewImages, SmallNet
from tests.contracts.parts import CALLBACKS
from tests.small_runs import quiet_trainer

__all__ = ["WATCHED", "fit", "fit_with"]

WATCHED = [name for name, part in CALLBACKS.items() if "waits for nothing" not in part.excused]
"""Names of the callbacks that let no step wait."""


def fit(
    folder: Path,
    callbacks: list[Callback],
    optimizer: Any,
    kind: Any = "plain",
    *,
    device: str = "auto",
    **options: Any,
) -> LightningModule:
    """Fit some epochs, which log nothing before their end; `options` are the trainer's."""
    seed_everything(1, verbose=False)
    module = ImageClassifier(SmallNet(nn.Identity(), kind), optimizer=optimizer, num_classes=3)
    trainer = quiet_trainer(
        callbacks=callbacks,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        **{"log_every_n_steps": 100, **options},
    )
    data = FewImages(batch_size=16, val_fraction=0.28, cache_dir=str(folder / "cache"), device=device)
    trainer.fit(module, datamodule=data)
    return module


def fit_with(name: str, folder: Path, first: Callback, last: Callback, **options: Any) -> LightningModule:
    """Fit with one of the table's callbacks, or with "none", between two others."""
    part = CALLBACKS.get(name)
    adam = part is not None and "Adam" in part.needs
    return fit(
        folder,
        [first, *([part.build_for_images()] if part else []), last],
        (lambda p: torch.optim.Adam(p, lr=0.01)) if adam else (lambda p: torch.optim.SGD(p, lr=0.1)),
        part.network if part else "plain",
        **options,
    )
