"""One run of a study: `fit` with the study's settings, then `test`, and a record of the results."""

import io
import logging
import math
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from lightning_optreg.cli.main_cli import run as run_command
from lightning_optreg.cli.parsed_before import ParsedBefore
from lightning_optreg.figures import read_metric
from lightning_optreg.files import replacing
from lightning_optreg.places import Place, local_copy
from lightning_optreg.studies.budget import Budget
from lightning_optreg.studies.foreign import ForeignRun, check_foreign
from lightning_optreg.studies.plan import Plan, Run, is_foreign
from lightning_optreg.studies.pruning import TrialPruning
from lightning_optreg.studies.records import Point, RunRecord
from lightning_optreg.studies.stop import Stopped
from lightning_optreg.trust import UntrustedError

__all__ = ["check_settings", "do_run"]

_PASSES, _SECONDS = "optreg/budget/passes", "optreg/budget/seconds"


_FIRST = [{"class_path": "lightning_optreg.callbacks.ExactResume"}]
_LAST = [
    {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"filename": "last", "enable_version_counter": False},
    }
]


class _Fence(Callback):
    """Calls a function at each batch, which raises if this process must not continue the run."""

    def __init__(self, check: Callable[[], None]) -> None:
        self.check = check

    @override
    def on_train_batch_start(self, *args: Any) -> None:
        self.check()

    @override
    def on_validation_batch_start(self, *args: Any) -> None:
        self.check()

    @override
    def on_test_batch_start(self, *args: Any) -> None:
        self.check()


def check_settings(plan: Plan, trusted: Sequence[str] = ()) -> None:
    """Let `fit` read settings of the study, without building anything.

    Args:
        plan: The study.
        trusted: Options of `fit` that say which classes may be named: `--safe`, `--allow`.

    Raises:
        ValueError: If a key, class or value is wrong; the message names its place and says how.
    """
    for where, settings in plan.rehearsals().items():
        said = io.StringIO()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "run.yaml")
            file.write_text(yaml.safe_dump(settings, sort_keys=False))
            try:
                with redirect_stdout(io.StringIO()), redirect_stderr(said):
                    if is_foreign(settings):
                        check_foreign(file, settings, trusted)
                    else:
                        run_command(["fit", *trusted, "--config", str(file), "--print_config"])
            except UntrustedError as error:
                what = str(error).replace(f"config file {str(file)!r}: ", "")
                raise UntrustedError(f"{where}: {what}") from error
            except Stopped:
                raise
            except SystemExit as stop:  # always raised, after the configuration or the error is printed
                if not stop.code:
                    continue
            message = said.getvalue().strip().removeprefix("error: ").replace(f" (in {file})", "")
            raise ValueError(f"{where}: {message}")


def do_run(
    plan: Plan,
    run: Run,
    settings: dict[str, Any],
    folder: Place,
    check: Callable[[], None] = lambda: None,
    trusted: Sequence[str] = (),
    pruning: TrialPruning | None = None,
    before: ParsedBefore | None = None,
) -> RunRecord:
    """Do a run, or resume it from its last checkpoint.

    Args:
        plan: The study.
        run: The run.
        settings: Its settings of `fit`, which are changed.
        folder: The run's own folder, for its configuration, metrics and checkpoint.
        check: Called at each batch; raises if this process must not continue the run.
        trusted: Options of `fit` that say which classes may be named: `--safe`, `--allow`.
        pruning: Ends the run early. Default: none.
        before: What this process has parsed for earlier runs. Default: nothing, and nothing is kept.

    Returns:
        Its record. A run that fails for a reason that a user can fix, such as settings that don't fit, is
        recorded as failed; other exceptions are bugs and are raised.

    Raises:
        RunInUseError: If another process has the folder open.
        SystemExit: If the process is told to stop, after the run has been saved.
    """
    trainer = settings.setdefault("trainer", {})
    own = [part for part in trainer.pop("callbacks", []) + trainer.pop("callbacks+", []) if part]
    trainer["callbacks"] = own if is_foreign(settings) else [*_FIRST, *own, *_LAST]
    trainer.update(enable_progress_bar=False, enable_model_summary=False)
    if is_foreign(settings):
        trainer["logger"] = None
    else:
        _set_loggers(trainer, plan.name, run)
    if trainer.get("devices", "auto") == "auto":
        trainer["devices"] = 1  # not all GPUs of the machine: each run is one process
    trainer.pop("default_root_dir", None)  # on the command line, where --safe accepts any path
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "run.yaml"
    with replacing(configuration) as file:
        file.write_text(yaml.safe_dump(settings, sort_keys=False))
    budget = Budget(plan.epochs, plan.diverged_above or math.inf)
    more = [budget, _Fence(check), *([] if pruning is None else [pruning])]
    try:
        with _quietly():
            it: ForeignRun | _OwnRun
            if is_foreign(settings):
                it = ForeignRun(configuration, settings, trusted)
            else:
                it = _OwnRun(configuration, trusted, before)
            points = _points(it.fit(folder, more) / "metrics.csv")
            if budget.diverged or not _is_finite(points):
                return RunRecord(*run, "diverged", points, {})
            if pruning is not None and pruning.pruned:
                return RunRecord(*run, "pruned", points, {})
            test = it.test()
    except (Stopped, SIGTERMException):
        raise
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning has caught it and ended the run
            raise KeyboardInterrupt from error
        return RunRecord(*run, "failed", (), {}, "its settings are not understood; see the message above")
    except (ValueError, TypeError, MisconfigurationException) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        return RunRecord(*run, "failed", (), {}, message)
    finally:
        _end_tracking()
    return RunRecord(*run, "complete", points, test)


def _end_tracking() -> None:
    """End the W&B run of this process, if there is one: Lightning would go on with it in the next."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()


class _OwnRun:
    """A run of this package's classifier, by its command `fit`; see `ForeignRun`."""

    def __init__(self, configuration: Place, trusted: Sequence[str], before: ParsedBefore | None) -> None:
        self._command = ["fit", *trusted, "--config", str(local_copy(configuration))]
        self._before = before

    def fit(self, folder: Place, callbacks: Sequence[Callback]) -> Place:
        options = [f"--trainer.default_root_dir={folder}", "--ckpt_path", "auto"]
        self._cli = run_command([*self._command, *options], callbacks, self._before)
        return self._cli.run_folder

    def test(self) -> dict[str, float]:
        trainer = self._cli.trainer
        trainer.logger = None  # the table of metrics is the fit's
        if not self._cli.datamodule.has_test:  # an image folder may have none
            return {}
        (found,) = trainer.test(self._cli.model, self._cli.datamodule, verbose=False)
        return {name: float(value) for name, value in found.items()}


def _set_loggers(trainer: dict[str, Any], study: str, run: Run) -> None:
    """Keep the table and loggers of Weights & Biases, where the study's runs are one group."""
    kept: list[Any] = []
    for key in ("logger", "logger+"):
        given = trainer.pop(key, None)
        for logger in given if isinstance(given, list) else [given]:
            named = {"class_path": logger} if isinstance(logger, str) else logger
            if isinstance(named, dict) and str(named.get("class_path")).endswith("WandbLogger"):
                arguments = {
                    **(named.get("init_args") or {}),
                    "group": study,
                    "name": run.key.replace("/", " "),
                }
                kept.append({**named, "init_args": arguments})
    trainer["logger"] = None
    if kept:
        trainer["logger+"] = kept
        del trainer["logger"]


def _points(metrics: Place) -> tuple[Point, ...]:
    """Collect what was logged in each epoch."""
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
