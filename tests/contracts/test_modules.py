"""Whatever a module does in its hooks, a resume from any checkpoint of its run is exact."""

import copy
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer, seed_everything

from lightning_optreg.callbacks import ExactResume
from tests.callbacks.test_exact_resume import SaveAlways
from tests.contracts.modules import MODULES
from tests.resume_tools import Diary, StatefulLoader, assert_identical, final_state, spoil_random_state

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
    trainer = Trainer(
        accelerator="cpu",
        logger=logger,
        callbacks=[*resume, *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(callbacks),
        default_root_dir=folder,
        **{"max_epochs": 3, "log_every_n_steps": 1, **options},
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


@pytest.mark.parametrize("name", MODULES)
def test_a_resume_continues_any_module_exactly(name: str, tmp_path: Path) -> None:
    saver = SaveBetween(tmp_path / "all")
    straight, rows = fit(tmp_path, name, [saver])
    assert len(saver.paths) >= 2
    for moment, path in saver.paths.items():
        resumed, rows_after = fit(tmp_path, name, [], path)
        assert_identical(straight, resumed, f"{moment}: ")
        assert_identical(rows[saver.rows[moment] :], rows_after, f"{moment}: rows")
