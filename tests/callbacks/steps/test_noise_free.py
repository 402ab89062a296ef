"""NoiseFree: the loss is the same each time it is evaluated, and the console says what was turned off."""

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_optreg import ImageClassifier
from lightning_optreg.callbacks import FullBatch, NoiseFree
from lightning_optreg.data import FashionMNISTDataModule, RandomCrop, RandomHorizontalFlip
from lightning_optreg.layers import DropConnect, Dropout, GaussianNoise, NoiseLayer
from lightning_optreg.optimizers import BFGS, Newton
from lightning_optreg.trainer.noise_left import is_on, is_stubborn
from tests.small_runs import quiet_trainer


class NoisyBranch(NoiseLayer):
    """Noise around a layer that must stay in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(x) * (torch.rand(()) if self.noisy else 0.5)


def net() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        GaussianNoise(0.5),
        nn.Linear(784, 4),
        nn.BatchNorm1d(4),
        nn.Dropout(0.5),
        NoisyBranch(),
        Dropout(0.3),
        nn.Dropout(0.0),
        nn.Linear(4, 10),
    )


def datamodule(folder: Path, **options: Any) -> FashionMNISTDataModule:
    return FashionMNISTDataModule(
        str(folder),
        verify_checksum=False,
        **{"batch_size": 200, "augment": [RandomCrop(padding=2), RandomHorizontalFlip()], **options},
    )


class Watch(Callback):
    """Keeps each batch's loss and inputs, at a learning rate of 0."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.inputs: list[Tensor] = []
        self.training: list[bool] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]))
        self.inputs.append(batch[0])
        self.training = [layer.training for layer in pl_module.net.modules()]


def fit(
    folder: Path, callbacks: list[Callback], module: LightningModule, data: Any, **options: Any
) -> Trainer:
    trainer = quiet_trainer(
        **{"callbacks": callbacks, "default_root_dir": folder, "max_epochs": 3, **options}
    )
    trainer.fit(module, data)
    return trainer


def still(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=0.0)


def test_each_epoch_is_the_same(fashion_mnist_dir: Path, tmp_path: Path) -> None:
    def losses(callbacks: list[Callback], **options: Any) -> tuple[list[float], Watch]:
        seed_everything(0, verbose=False)
        watch = Watch()
        module = ImageClassifier(net(), optimizer=still)
        fit(tmp_path, [*callbacks, watch], module, datamodule(fashion_mnist_dir), **options)
        return watch.losses, watch

    noisy, _ = losses([])
    assert len(set(noisy)) == 9
    quiet, watch = losses([NoiseFree()])
    assert quiet[:3] == quiet[3:6] == quiet[6:]
    assert torch.equal(watch.inputs[0], watch.inputs[3])
    reloaded, _ = losses([NoiseFree()], reload_dataloaders_every_n_epochs=1)
    assert reloaded == quiet
    partly, watch = losses([NoiseFree(layers=False)])
    assert len(set(partly)) == 9
    assert torch.equal(watch.inputs[0], watch.inputs[3])
    reference = datamodule(fashion_mnist_dir, augment=None)
    reference.setup("fit")
    in_order = reference._loader("train")  # not shuffled
    batch = next(iter(in_order))
    assert torch.equal(watch.inputs[0], reference.transform(batch, training=False))


def test_console_lists_what_is_off_and_what_is_left_on(
    fashion_mnist_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        module = ImageClassifier(net(), optimizer=still)
        data = datamodule(fashion_mnist_dir)
        watch = Watch()
        fit(tmp_path, [NoiseFree(), watch], module, data)
    (said,) = [message for message in caplog.messages if "NoiseFree" in message]
    assert said == (
        "NoiseFree: turned off: 1 GaussianNoise layer (net.1); 2 Dropout layers (net.4, net.6); "
        "1 NoisyBranch layer (net.5); augmentation (RandomCrop, RandomHorizontalFlip); shuffling. "
        "Left on: another batch in each step; 2 BatchNorm1d layers (net.3, net.5.norm)"
    )
    assert watch.training.count(False) == 4  # and nothing within the stochastic branch
    assert all(layer.training for layer in module.net.modules())
    assert data.augmenting


def test_all_is_put_back_after_an_exception(fashion_mnist_dir: Path, tmp_path: Path) -> None:
    class Breaks(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            raise ArithmeticError

    data, module = datamodule(fashion_mnist_dir), ImageClassifier(net(), optimizer=still)
    with pytest.raises(ArithmeticError):
        fit(tmp_path, [NoiseFree(), Breaks()], module, data)
    assert data.augmenting
    assert all(layer.training for layer in module.net.modules())


def lbfgs(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(groups, max_iter=2)


@pytest.mark.parametrize("make", [lbfgs, lambda p: BFGS(p)], ids=["LBFGS", "BFGS"])
def test_warns_where_losses_are_compared(make: Any, fashion_mnist_dir: Path, tmp_path: Path) -> None:
    expected = (
        r"BFGS compares losses of several evaluations, which are noisy here: "
        r"1 GaussianNoise layer \(net.1\); .*"
        r"augmentation \(RandomCrop, RandomHorizontalFlip\); shuffling"
    )
    options = {"max_epochs": 1, "limit_train_batches": 2}

    def module() -> ImageClassifier:
        small = net()
        if make is not lbfgs:
            small[2] = nn.Sequential(nn.Linear(784, 1), nn.Linear(1, 4))
        return ImageClassifier(small, optimizer=make)

    with pytest.warns(UserWarning, match=expected + "; another batch in each step. The callback FullBatch"):
        fit(tmp_path, [], module(), datamodule(fashion_mnist_dir), **options)
    with pytest.warns(UserWarning, match=expected + r"\. Set noise_free to true in FullBatch"):
        fit(tmp_path, [FullBatch(noise_free=False)], module(), datamodule(fashion_mnist_dir), **options)
    fit(tmp_path, [FullBatch()], module(), datamodule(fashion_mnist_dir), **options)  # without a warning
    fit(tmp_path, [NoiseFree()], module(), datamodule(fashion_mnist_dir, batch_size="full"), max_epochs=1)


def test_newton_through_the_classifier(fashion_mnist_dir: Path, tmp_path: Path) -> None:
    module = ImageClassifier(
        nn.Sequential(nn.Flatten(), nn.Linear(784, 10)),
        optimizer=lambda p: Newton(p, hessian="free", damping=0.1),
    )
    trainer = fit(tmp_path, [FullBatch()], module, datamodule(fashion_mnist_dir), max_epochs=3)
    assert float(trainer.callback_metrics["train/loss"]) < 0.5


def test_layers_that_draw_in_evaluation_too_are_named() -> None:
    stubborn = nn.Sequential(
        DropConnect(4, 4, inference="sampling"), nn.FractionalMaxPool2d(2, output_size=2), nn.Dropout(0.1)
    )
    assert [is_stubborn(layer) for layer in stubborn] == [True, True, False]
    assert all(is_on(layer) for layer in stubborn.eval()[:2])
    assert not is_on(stubborn[2])


class Plain(LightningModule):
    """Somebody else's module and loader."""

    def __init__(self, shuffle: bool = True) -> None:
        super().__init__()
        self.net, self.shuffle = nn.Linear(2, 1), shuffle

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = self.net(batch[0]).square().mean()
        return loss

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.randn(8, 2)), batch_size=4, shuffle=self.shuffle)

    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), max_iter=2)


def test_a_loader_that_cannot_be_changed_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):  # and no warning: each evaluation sees all images
        fit(tmp_path, [FullBatch()], Plain(), None, max_epochs=1)
    assert "FullBatch: turned off: nothing. Left on: shuffling" in caplog.messages
    caplog.clear()
    with caplog.at_level(logging.INFO):
        fit(tmp_path, [FullBatch()], Plain(shuffle=False), None, max_epochs=1)
    assert "FullBatch: turned off: nothing" in caplog.messages


@pytest.mark.parametrize(
    ("options", "norm"),
    [({"limit_train_batches": 1}, False), ({"limit_train_batches": 0.5}, False), ({}, True)],
    ids=["one chunk", "half", "batch normalisation"],
)
def test_the_order_counts_where_not_all_images_are_seen_at_once(
    options: dict[str, Any], norm: bool, tmp_path: Path
) -> None:
    module = Plain()
    if norm:
        module.net = nn.Sequential(nn.BatchNorm1d(2), module.net)  # type: ignore[assignment]
    with pytest.warns(UserWarning, match=r"noisy here: shuffling. FullBatch cannot turn this off: change"):
        fit(tmp_path, [FullBatch()], module, None, max_epochs=1, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(tmp_path, [FullBatch()], Plain(), None, max_epochs=1, limit_train_batches=2)
