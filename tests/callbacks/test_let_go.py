"""What a callback changes for the time of a run is put back however the run ends."""

import pytest
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from typing_extensions import override

from lightning_optreg.callbacks._let_go import LetsGo

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
]


class Holds(LetsGo):
    """Holds on to the module while a run lasts."""

    def __init__(self, stop: bool) -> None:
        self.stop = stop
        self.held: LightningModule | None = None
        self.calls: list[tuple[Trainer, LightningModule]] = []

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.held = pl_module
        if self.stop:
            raise ValueError("in the middle")

    @override
    def let_go(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.held = None
        self.calls.append((trainer, pl_module))


@pytest.mark.parametrize("stop", [False, True])
def test_a_callback_lets_go_once_however_a_fit_ends(stop: bool) -> None:
    holds, module = Holds(stop), BoringModel()
    trainer = Trainer(
        max_steps=1,
        limit_val_batches=0,
        accelerator="cpu",
        logger=False,
        callbacks=[holds],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    if stop:
        with pytest.raises(ValueError, match="in the middle"):
            trainer.fit(module)
    else:
        trainer.fit(module)
    assert holds.held is None
    assert holds.calls == [(trainer, module)]
