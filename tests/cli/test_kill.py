"""A run that is killed at any moment and resumed ends with the weights of one that was left alone."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from lightning_optreg.__main__ import main
from tests.resume_tools import assert_identical

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked to spare their start-up"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning"),
]

KILLS = 10


def options(data: Path, root: Path) -> list[str]:
    return [
        "--data=FashionMNISTDataModule",
        f"--data.data_dir={data}",
        "--data.verify_checksum=false",
        "--data.batch_size=32",
        "--data.augment+=RandomCrop",
        "--data.augment+=RandomHorizontalFlip",
        "--model.net=MLP",
        "--model.net.dropout=0.5",
        "--model.lr_interval=step",
        "--optimizer=Adam",
        "--optimizer.lr=0.001",
        "--lr_scheduler=CosineAnnealingLR",
        "--lr_scheduler.T_max=200",
        "--trainer.max_epochs=4",
        f"--trainer.default_root_dir={root}",
        "--trainer.log_every_n_steps=3",
        "--trainer.val_check_interval=0.5",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--trainer.callbacks+=ModelCheckpoint",
        "--trainer.callbacks.filename=last",
        "--trainer.callbacks.every_n_train_steps=5",
        "--trainer.callbacks.enable_version_counter=false",
    ]


def start(arguments: list[str]) -> multiprocessing.Process:
    def child() -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os._exit(main(["fit", *arguments]))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    return process


def finish(process: multiprocessing.Process) -> None:
    process.join()
    assert process.exitcode == 0


def outcome(root: Path) -> dict[str, object]:
    newest = max(root.glob("version_*"), key=lambda folder: folder.stat().st_mtime)
    checkpoint = torch.load(newest / "checkpoints" / "last.ckpt", weights_only=True)
    metrics = (newest / "metrics.csv").read_text()
    return {
        "weights": checkpoint["state_dict"],
        "optimizer": checkpoint["optimizer_states"],
        "schedule": checkpoint["lr_schedulers"],
        "metrics": metrics,
    }


class LeftAlone(NamedTuple):
    """What a run that nobody disturbed ended with, and how long it took."""

    outcome: dict[str, object]
    duration: float


@pytest.fixture(scope="module")
def left_alone(fashion_mnist_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> LeftAlone:
    root = tmp_path_factory.mktemp("left_alone")
    begin = time.monotonic()
    finish(start(options(fashion_mnist_dir, root)))
    return LeftAlone(outcome(root), time.monotonic() - begin)


def disturb(data: Path, root: Path, sign: signal.Signals, wait: float) -> tuple[int | None, bool]:
    """Send a run a signal, finish it from its last checkpoint; return its exit code and if there was one."""
    process = start(options(data, root))
    time.sleep(wait)
    if process.pid is not None and process.is_alive():
        os.kill(process.pid, sign)
    process.join()
    has_checkpoint = bool(list(root.glob("version_*/checkpoints/last.ckpt")))
    finish(start([*options(data, root), *(["--ckpt_path=last"] if has_checkpoint else [])]))
    return process.exitcode, has_checkpoint


def test_sigkill_at_random_moments(fashion_mnist_dir: Path, tmp_path: Path, left_alone: LeftAlone) -> None:
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    resumed = 0
    for number in range(KILLS):
        root = tmp_path / f"killed_{number}"
        wait = moments.uniform(0.2, 1.0) * left_alone.duration
        _, has_checkpoint = disturb(fashion_mnist_dir, root, signal.SIGKILL, wait)
        resumed += has_checkpoint
        assert_identical(left_alone.outcome, outcome(root), f"kill {number}, seed {seed}: ")
        assert not list(root.rglob("*.tmp*")), "nothing half-written is left behind"
    assert resumed > 0


def test_sigterm_leaves_a_resumable_checkpoint(
    fashion_mnist_dir: Path, tmp_path: Path, left_alone: LeftAlone
) -> None:
    codes = set()
    for number, share in enumerate((0.55, 0.7, 0.85)):
        root = tmp_path / f"stopped_{number}"
        code, has_checkpoint = disturb(fashion_mnist_dir, root, signal.SIGTERM, share * left_alone.duration)
        codes.add(code)
        assert has_checkpoint or code in (0, -signal.SIGTERM)  # too late, or before Lightning listens
        assert_identical(left_alone.outcome, outcome(root), f"after {share} of the time: ")
    assert codes <= {0, 143, -signal.SIGTERM}
