"""Short runs of the table's callbacks under any strategy, which says itself who gets which batches."""

import os
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

from lightning_optreg.callbacks import ExactResume
from lightning_optreg.randomness.processes import share_of
from tests.contracts.part import Part
from tests.contracts.parts import CALLBACKS
from tests.contracts.runs import checkpoint_every_step
from tests.resume_tools import (
    Regression,
    StatefulLoader,
    assert_identical,
    callback_states,
    final_state,
    spoil_random_state,
)
from tests.small_runs import quiet_trainer

__all__ = ["Dealt", "Shared", "fit", "plain", "processes_with"]


class Dealt(StatefulLoader):
    """A worker's loader: each worker has samples of its own, and as many."""

    def __init__(self, rank: int, world_size: int) -> None:
        super().__init__(6, images=True, rank=rank)
        self.rank, self.world_size = rank, world_size


class Shared(Regression):
    """A module that brings its loaders, and has its loss as a method, as pipelines need it.

    Args:
        part: The row of the callback, for what it needs.
        draws: Whether there is dropout.
    """

    def __init__(self, part: Part, *, draws: bool = True) -> None:
        super().__init__(
            "none" if "no schedule" in part.needs else "cosine_step",
            adam="Adam" in part.needs,
            whitened="whitened layers" in part.needs,
        )
        if not draws:
            self.net[3] = nn.Identity()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, targets)

    def train_dataloader(self) -> Any:
        return Dealt(*share_of(self.trainer))

    def val_dataloader(self) -> Any:
        return StatefulLoader(2, images=True)


def fit(
    name: str,
    folder: Path,
    strategy: Any = "auto",
    *,
    devices: int = 1,
    every: int = 3,
    start: int | None = None,
    draws: bool = True,
) -> tuple[dict[str, Any], Trainer]:
    """Train two epochs with a row's callback, and return what the run ended with, or why it was refused.

    Args:
        name: Of the row.
        folder: For checkpoints: `step=3.ckpt` and so on, and `end-None.ckpt`, or `end-3.ckpt` of a run that
            began at step 3.
        strategy: The strategy.
        devices: Of the trainer.
        every: Steps between two checkpoints.
        start: Step of the checkpoint of an earlier run to begin from.
        draws: As of `Shared`.
    """
    part = CALLBACKS[name]
    callbacks = [*([] if name == "ExactResume" else [ExactResume()]), part.build()]
    if start is None:
        seed_everything(1, verbose=False)
        callbacks.append(checkpoint_every_step(folder, every))
    else:
        spoil_random_state()
    trainer = quiet_trainer(
        strategy=strategy,
        devices=devices,
        max_epochs=2,
        logger=TensorBoardLogger(folder) if name == "Histograms" else False,
        callbacks=callbacks,
        enable_checkpointing=start is None,
        default_root_dir=folder,
    )
    module = Shared(part, draws=draws)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    try:
        trainer.fit(module, ckpt_path=None if start is None else folder / f"step={start}.ckpt")
    except MisconfigurationException as error:
        here = {key: value for key, value in module.state_dict().items() if not value.is_meta}
        assert_identical({key: before[key] for key in here}, here, "refused late")
        assert trainer.global_step == 0, "refused late"
        return {"refused": str(error)}, trainer
    folder.mkdir(parents=True, exist_ok=True)
    trainer.save_checkpoint(folder / f"end-{start}.ckpt")
    state = {
        **final_state(trainer, module),
        "began": before,
        "parameters": [key for key, _ in module.named_parameters()],
        "callbacks": {key: state for key, state in callback_states(trainer).items() if state},
        "metrics": {key: float(value) for key, value in trainer.callback_metrics.items()},
        "step": trainer.global_step,
    }
    return state, trainer


@cache
def plain(name: str, *, draws: bool = True) -> dict[str, Any]:
    """What a run of a row's callback in one process ends with, without a strategy."""
    with TemporaryDirectory() as folder:
        return fit(name, Path(folder), draws=draws)[0]


def processes_with(title: str) -> list[str]:
    """Return the titles of this process's descendants that contain a word."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status, line = (folder / "stat").read_text(), (folder / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(folder.name)] = int(status.rpartition(")")[2].split()[1])
        titles[int(folder.name)] = line.replace(b"\0", b" ").decode().strip()

    def ours(process: int) -> bool:
        while process in parents:
            process = parents[process]
            if process == os.getpid():
                return True
        return False

    return [text for process, text in titles.items() if title in text and ours(process)]
