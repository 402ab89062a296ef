"""Where exceptions become messages: what a user can fix is one line, a bug keeps its traceback.

Mistakes of configuration end with status 2, failures of a run (no space, a dead worker) with 1, an interrupt
with 130 and SIGTERM with 143, as shells count. `LIGHTNING_OPTREG_TRACEBACK=1` shows every traceback.

A ValueError, TypeError or RuntimeError is a message if this package or Lightning raised it on purpose, or if
it came up before the first training step: then a constructor refused a setting, or Lightning's sanity check
found that the parts don't fit together. All others are bugs, in a network or in this package; their traceback
is what helps.
"""

import dis
import os
import pickle
import re
import signal
import sys
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path

import lightning
import torch
import torch.optim
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.multiprocessing.spawn import ProcessExitedException

import lightning_optreg
from lightning_optreg.cli.messages import boil_down
from lightning_optreg.trust import why_unreadable

__all__ = ["run_guarded"]

_STEPS = {"training_step", "validation_step", "test_step", "predict_step", "backward"}
# Private in Lightning 2.6: the trainer's method that validates two batches before training.
_SANITY_CHECK = "_run_sanity_check"
_OPTIMIZERS = Path(torch.optim.__file__).parent
_STRATEGIES = str(Path(str(lightning_optreg.__file__)).parent / "strategies") + os.sep
_OURS = tuple(str(Path(str(package.__file__)).parent) + os.sep for package in (lightning_optreg, lightning))


def run_guarded(command: Callable[[], object]) -> int:
    """Run a command and return its exit status; print one line for what a user can fix.

    Args:
        command: What to run, without arguments.

    Raises:
        Exception: Whatever is a bug, as it was raised.

    Example:
        >>> run_guarded(lambda: print("trained"))
        trained
        0
    """
    if os.environ.get("LIGHTNING_OPTREG_TRACEBACK") == "1":
        command()
        return 0
    try:
        command()
    except SIGTERMException as stop:
        if stop.code == 0:  # a copy of the process that speaks for the run
            return 0
        return _say("stopped by SIGTERM", 143)
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning has caught it and wound up the run
            return _say("interrupted", 130)
        return stop.code if isinstance(stop.code, int) else 1 if stop.code else 0
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except ProcessExitedException as error:  # of a process that Lightning has forked or spawned
        if error.exit_code in (128 + signal.SIGTERM, -signal.SIGTERM):
            return _say("stopped by SIGTERM", 128 + signal.SIGTERM)
        if error.exit_code == 128 + signal.SIGINT:
            return _say("interrupted", error.exit_code)
        return _say(str(error), 1)
    except MisconfigurationException as error:
        return _say(boil_down(str(error)), 2)
    except ModuleNotFoundError as error:
        return _say(_with_extra(str(error)), 2)
    except (FileNotFoundError, NotADirectoryError) as error:
        return _say(_operating_system(error), 2)
    except OSError as error:
        return _say(_operating_system(_first(error)), 1)
    except pickle.UnpicklingError as error:
        return _say(f"a file cannot be read: {why_unreadable(error)}", 2)
    except (zipfile.BadZipFile, EOFError) as error:
        return _say(f"a file is damaged: {error}", 2)
    except torch.OutOfMemoryError as error:
        return _say(f"the device's memory is full; try a smaller data.batch_size ({error})", 1)
    except FloatingPointError as error:  # of NaNGuard
        return _say(str(error), 1)
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
        if _is_of_torch_load(error):  # it refuses old and scripted files so, and advises to run them
            return _say(f"a file cannot be read: {why_unreadable(error)}", 2)
        if _is_bug(error):
            raise
        text = boil_down(str(error))
        if "pip install" in text or "No module named" in text:  # of a part that jsonargparse was building
            text = _with_extra(text)
        return _say(f"{_part(error)}{text}", 1 if _is_lost_worker(error) else 2)
    return 0


def _say(message: str, status: int) -> int:
    sys.stderr.flush()
    print(f"error: {message}", file=sys.stderr)
    return status


def _is_of_torch_load(error: Exception) -> bool:
    file = traceback.extract_tb(error.__traceback__)[-1].filename
    return "weights_only" in str(error) and Path(file) == Path(str(torch.serialization.__file__))


def _is_bug(error: Exception) -> bool:
    frames = list(traceback.walk_tb(error.__traceback__))
    functions = {frame.f_code.co_name for frame, _ in frames}
    raised = _raised_on_purpose(error)
    if frames[-1][0].f_code.co_filename.startswith(_OURS):
        return not raised
    if _part(error) or _SANITY_CHECK in functions:
        return False
    return not raised or isinstance(error, RuntimeError) or not functions.isdisjoint(_STEPS)


def _raised_on_purpose(error: Exception) -> bool:
    """Whether a `raise` stands where the error came up, and not an operation that failed."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    # From the byte code: the source's text need not be there.
    return place is not None and place.tb_frame.f_code.co_code[place.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _is_lost_worker(error: Exception) -> bool:
    """Return whether a strategy says that a worker or a server has failed."""
    file = traceback.extract_tb(error.__traceback__)[-1].filename
    return isinstance(error, RuntimeError) and file.startswith(_STRATEGIES)


def _part(error: Exception) -> str:
    """The key of the part that refused its settings: torch's own messages don't name it."""
    file = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    if file.parent != _OPTIMIZERS:
        return ""
    return "lr_scheduler: " if file.name == "lr_scheduler.py" else "optimizer: "


def _first(error: OSError) -> OSError:
    """The error that began it: winding up a run whose disk is full fails too, with another file."""
    first, before = error, error.__context__
    while before is not None:
        if isinstance(before, OSError) and before.filename is not None:
            first = before
        before = None if before.__suppress_context__ else before.__context__
    return first


def _operating_system(error: OSError) -> str:
    """What failed and with which file; the package's own messages as they are."""
    if error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror


_EXTRAS = {
    "s3fs": "s3",
    "wandb": "wandb",
    "tensorboard": "tensorboard",
    "tensorboardX": "tensorboard",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "onnxruntime": "onnx",
    "pyarrow": "parquet",
    "optuna": "tune",
    "plotly": "report",
    "scipy": "report",
    "jinja2": "report",
    "ray": "cluster",
}


def _with_extra(text: str) -> str:
    """Complete a message of a missing package by the extra of this one that brings it."""
    extra = next((extra for module, extra in _EXTRAS.items() if re.search(rf"\b{module}\b", text)), None)
    if extra is None or "lightning-optreg[" in text:
        return text
    return f"{text} (pip install 'lightning-optreg[{extra}]')"
