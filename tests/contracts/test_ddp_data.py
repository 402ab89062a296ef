"""Two processes train as one does: the same images in the same form, so the same weights and metrics."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

from lightning_optreg import ImageClassifier
from lightning_optreg.callbacks import ExactResume
from lightning_optreg.data import FashionMNISTDataModule, PCAColorJitter, RandomCrop, RandomHorizontalFlip
from lightning_optreg.nets import LeNet5
from tests.processes import needs_gloo
from tests.small_runs import quiet_trainer

pytestmark = needs_gloo


class Witness(Callback):
    """Write down which images came, and what a fit and a test ended with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[list[int]] = [[]]
        self.metrics: dict[str, float] = {}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loader: Any = trainer.train_dataloader
        if trainer.current_epoch == 0:
            fetch = loader._fetch

            def noting(share: Any, first: int) -> Any:
                for batch in fetch(share, first):
                    self.seen[-1] += batch.index.tolist()
                    yield batch

            loader._fetch = noting
        else:
            self.seen.append([])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.metrics.update({name: value.item() for name, value in trainer.callback_metrics.items()})

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        state = {"weights": pl_module.state_dict(), "metrics": metrics, "seen": self.seen}
        torch.save(state, self.folder / f"fit-{trainer.global_rank}.pt")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        torch.save(metrics, self.folder / f"test-{trainer.global_rank}.pt")


def fit_and_test(folder: Path, data: Path, processes: int) -> tuple[list[Any], list[Any]]:
    folder.mkdir()
    seed_everything(3, verbose=False)
    module = ImageClassifier(
        LeNet5(), optimizer=lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9)
    )
    datamodule = FashionMNISTDataModule(
        data_dir=str(data),
        verify_checksum=False,
        batch_size=64 // processes,
        augment=[RandomCrop(padding=2), RandomHorizontalFlip(), PCAColorJitter()],
    )
    trainer = quiet_trainer(
        log_every_n_steps=50,  # a step's loss is each process's own
        max_epochs=2,
        devices=processes,
        strategy="ddp_fork" if processes > 1 else "auto",
        callbacks=[ExactResume(), Witness(folder)],
        default_root_dir=folder,
    )
    trainer.fit(module, datamodule)
    trainer.test(module, datamodule, verbose=False)
    ranks = range(processes)
    fits = [torch.load(folder / f"fit-{rank}.pt", weights_only=True) for rank in ranks]
    tests = [torch.load(folder / f"test-{rank}.pt", weights_only=True) for rank in ranks]
    return fits, tests


def test_two_processes_equal_one_with_the_same_global_batch(fashion_mnist_dir: Path, tmp_path: Path) -> None:
    (one,), (test_one,) = fit_and_test(tmp_path / "one", fashion_mnist_dir, 1)
    two, tests_two = fit_and_test(tmp_path / "two", fashion_mnist_dir, 2)
    for epoch in range(2):
        together = sorted(two[0]["seen"][epoch] + two[1]["seen"][epoch])
        assert together == sorted(one["seen"][epoch]), f"epoch {epoch}"
        assert len(set(together)) == len(together) == 540
    for fit, test in zip(two, tests_two, strict=True):
        for name, value in one["weights"].items():
            torch.testing.assert_close(fit["weights"][name], value, rtol=1e-4, atol=1e-5, msg=name)
        assert fit["metrics"].keys() == one["metrics"].keys()
        for name, value in one["metrics"].items():
            assert fit["metrics"][name] == pytest.approx(value, rel=1e-4), name
        for name, value in test_one.items():
            assert test[name] == pytest.approx(value, rel=1e-4), name
