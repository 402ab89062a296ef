"""What `ExactResume` says of a run that is resumed with other steps."""

import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from lightning_optreg.callbacks import BatchSizeGrowth, ExactResume
from lightning_optreg.callbacks.resume.progress.step_size import StepSize, warn_of_changes
from lightning_optreg.data.loader import BatchLoader
from tests.resume_tools import Regression, StatefulLoader
from tests.small_runs import quiet_trainer


def said(
    processes: tuple[int, int],
    before: StepSize,
    now: StepSize,
    *,
    loader: Any = None,
    mid_epoch: bool = False,
) -> list[str]:
    trainer: Any = SimpleNamespace(
        world_size=processes[1], train_dataloader=loader, strategy=None, global_rank=0
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_changes(trainer, processes[0], before, now, mid_epoch=mid_epoch)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("processes", "before", "now", "words"),
    [
        ((1, 1), (1, 128), (1, 128), []),
        ((1, 1), (1, None), (1, None), []),
        ((1, 1), (1, 128), (2, 64), []),  # as many images in two batches
        ((2, 1), (1, 128), (1, 128), ["from 2 .*, this run has 1, so layers"]),
        ((2, 1), (1, 128), (2, 64), ["so layers"]),
        (
            (1, 1),
            (1, 128),
            (1, 64),
            ["takes 64 images .* instead of 128: .* batch size of a process to 128\\."],
        ),
        (
            (1, 1),
            (1, 128),
            (2, 128),
            ["takes 256 images .* instead of 128: .* batch size of a process to 64\\."],
        ),
        ((1, 1), (1, 9), (2, 9), ["takes 18 images .* instead of 9: no batch size gives the same"]),
        ((2, 1), (1, 128), (1, 64), ["so layers .* other numbers; a step takes 64 .* a process to 128\\."]),
        ((2, 4), (1, 128), (1, 256), ["from 2 .* has 4, .*; a step takes 256 .* a process to 32\\."]),
        (
            (2, 1),
            (1, None),
            (1, None),
            ["so layers .*; a step takes 1 x 1 batches .* instead of 2 x 1: for the same"],
        ),
        (
            (1, 1),
            (1, None),
            (2, None),
            ["^ExactResume: a step takes 1 x 2 batches .* instead of 1 x 1: for the same"],
        ),
        ((1, 1), (1, None), (1, 64), []),  # a loader that did not tell
    ],
)
def test_one_sentence_says_what_changes(
    processes: tuple[int, int],
    before: tuple[int, int | None],
    now: tuple[int, int | None],
    words: list[str],
) -> None:
    sentences = said(processes, StepSize(*before), StepSize(*now))
    assert len(sentences) == len(words)
    for sentence, pattern in zip(sentences, words, strict=True):
        assert sentence.startswith("ExactResume: ")
        assert re.search(pattern, sentence), sentence


IMAGES = torch.zeros(24, 1, 2, 2, dtype=torch.uint8)


def test_in_mid_epoch_this_packages_loader_refuses_other_batches_itself() -> None:
    loader = BatchLoader(IMAGES, torch.zeros(24, dtype=torch.int64), batch_size=8, shuffle=True, seed=0)
    for mid_epoch, sentences in ((False, 1), (True, 0)):
        assert (
            len(said((1, 1), StepSize(1, 16), StepSize(1, 8), loader=loader, mid_epoch=mid_epoch))
            == sentences
        )
    # which has no eye for accumulation
    assert len(said((1, 1), StepSize(1, 8), StepSize(2, 8), loader=loader, mid_epoch=True)) == 1


def fit(
    folder: Path,
    *,
    ckpt_path: Path | None = None,
    loader: Any = None,
    callbacks: list[Callback] | None = None,
    epochs: int = 2,
    **options: Any,
) -> list[str]:
    """Train, and return what `ExactResume` says."""
    if loader is None:
        data = StatefulLoader()
        loader = DataLoader(TensorDataset(data.x, data.y), batch_size=options.pop("batch_size", 4))
    saver = ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
    trainer = quiet_trainer(
        enable_checkpointing=True,
        max_epochs=epochs,
        callbacks=[ExactResume(), *(callbacks or []), saver],
        default_root_dir=folder,
        **options,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(Regression(), loader, ckpt_path=ckpt_path)
    return [str(warning.message) for warning in caught if "ExactResume" in str(warning.message)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, []),
        ({"batch_size": 2}, ["a step takes 2 images over all processes instead of 4: .* a process to 4"]),
        ({"batch_size": 2, "accumulate_grad_batches": 2}, []),
        ({"accumulate_grad_batches": 2}, ["a step takes 8 images over all processes instead of 4"]),
        ({"loader": StatefulLoader()}, []),  # it tells no batch size
    ],
    ids=["as before", "smaller", "smaller, accumulated", "accumulated", "unknown"],
)
def test_at_an_epochs_end_other_steps_are_told(
    options: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    seed_everything(1, verbose=False)
    fit(tmp_path, epochs=1)
    sentences = fit(tmp_path, ckpt_path=tmp_path / "epoch=0.ckpt", **options)
    assert len(sentences) == len(words)
    for sentence, pattern in zip(sentences, words, strict=True):
        assert re.search(pattern, sentence), sentence


@pytest.mark.parametrize("epoch", [0, 1])
def test_batches_that_a_callback_lets_grow_are_as_they_were(epoch: int, tmp_path: Path) -> None:
    def growth() -> BatchSizeGrowth:
        return BatchSizeGrowth([1, 2], factor=2)

    assert fit(tmp_path, callbacks=[growth()], epochs=3) == []
    assert fit(tmp_path, ckpt_path=tmp_path / f"epoch={epoch}.ckpt", callbacks=[growth()], epochs=3) == []
