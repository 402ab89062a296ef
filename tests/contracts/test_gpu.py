"""On a GPU no step waits for the device: that would keep the CPU from preparing the next one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import nn

from lightning_optreg import ImageClassifier, optimizers
from tests.contracts.images import FewImages, SmallNet
from tests.contracts.optimizers import FIRST_ORDER
from tests.contracts.parts import CALLBACKS
from tests.small_runs import quiet_trainer

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
    pytest.mark.filterwarnings("ignore:DifferentialPrivacy. epsilon is computed for Poisson samples"),
]
WATCHED = [name for name, part in CALLBACKS.items() if "waits for nothing" not in part.excused]


class NoWaiting(Callback):
    """First among the callbacks: from the second epoch on, waiting for the device is an error in a step."""

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        torch.cuda.set_sync_debug_mode("error" if trainer.current_epoch and batch_idx else "default")


class Waiting(Callback):
    """Last among the callbacks: waiting is allowed again."""

    def on_train_batch_end(self, *args: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")


def fit(folder: Path, callbacks: list[Callback], optimizer: Any, kind: Any = "plain", **options: Any) -> None:
    seed_everything(1, verbose=False)
    module = ImageClassifier(SmallNet(nn.Identity(), kind), optimizer=optimizer, num_classes=3)
    trainer = quiet_trainer(
        accelerator="gpu",
        max_epochs=3,
        callbacks=[NoWaiting(), *callbacks, Waiting()],
        num_sanity_val_steps=0,
        default_root_dir=folder,
        log_every_n_steps=100,
        **options,
    )
    try:
        trainer.fit(
            module, datamodule=FewImages(batch_size=16, val_fraction=0.28, cache_dir=str(folder / "cache"))
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", ["none", *WATCHED])
def test_no_step_with_a_callback_waits(name: str, precision: str, tmp_path: Path) -> None:
    part = CALLBACKS.get(name)
    adam = part is not None and "Adam" in part.needs
    fit(
        tmp_path,
        [part.build_for_images()] if part else [],
        (lambda p: torch.optim.Adam(p, lr=0.01)) if adam else (lambda p: torch.optim.SGD(p, lr=0.1)),
        part.network if part else "plain",
        precision=precision,
    )


@pytest.mark.parametrize("name", [name for name, rule in FIRST_ORDER.items() if not rule.reads_values])
def test_no_step_of_an_optimizer_waits(name: str, tmp_path: Path) -> None:
    fit(tmp_path, [], lambda p: getattr(optimizers, name)(p, **FIRST_ORDER[name].arguments))
