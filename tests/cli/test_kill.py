"""A run that is killed at any moment and resumed ends with the weights of one that was left alone."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

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


def test_sigkill_at_random_moments(fashion_mnist_dir: Path, tmp_path: Path) -> None:
    begin = time.monotonic()
    finish(start(options(fashion_mnist_dir, tmp_path / "left_alone")))
    duration = time.monotonic() - begin
    left_alone = outcome(tmp_path / "left_alone")

    seed = random.randrange(2**32)
    moments = random.Random(seed)
    resumed = 0
    for number in range(KILLS):
        root = tmp_path / f"killed_{number}"
        process = start(options(fashion_mnist_dir, root))
        time.sleep(moments.uniform(0.2, 1.0) * duration)
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        has_checkpoint = list(root.glob("version_*/checkpoints/last.ckpt"))
        resumed += bool(has_checkpoint)
        resume = ["--ckpt_path=last"] if has_checkpoint else []
        finish(start([*options(fashion_mnist_dir, root), *resume]))
        assert_identical(left_alone, outcome(root), f"kill {number}, seed {seed}: ")
        assert not list(root.rglob("*.tmp*")), "nothing half-written is left behind"
    assert resumed > 0
