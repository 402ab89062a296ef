"""Whatever a module does in its hooks, a resume from any checkpoint of its run is exact."""

import copy
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch.utils.data import DataLoader, TensorDataset, random_split

from lightning_optreg.callbacks import ExactResume
from tests.contracts.modules import MODULES, Plain
from tests.resume_tools import SaveAlways, StatefulLoader, assert_identical, final_state, spoil_random_state
from tests.small_runs import Diary, quiet_trainer

pytestmark = [
    # said where a schedule waits for it
    pytest.mark.filterwarnings("ignore:ReduceLROnPlateau conditioned on metric rare which is not available"),
    # said of modules whose layers are in evaluation mode on purpose
    pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode at the start of training"),
]


class Rows(Diary):
    """Keeps rows as they come."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, {name: float(value) for name, value in metrics.items()}))


class SaveBetween(SaveAlways):
    """Save in two epochs after some batches, after validations, and at their ends."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.rows: dict[str, int] = {}

    def _save(self, trainer: Trainer, moment: str) -> None:
        if trainer.current_epoch == 2 or (moment == "batch" and trainer.fit_loop.batch_idx not in (1, 2)):
            return
        super()._save(trainer, moment)
        self.rows[list(self.paths)[-1]] = len(trainer.logger.rows)  # type: ignore[union-attr]


def fit(
    folder: Path, name: str, callbacks: list[Callback], ckpt_path: Path | None = None
) -> tuple[dict[str, Any], list[Any]]:
    seed_everything(1, verbose=False)
    options = MODULES[name]()
    module = options.pop("module")
    train, val = options.pop("train", None) or StatefulLoader(), StatefulLoader(2)
    own = options.pop("callbacks", [])
    resume = [ExactResume(), *own] if options.pop("first", True) else [*own, ExactResume()]
    logger = Rows()
    trainer = quiet_trainer(
        logger=logger,
        callbacks=[*resume, *callbacks],
        enable_checkpointing=bool(callbacks),
        default_root_dir=folder,
        **{"max_epochs": 3, **options},
    )
    if ckpt_path is not None:
        spoil_random_state()
    trainer.fit(module, train, val, ckpt_path=ckpt_path)
    state = {
        **final_state(trainer, module),
        "buffers": dict(module.named_buffers()),
        "free": {key: each.requires_grad for key, each in module.named_parameters()},
        "callbacks": copy.deepcopy([each.state_dict() for each in own]),
    }
    return state, logger.rows


SLOW = (
    "let go by layer",
    "frozen at first",
    "logs everywhere",
    "remembers",
    "waits for a value",
    "logs no steps",
    "a callback before",
    "counts",
    "growing window",
    "stopped at an epoch's end",
)
CASES = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in MODULES]


@pytest.mark.parametrize("name", CASES)
def test_a_resume_continues_any_module_exactly(name: str, tmp_path: Path) -> None:
    saver = SaveBetween(tmp_path / "all")
    straight, rows = fit(tmp_path, name, [saver])
    assert len(saver.paths) >= 2
    for moment, path in saver.paths.items():
        resumed, rows_after = fit(tmp_path, name, [], path)
        assert_identical(straight, resumed, f"{moment}: ")
        assert_identical(rows[saver.rows[moment] :], rows_after, f"{moment}: rows")


class Splits(Plain):
    """Splits its data as it makes its loader, from the global generator."""

    def __init__(self, asks: bool) -> None:
        super().__init__()
        self.asks = asks

    def train_dataloader(self) -> DataLoader[Any]:
        data = StatefulLoader()
        part, _ = random_split(TensorDataset(data.x, data.y), [16, 8])
        return DataLoader(part, batch_size=4, shuffle=True)

    def val_dataloader(self) -> StatefulLoader:
        return StatefulLoader(2)

    def configure_optimizers(self) -> Any:
        if self.asks:
            assert self.trainer.estimated_stepping_batches == 8
        return super().configure_optimizers()


@pytest.mark.parametrize("asks", [False, True])
def test_a_split_is_the_same_again_or_a_sentence_says_otherwise(asks: bool, tmp_path: Path) -> None:
    def fit(callbacks: list[Callback], ckpt_path: Path | None = None) -> dict[str, Any]:
        trainer = quiet_trainer(
            max_epochs=2, callbacks=[ExactResume(), *callbacks], default_root_dir=tmp_path
        )
        seed_everything(1, verbose=False)
        module = Splits(asks)
        if ckpt_path is not None:
            spoil_random_state()
        trainer.fit(module, ckpt_path=ckpt_path)
        return final_state(trainer, module)

    class Save(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            trainer.save_checkpoint(tmp_path / f"{trainer.current_epoch}.ckpt")

    straight = fit([Save()])
    if asks:
        with pytest.warns(UserWarning, match="give random_split a generator with a fixed seed"):
            fit([], tmp_path / "0.ckpt")
    else:
        assert_identical(straight, fit([], tmp_path / "0.ckpt"))
