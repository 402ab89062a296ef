"""A run that is disturbed, finished, and compared with one that was left alone."""

import multiprocessing
import os
from pathlib import Path

import torch

from lightning_optreg.__main__ import main


def options(data: Path, root: Path) -> list[str]:
    """Four short epochs of all that makes a resume hard, with a checkpoint every five steps."""
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


def start(arguments: list[str], temporary: Path | None = None) -> multiprocessing.Process:
    """Begin a fit in a process of its own.

    Args:
        arguments: Behind `fit`.
        temporary: Its folder for temporary files. Default: this process's.
    """

    def child() -> None:
        if temporary is not None:
            os.environ["TMPDIR"] = str(temporary)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os._exit(main(["fit", *arguments]))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    return process


def finish(process: multiprocessing.Process) -> None:
    """Wait for a fit that must go well."""
    process.join()
    assert process.exitcode == 0


def outcome(root: Path) -> dict[str, object]:
    """What the newest run has come to."""
    newest = max(root.glob("version_*"), key=lambda folder: folder.stat().st_mtime)
    checkpoint = torch.load(newest / "checkpoints" / "last.ckpt", weights_only=True)
    metrics = (newest / "metrics.csv").read_text()
    return {
        "weights": checkpoint["state_dict"],
        "optimizer": checkpoint["optimizer_states"],
        "schedule": checkpoint["lr_schedulers"],
        "metrics": metrics,
    }
