"""Two gloo processes: a stopped and resumed run equals one that never stopped, on each rank."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lightning_optreg.callbacks import ExactResume
from lightning_optreg.data.loader import Batch, BatchLoader
from tests.resume_tools import assert_identical, final_state

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_gloo_available(), reason="this build of torch has no gloo"
)


class Noisy(LightningModule):
    """Dropout draws from each rank's own global generator."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))

    def train_dataloader(self) -> BatchLoader:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (36, 1, 4, 4), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, 3, (36,), generator=generator)
        return BatchLoader(
            images,
            labels,
            batch_size=3,
            shuffle=True,
            seed=3,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        loss = nn.functional.cross_entropy(self.net(batch.images / 255), batch.labels)
        self.log("loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(batch.images))
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "loss"}}


class WriteResult(Callback):
    """Children of a fork can only leave files."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        state = final_state(trainer, pl_module)
        state["loss"] = trainer.callback_metrics["loss"]
        torch.save(state, self.folder / f"{self.name}-{trainer.global_rank}.pt")


def fit(
    folder: Path, name: str, ckpt_path: Path | None = None, save: bool = False, **options: Any
) -> list[Any]:
    seed_everything(5 if ckpt_path is None else 77, verbose=False)
    callbacks: list[Callback] = [ExactResume(), WriteResult(folder, name)]
    if save:
        callbacks.append(
            ModelCheckpoint(folder / "all", "{step}", every_n_train_steps=1, save_top_k=-1, save_last=False)
        )
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        strategy="ddp_fork",
        devices=2,
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=save,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )
    trainer.fit(Noisy(), ckpt_path=ckpt_path)
    return [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
@pytest.mark.parametrize(("accumulate", "steps"), [(1, [1, 6, 8, 18]), (4, [2])])
def test_two_processes_resume_exactly(accumulate: int, steps: list[int], tmp_path: Path) -> None:
    straight = fit(tmp_path, "straight", save=True, accumulate_grad_batches=accumulate)
    assert_identical(straight[0], straight[1])
    for step in steps:
        path = tmp_path / "all" / f"step={step}.ckpt"
        resumed = fit(tmp_path, f"from_{step}", path, accumulate_grad_batches=accumulate)
        assert_identical(straight, resumed, f"step {step}: ")
