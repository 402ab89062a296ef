"""One run of a study: `fit` with the study's settings, then `test`, and a record of what came out."""

import logging
import math
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_optreg.cli.main_cli import run as run_command
from lightning_optreg.figures import read_metric
from lightning_optreg.studies.budget import Budget
from lightning_optreg.studies.records import Point, RunRecord
from lightning_optreg.studies.specification import Run, Specification

__all__ = ["do_run"]

_PASSES, _SECONDS = "optreg/budget/passes", "optreg/budget/seconds"


class _SignOfLife(Callback):
    """Calls a function after each epoch."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.call()


def do_run(
    specification: Specification, run: Run, folder: Path, sign_of_life: Callable[[], None] = lambda: None
) -> RunRecord:
    """Do a run, or go on with it from its last checkpoint.

    Args:
        specification: The study.
        run: Which of its runs.
        folder: The run's own folder, for its configuration, metrics and checkpoint.
        sign_of_life: Called after each epoch.

    Returns:
        Its record. A run that fails for a reason that a user can mend, such as settings that don't fit, is
        recorded as failed; other exceptions are bugs and are raised.
    """
    settings = specification.settings(run)
    trainer = settings.setdefault("trainer", {})
    own = [part for part in trainer.pop("callbacks", []) + trainer.pop("callbacks+", []) if part]
    trainer["callbacks"] = [
        {"class_path": "lightning_optreg.callbacks.ExactResume"},
        *own,
        {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {"filename": "last", "enable_version_counter": False},
        },
    ]
    trainer.update(
        default_root_dir=str(folder), enable_progress_bar=False, enable_model_summary=False, logger=None
    )
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "run.yaml"
    configuration.write_text(yaml.safe_dump(settings, sort_keys=False))
    command = ["fit", "--config", str(configuration)]
    if any(folder.glob("version_*/checkpoints/last.ckpt")):
        command += ["--ckpt_path", "last"]
    budget = Budget(specification.epochs)
    try:
        with _quietly():
            cli = run_command(command, [budget, _SignOfLife(sign_of_life)])
            points = _points(cli.run_folder / "metrics.csv")
            if budget.diverged or not _is_finite(points):
                return RunRecord(*run, "diverged", points, {})
            cli.trainer.logger = None  # the table of metrics is the fit's
            (test,) = cli.trainer.test(cli.model, cli.datamodule, verbose=False)
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning has caught it and wound up the run
            raise KeyboardInterrupt from error
        return RunRecord(*run, "failed", (), {}, "its settings are not understood; see the message above")
    except (ValueError, TypeError, MisconfigurationException) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        return RunRecord(*run, "failed", (), {}, message)
    return RunRecord(*run, "complete", points, {name: float(value) for name, value in test.items()})


def _points(metrics: Path) -> tuple[Point, ...]:
    """Put together what was logged in each epoch."""
    if not metrics.exists():
        return ()
    header = metrics.read_text().partition("\n")[0].split(",")
    names = [name for name in header if name not in ("epoch", "step") and not name.endswith("_step")]
    columns: dict[str, dict[int, float]] = {name: dict(read_metric(metrics, name)) for name in names}
    passes, seconds = columns.pop(_PASSES, {}), columns.pop(_SECONDS, {})
    return tuple(
        Point(
            passes[epoch],
            seconds[epoch],
            {name: values[epoch] for name, values in columns.items() if epoch in values},
        )
        for epoch in sorted(passes)
    )


def _is_finite(points: tuple[Point, ...]) -> bool:
    last = points[-1].metrics if points else {}
    return all(math.isfinite(value) for name, value in last.items() if "loss" in name)


@contextmanager
def _quietly() -> Any:
    """Keep Lightning's remarks on each run off the console."""
    loggers = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
