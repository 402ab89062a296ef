"""Ctrl-C: one line, the status that shells count, and a run that can go on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_optreg import __main__ as program
from lightning_optreg.__main__ import main
from tests.cli.tools import load, short

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="interrupts a process of its own, which needs fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning"),
]


def end_of(pid: int, seconds: float) -> int:
    """Wait for a process; kill it and fail if it does not end."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, wait_status = os.waitpid(pid, os.WNOHANG)
        if found:
            return wait_status
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    pytest.fail(f"the process did not end within {seconds:g} s of SIGINT")


def test_a_run_is_interrupted_and_goes_on(tmp_path: Path, fashion_mnist_dir: Path) -> None:
    runs, errors = tmp_path / "runs", tmp_path / "errors.txt"
    options = short(fashion_mnist_dir, runs)
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
            sys.stderr = os.fdopen(2, "w", closefd=False)
            status = main(["fit", *options, "--trainer.max_epochs=100000"])
        finally:
            sys.stderr.flush()
            os._exit(status)
    last = runs / "version_0/checkpoints/last.ckpt"
    end = time.monotonic() + 60
    while not last.exists() and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(pid, signal.SIGINT)
    wait_status = end_of(pid, seconds=60.0)
    text = errors.read_text()
    assert os.waitstatus_to_exitcode(wait_status) == 130, text
    assert [line for line in text.splitlines() if line.startswith("error: ")] == ["error: interrupted"]
    assert "Traceback" not in text
    epochs = load(last)["epoch"] + 2
    assert main(["fit", *options, "--ckpt_path=last", f"--trainer.max_epochs={epochs}"]) == 0
    assert load(last)["epoch"] == epochs - 1
    assert [path.name for path in runs.iterdir()] == ["version_0"]


def test_an_interrupt_while_something_is_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(argv: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "_run", interrupt)
    assert main(["fit"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


@pytest.mark.slow
def test_the_tests_run_where_interrupts_are_ignored() -> None:
    """As a shell's `&`, nohup and many CI systems start them."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "goes_on"]

    def ignore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    done = subprocess.run(
        command, preexec_fn=ignore, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout
