"""Checkpoints that lack what `ExactResume` keeps today are gone on from, and a sentence says what is lost."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_optreg.callbacks import ExactResume
from tests.resume_tools import Regression, SaveAlways, StatefulLoader, spoil_random_state
from tests.small_runs import quiet_trainer


def fit(folder: Path, callbacks: list[Any], ckpt_path: Path | None = None) -> list[str]:
    trainer = quiet_trainer(
        max_epochs=2,
        callbacks=callbacks,
        enable_checkpointing=any(isinstance(each, SaveAlways) for each in callbacks),
        default_root_dir=folder,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(Regression("plateau_epoch"), StatefulLoader(), StatefulLoader(2), ckpt_path=ckpt_path)
    assert trainer.current_epoch == 2
    return [str(each.message) for each in caught if "ExactResume" in str(each.message)]


def as_first_written(state: dict[str, Any]) -> dict[str, Any]:
    """Give a state the form that the first version with several processes wrote."""
    gradients = {name: tensors[0] for name, tensors in state["gradients"].items()}
    rank = state["ranks"][0]
    return {
        "next": state["next"],
        "callback_metrics": state["shown"]["callback_metrics"],
        "epoch_means": [],
        "pending_log": state["pending_log"],
        "plateau_steps_due": state["plateau_steps_due"],
        "ranks": [
            {
                "random": rank["random"],
                "sums": {name: one.get("states", {}) for name, one in rank["sums"].items()},
                "metrics": {name: one["states"] for name, one in rank["metrics"].items()},
                "gradients": gradients,
            }
        ],
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    saver = SaveAlways(tmp_path_factory.mktemp("saved"))
    fit(saver.folder, [ExactResume(), saver])
    return {"batch": list(saver.paths.values())[1], "epoch": list(saver.paths.values())[7]}


@pytest.mark.parametrize("moment", ["batch", "epoch"])
def test_of_an_earlier_version(moment: str, saved: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = torch.load(saved[moment], weights_only=True)
    checkpoint["callbacks"]["ExactResume"] = as_first_written(checkpoint["callbacks"]["ExactResume"])
    path = tmp_path / "older.ckpt"
    torch.save(checkpoint, path)
    spoil_random_state()
    said = fit(tmp_path, [ExactResume()], path)
    assert len(said) == 1, said
    assert "by an earlier version, without which parameters are frozen, generators" in said[0]
    assert ("means of values logged so far" in said[0]) == (moment == "batch")


def test_without_it(saved: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = torch.load(saved["batch"], weights_only=True)
    del checkpoint["callbacks"]["ExactResume"]
    path = tmp_path / "without.ckpt"
    torch.save(checkpoint, path)
    said = fit(tmp_path, [ExactResume()], path)
    assert len(said) == 1
    assert "was saved without ExactResume" in said[0]


def test_two_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a trainer can have only one of them; remove the others"):
        fit(tmp_path, [ExactResume(), ExactResume()])
