"""With every kind of loader a resume is exact, or says in one sentence what is not."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import Tensor

from lightning_optreg.callbacks import ExactResume
from lightning_optreg.data.batch import Batch
from tests.contracts.loaders import LOADERS, Loaders
from tests.resume_tools import (
    Regression,
    SaveAlways,
    StatefulLoader,
    assert_identical,
    final_state,
    spoil_random_state,
)
from tests.small_runs import Diary, quiet_trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:Your `val_dataloader`'s sampler has shuffling enabled"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),  # torchdata 0.11 to torch 2.14
    # said after the last of max_steps
    pytest.mark.filterwarnings("ignore:ExactResume. the checkpoint was saved at the run's last step"),
]


class Drawing(Regression):
    """Draws random numbers in many a hook, from generators of its own too."""

    def __init__(self, asks: bool) -> None:
        super().__init__("cosine_step", asks=asks)
        self.generator = torch.Generator().manual_seed(1)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if isinstance(batch, Batch):
            return [batch.images.float().mean((2, 3)) / 255, batch.labels.float()[:, None] / 24]
        return batch

    def on_train_start(self) -> None:
        torch.rand(1)

    def on_train_epoch_start(self) -> None:
        self.log("drawn", torch.rand(1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        noise = torch.rand(1, generator=self.generator)
        return super().training_step([batch[0] + 0.1 * noise, batch[1]], batch_idx)


def fit(
    folder: Path,
    loaders: Loaders,
    asks: bool,
    callbacks: list[Callback],
    ckpt_path: Path | None = None,
    **options: Any,
) -> tuple[dict[str, Any], dict[tuple[int, str], float]]:
    diary = Diary()
    trainer = quiet_trainer(
        logger=diary,
        callbacks=[ExactResume(), *callbacks],
        enable_checkpointing=bool(callbacks),
        default_root_dir=folder,
        **{"max_epochs": 3, **options},
    )
    seed_everything(1, verbose=False)
    module = Drawing(asks)
    val = StatefulLoader(2) if loaders.val is None else loaders.val()
    train = loaders.train()
    if ckpt_path is not None:
        spoil_random_state()
    trainer.fit(module, train, val, ckpt_path=ckpt_path)
    return final_state(trainer, module), diary.values


def resume(said: str | None, *arguments: Any, **options: Any) -> Any:
    """Resume, and see that what is not exact is said, once, and nothing else is."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = fit(*arguments, **options)
    sentences = [str(each.message) for each in caught if "the resumed run will differ" in str(each.message)]
    if said is None:
        assert not sentences
    else:
        assert [sentence for sentence in sentences if re.search(said, sentence)], sentences
        assert len(sentences) == len(set(sentences))
    return result


class SaveSometimes(SaveAlways):
    """Save at one of each kind of moment in the first epoch, and at the run's last ones."""

    def _save(self, trainer: Trainer, moment: str) -> None:
        if trainer.global_step in (2, 4, 6, 12):
            super()._save(trainer, moment)


CHECKS = {
    "by epochs": {"max_epochs": 2},
    "by steps": {"max_epochs": -1, "max_steps": 12},
    "validation in mid-epoch": {"max_epochs": 2, "val_check_interval": 4},
}


def is_fast(name: str, check: str, asks: bool) -> bool:
    """Whether it is no slow test: the most usual kinds, each with or without asking."""
    if check == "by epochs":
        return name in (("ours", "stream") if asks else ("shuffled", "persistent workers"))
    return check == "validation in mid-epoch" and asks and name == "ours"


CASES = [
    pytest.param(
        name,
        options,
        asks,
        id=f"{name}, {check}{', size asked for' * asks}",
        marks=[] if is_fast(name, check, asks) else pytest.mark.slow,
    )
    for name in LOADERS
    for check, options in CHECKS.items()
    for asks in (False, True)
]


@pytest.mark.parametrize(("name", "options", "asks"), CASES)
def test_a_resume_is_exact_or_says_what_is_not(
    name: str, options: dict[str, Any], asks: bool, tmp_path: Path
) -> None:
    loaders = LOADERS[name]
    if name == "stream" and "val_check_interval" in options:
        options = {**options, "val_check_interval": 1.0}  # Lightning takes no other without a length
    saver = SaveSometimes(tmp_path / "all")
    straight, logged = fit(tmp_path, loaders, asks, [saver], **options)
    assert len(saver.paths) >= 7
    for moment, path in saver.paths.items():
        _, kind, _, step = moment.split("-")
        mid_epoch = int(step) % 6 != 0
        is_over = moment.endswith("epoch-1-12") or ("max_steps" in options and step == "12")
        said = None if is_over else loaders.always or (loaders.mid_epoch if mid_epoch else None)
        resumed, logged_after = resume(said, tmp_path, loaders, asks, [], path, **options)
        if mid_epoch and loaders.mid_epoch is not None:
            continue
        assert_identical(straight, resumed, f"{moment}: ")
        for key, value in logged_after.items():
            assert logged[key] == value, f"{moment}: {key} was {logged[key]}, is {value}"
        if "max_steps" in options and step == "12" and kind != "epoch":
            continue  # Lightning ends such a run at once, and a sentence says what that leaves out
        missing = logged.keys() - saver.logged[moment] - logged_after.keys()
        assert not missing, f"{moment}: {sorted(missing)}"
