"""What is done after all other callbacks, at the start of training and after an exception."""

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from typing_extensions import override

from lightning_optreg.trainer.order_of_callbacks import AfterOthers, put_last, take_out

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
]


class First(Callback):
    """Stands first, and has something done after the others."""

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls
        self.start = AfterOthers("on_train_start", lambda trainer, module: calls.append("after start"))
        self.end = AfterOthers("on_exception", lambda trainer, module: calls.append("after exception"))

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for callback in (self.start, self.end):
            put_last(trainer, callback)
            put_last(trainer, callback)  # once, however often


class Second(Callback):
    """Ends the run with an exception in its first batch."""

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.calls.append("start")

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        raise ValueError("in the middle")

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.calls.append("exception")


def test_it_is_done_after_the_others_and_at_its_hook_only() -> None:
    calls: list[str] = []
    first = First(calls)
    trainer = Trainer(
        max_steps=2,
        accelerator="cpu",
        logger=False,
        callbacks=[first, Second(calls)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with pytest.raises(ValueError, match="in the middle"):
        trainer.fit(BoringModel())
    assert calls == ["start", "after start", "exception", "after exception"]
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    assert callbacks[-2:] == [first.start, first.end]
    take_out(trainer, first.start)
    take_out(trainer, first.start)
    assert first.start not in callbacks
