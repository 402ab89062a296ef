"""Kinds by their hooks: what steps return, and what is done at them."""

from typing import Any

from lightning.pytorch import LightningModule
from torch.optim import Optimizer

from tests.contracts.kinds.plain import NoSchedule


class NoneAtTimes(NoSchedule):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx == 1 and self.current_epoch == 1 else loss


class NoneAlways(NoSchedule):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        super().training_step(batch, batch_idx)


class Outputs(NoSchedule):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": super().training_step(batch, batch_idx), "other": "a text"}

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        super().validation_step(batch, batch_idx)
        return {"size": len(batch)}


class NoIndex(NoSchedule):
    def training_step(self, batch: Any) -> Any:  # type: ignore[override]
        return super().training_step(batch, 0)

    def validation_step(self, batch: Any) -> None:  # type: ignore[override]
        super().validation_step(batch, 0)

    def test_step(self, batch: Any) -> None:  # type: ignore[override]
        super().test_step(batch, 0)

    def predict_step(self, batch: Any) -> Any:  # type: ignore[override]
        return super().predict_step(batch, 0)


class LoaderIterator(NoSchedule):
    def training_step(self, dataloader_iter: Any) -> Any:  # type: ignore[override]
        batch, batch_idx, _ = next(dataloader_iter)
        return super().training_step(batch, batch_idx)

    def validation_step(self, dataloader_iter: Any) -> None:  # type: ignore[override]
        batch, batch_idx, _ = next(dataloader_iter)
        super().validation_step(batch, batch_idx)

    def test_step(self, dataloader_iter: Any) -> None:  # type: ignore[override]
        batch, batch_idx, _ = next(dataloader_iter)
        super().test_step(batch, batch_idx)

    def predict_step(self, dataloader_iter: Any) -> Any:  # type: ignore[override]
        batch, batch_idx, _ = next(dataloader_iter)
        return super().predict_step(batch, batch_idx)


class StopsEpochs(NoSchedule):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == 2 else None


class NoValidation(NoSchedule):
    validation_step = LightningModule.validation_step  # type: ignore[assignment]
    val_dataloader = LightningModule.val_dataloader  # type: ignore[assignment]


class NoClipping(NoSchedule):
    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        return


class OwnClipping(NoSchedule):
    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=0.5, gradient_clip_algorithm="value")


class OwnStep(NoSchedule):
    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (1 + self.trainer.global_step)
        optimizer.step(closure=optimizer_closure)


class ClosureFirst(NoSchedule):
    """Calls the closure itself, and steps at times."""

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        optimizer_closure()
        if batch_idx != 1:
            optimizer.step()


class OwnZero(NoSchedule):
    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        optimizer.zero_grad(set_to_none=False)
