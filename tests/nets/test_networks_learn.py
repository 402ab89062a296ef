"""Every network learns from real images: an epoch of Fashion-MNIST, of a part or (slow) all of it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from lightning_optreg import ImageClassifier
from lightning_optreg.data import FashionMNISTDataModule
from lightning_optreg.nets import Network
from tests.nets.test_networks import NETS

REAL = Path("/usr/share/datasets/fashion-mnist")
pytestmark = [
    pytest.mark.skipif(not REAL.is_dir(), reason=f"Fashion-MNIST is not in {REAL}"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]
every_net = pytest.mark.parametrize("make", NETS.values(), ids=NETS.keys())


class Losses(Callback):
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(outputs["loss"].item())


def train(make: Callable[..., Network], batch_size: int, steps: float | int) -> list[float]:
    seed_everything(0)
    losses = Losses()
    data = FashionMNISTDataModule(data_dir=str(REAL), batch_size=batch_size, seed=0)
    net = make(num_classes=data.num_classes, input_shape=data.input_shape)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=steps,
        limit_val_batches=0,
        callbacks=[losses],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    optimizer = partial(torch.optim.AdamW, lr=0.003)
    trainer.fit(ImageClassifier(net, optimizer=optimizer, num_classes=data.num_classes), data)
    return losses.losses


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(make, marks=[] if name in ("mlp", "lenet5_rbf") else pytest.mark.slow)
        for name, make in NETS.items()
    ],
    ids=NETS.keys(),
)
def test_the_loss_falls_on_a_part(make: Callable[..., Network]) -> None:
    losses = train(make, batch_size=32, steps=60)
    assert mean(losses[-15:]) < 0.9 * mean(losses[:5])


@pytest.mark.slow
@every_net
def test_the_loss_falls_in_an_epoch(make: Callable[..., Network]) -> None:
    losses = train(make, batch_size=128, steps=1.0)
    assert len(losses) == 422
    # an MLP of 12 and 8 units with dropout comes to 0.58, all others go below 0.5
    assert mean(losses[-100:]) < 0.6 * mean(losses[:5])
