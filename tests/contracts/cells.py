"""One cell of the tables: callbacks in a kind of module, through fit, validate, test and predict."""

import copy
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from tests.contracts.kinds import Kind
from tests.resume_tools import assert_identical
from tests.small_runs import ACCELERATOR

__all__ = ["Outcome", "ignore_advice", "run_cell"]

REFUSALS = (MisconfigurationException, ValueError, TypeError)


@dataclass
class Outcome:
    """What a cell came to.

    Attributes:
        refusals: By stage, the sentence that refused it.
        metrics: By stage, what was logged.
        steps: Optimizer steps of the fit.
        weights: At its end.
        trainer: That of all stages.
    """

    refusals: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    steps: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    trainer: Trainer | None = None


class Watch(Callback):
    """Counts the batches of a stage that came to their end."""

    def __init__(self) -> None:
        self.batches = 0

    def count(self, *args: Any, **kwargs: Any) -> None:
        self.batches += 1

    on_train_batch_end = on_validation_batch_end = on_test_batch_end = on_predict_batch_end = count

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.batches = 0


def run_cell(
    folder: Path,
    kind: Kind,
    make: Callable[[], Sequence[Callback]],
    *,
    options: dict[str, Any] | None = None,
    around: Callable[[LightningModule], Sequence[Callback]] = lambda module: [],
    stages: Sequence[str] = (),
) -> Outcome:
    """Run a cell, and see that each stage works or is refused in one sentence before its first step.

    Args:
        folder: Of the run.
        kind: The kind of module.
        make: Makes the callbacks.
        options: Of the trainer.
        around: Makes callbacks of Lightning's that are there too.
        stages: Which to run. Empty: the kind's.
    """
    seed_everything(1, verbose=False)
    outcome, watch, module = Outcome(), Watch(), kind.build()
    others = list(around(module))
    try:
        callbacks = list(make())
        names = {type(callback).__name__ for callback in callbacks}
        logs, module.told = "Histograms" in names, "Curriculum" in names
        for callback in callbacks:
            if getattr(callback, "monitor", None) == "val_loss":
                callback.monitor = kind.monitor  # type: ignore[attr-defined]  # it has one
        settings = {
            "accelerator": ACCELERATOR,
            "logger": TensorBoardLogger(folder) if logs else False,
            "max_epochs": 2,
            "log_every_n_steps": 1,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": folder,
            **kind.options,
            **(options or {}),
        }
        if settings.get("barebones"):
            for name in ("logger", "log_every_n_steps", "enable_checkpointing"):
                settings.pop(name)
        trainer = Trainer(callbacks=[*others, *callbacks, watch], **settings)
    except REFUSALS as error:
        outcome.refusals["construction"] = sentence(error)
        return outcome
    outcome.trainer = trainer
    limits = [trainer.limit_train_batches]
    if not any(isinstance(other, GradientAccumulationScheduler) for other in others):
        limits.append(trainer.accumulate_grad_batches)
    for stage in stages or kind.stages:
        before = copy.deepcopy(dict(module.state_dict()))
        traces = footprint(module)
        watch.batches = 0
        try:
            run_stage(trainer, module, stage)
        except REFUSALS as error:
            text = sentence(error)
            assert text.split(":")[0] in names, f"{stage} fails: {text}"
            assert watch.batches == 0, f"{stage} is refused late: {text}"
            now = module.state_dict()  # in the trainer's precision
            before = {name: weight.to(now[name].dtype) for name, weight in before.items()}
            assert_identical(before, {name: now[name] for name in before}, f"{stage} is refused late: ")
            outcome.refusals[stage] = text
        else:
            values = {name: float(value) for name, value in trainer.callback_metrics.items()}
            wrong = [name for name, value in values.items() if not torch.tensor(value).isfinite()]
            assert not wrong, f"{stage}: not finite: {wrong}"
            outcome.metrics[stage] = values
        if stage == "fit":
            outcome.steps = trainer.global_step
            outcome.weights = copy.deepcopy(dict(module.state_dict()))
            infinite = [n for n, w in outcome.weights.items() if not w.isfinite().all()]
            assert not infinite, f"not finite: {infinite}"
        left = {name: found for name, found in footprint(module).items() if found != traces.get(name, found)}
        assert not left, f"{stage} leaves behind: {left}"
        assert limits == [trainer.limit_train_batches, trainer.accumulate_grad_batches][: len(limits)]
    return outcome


def run_stage(trainer: Trainer, module: LightningModule, stage: str) -> None:
    if stage == "fit":
        handler = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(module)
        except SystemExit:  # after Ctrl+C
            assert trainer.interrupted
        finally:
            signal.signal(signal.SIGINT, handler)
        return
    keywords: dict[str, Any] = {} if stage == "predict" else {"verbose": False}
    getattr(trainer, stage)(module, **keywords)


def sentence(error: BaseException) -> str:
    """The text of a refusal, which has to be one sentence."""
    text = str(error)
    assert text, "a refusal without a word"
    assert "\n" not in text, text
    return text


def footprint(module: LightningModule) -> dict[str, Any]:
    """What callbacks could leave behind: hooks on layers, and attributes in place of methods."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    hooks: dict[str, Any] = {
        f"{name}.{kind}": len(getattr(each, kind)) for name, each in module.named_modules() for kind in kinds
    }
    replaced = sorted(name for name in vars(module) if callable(getattr(type(module), name, None)))
    return {**hooks, "methods": replaced}


ignore_advice = pytest.mark.filterwarnings("ignore")
"""Lightning and torch have advice on most kinds and modes; what matters here is what happens."""
