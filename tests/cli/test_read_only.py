"""Measuring a run whose folder can't be written to: figures are printed, predictions go elsewhere."""

import ctypes
import os
import shutil
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightning_optreg.__main__ import main
from lightning_optreg.files import is_writable
from tests.cli.tools import short
from tests.signal_tools import write_warning

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="gives up root's rights, which is Linux's own"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning"),
]


@pytest.fixture
def run(tmp_path: Path, fashion_mnist_dir: Path) -> Iterator[tuple[Path, list[str]]]:
    """The folder of a run, which is read-only, and the run's options."""
    options = short(fashion_mnist_dir, tmp_path / "runs")
    assert main(["fit", *options]) == 0
    folders = [tmp_path / "runs", *filter(Path.is_dir, (tmp_path / "runs").rglob("*"))]
    modes = {path: path.stat().st_mode for path in (tmp_path / "runs").rglob("*")}
    modes[tmp_path / "runs"] = folders[0].stat().st_mode
    try:
        for path, mode in modes.items():
            path.chmod(mode & ~0o222)
        yield tmp_path / "runs", options
    finally:
        for folder in folders:
            folder.chmod(0o755)


def bound_by_permissions(argv: list[str], here: Path) -> tuple[int, str]:
    """Run a command as a user whom permissions bind, as they don't root; return its status and its words."""
    here.mkdir(exist_ok=True)
    words = here / "words.txt"
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            _give_up_rights()
            os.chdir(here)
            for stream in (1, 2):
                os.dup2(os.open(words, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            warnings.showwarning = write_warning  # pytest makes errors of them
            warnings.simplefilter("default")
            status = main(argv)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), words.read_text()


def _give_up_rights() -> None:
    """Give up all capabilities, of which CAP_DAC_OVERRIDE lets root write where nobody may."""
    version_3 = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if ctypes.CDLL(None, use_errno=True).capset(version_3, (ctypes.c_uint32 * 6)()) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def content(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.mark.slow
def test_figures_are_printed(run: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, options = run
    before = content(folder)
    for command, metric in (("test", "test/accuracy"), ("validate", "val/accuracy")):
        status, words = bound_by_permissions([command, *options, "--ckpt_path=best"], tmp_path / command)
        assert status == 0, words
        assert metric in words
        assert f"can't be written to: the figures of this {command} are only printed" in words
    assert content(folder) == before


def test_predictions_go_to_the_current_folder(run: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, options = run
    before = content(folder)
    here, predict = tmp_path / "here", ["predict", *options, "--ckpt_path=best"]
    status, words = bound_by_permissions(predict, here)
    assert status == 0, words
    assert f"predictions go to {here / 'predictions.csv'}" in words
    assert (here / "predictions.csv").read_text().startswith("index,")
    status, words = bound_by_permissions(predict, here)
    assert status == 2
    assert "predictions.csv is there already; name a file with --trainer.callbacks+=PredictionWriter" in words
    shutil.rmtree(here)
    assert content(folder) == before


def test_a_folder_is_writable_if_a_file_can_be_written(tmp_path: Path) -> None:
    assert is_writable(tmp_path)
    assert is_writable(tmp_path / "not" / "yet")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    assert not is_writable(tmp_path / "file")
    assert not is_writable(tmp_path / "file" / "below")
