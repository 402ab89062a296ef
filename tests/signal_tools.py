"""Several gloo processes of one run, each sent its own signals, without a launcher between them."""

import itertools
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor

from lightning_optreg.callbacks import ExactResume
from tests.resume_tools import Regression, StatefulLoader, final_state
from tests.small_runs import quiet_trainer

PATIENCE = 120.0  # seconds that a test waits for processes on a busy machine


class Processes:
    """Forked processes that end with the test; each writes its messages to a file."""

    def __init__(self, folder: Path, target: Callable[[int], Any], count: int = 2) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.statuses: dict[int, int] = {}
        self.pids: list[int] = []
        for rank in range(count):
            pid = os.fork()
            if pid == 0:
                self._run(target, rank)
            self.pids.append(pid)

    def _run(self, target: Callable[[int], Any], rank: int) -> None:
        status = 1
        try:
            os.dup2(os.open(self.folder / f"messages-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            sys.stderr = os.fdopen(2, "w", closefd=False)
            warnings.showwarning = write_warning  # pytest keeps them to itself
            warnings.simplefilter("default")  # Lightning's advice on logging with several processes
            target(rank)
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            sys.stderr.flush()
            os._exit(status)

    def send(self, rank: int, number: int) -> None:
        if rank not in self.statuses:
            os.kill(self.pids[rank], number)

    def wait(self, patience: float = PATIENCE) -> list[int]:
        """Return the exit statuses; those who don't end are killed, and the test fails."""
        end = time.monotonic() + patience
        while len(self.statuses) < len(self.pids) and time.monotonic() < end:
            for rank, pid in enumerate(self.pids):
                if rank not in self.statuses and (found := os.waitpid(pid, os.WNOHANG))[0]:
                    self.statuses[rank] = os.waitstatus_to_exitcode(found[1])
            time.sleep(0.02)
        hanging = [rank for rank in range(len(self.pids)) if rank not in self.statuses]
        for rank in hanging:
            os.kill(self.pids[rank], signal.SIGKILL)
            os.waitpid(self.pids[rank], 0)
        assert not hanging, f"{hanging} did not end in {patience:g} s: {self.messages()}"
        return [self.statuses[rank] for rank in range(len(self.pids))]

    def messages(self) -> list[str]:
        return [(self.folder / f"messages-{rank}.txt").read_text() for rank in range(len(self.pids))]

    def until(self, condition: Callable[[], bool], patience: float = PATIENCE) -> None:
        end = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < end, self.messages()
            time.sleep(0.01)


def write_warning(message: Warning | str, *args: Any, **kwargs: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def torchrun_variables(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What torchrun tells a worker."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }


def slurm_variables(rank: int, world_size: int, port: int, programs: Path) -> dict[str, str]:
    """What srun tells a task, with a `scontrol` that takes down how it is called."""
    programs.mkdir(exist_ok=True)
    scontrol = programs / "scontrol"
    if rank == 0:
        scontrol.write_text(f"#!/bin/sh\necho $* >> {programs}/calls.txt\n")
        scontrol.chmod(0o755)
    return {
        "SLURM_NTASKS": str(world_size),
        "SLURM_NTASKS_PER_NODE": str(world_size),
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        "SLURM_NODEID": "0",
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NAME": "train",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
    }


class Slow(Regression):
    """Batches long enough for a signal to find each of their parts."""

    def __init__(self, pause: float = 0.0, buffers: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.pause = pause
        if not buffers:  # which DDP sends around at each forward pass, in validations too
            self.net[1] = torch.nn.Identity()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        time.sleep(self.pause)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        time.sleep(self.pause)
        x, y = batch
        self.log("val_loss", torch.nn.functional.mse_loss(self.net(x), y), sync_dist=True)


class WriteResult(Callback):
    """Leave the state that a finished fit ends with; forked processes can only leave files."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        state = final_state(trainer, pl_module)
        # each process's own last loss is left out: checkpoints hold the first one's
        state["metrics"] = {k: v for k, v in trainer.callback_metrics.items() if not k.startswith("train")}
        torch.save(state, self.folder / f"{self.name}-{trainer.global_rank}.pt")


class Begun(Callback):
    """Leave a file when the first batch begins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        (self.folder / f"begun-{trainer.global_rank}").touch()


def fit(
    rank: int,
    folder: Path,
    name: str,
    *,
    variables: dict[str, str] | None = None,
    ckpt_path: Path | None = None,
    pause: float = 0.0,
    callbacks: tuple[Callback, ...] = (),
    answer_within: float = 25.0,
    module: dict[str, Any] | None = None,
    val_batches: int = 3,
    **options: Any,
) -> None:
    """Train in one process of several, with samples, noise and metrics of its own."""
    os.environ.update(variables or {})
    torch.set_num_threads(1)
    seed_everything(1 + rank if ckpt_path is None else 77, verbose=False)
    trainer = quiet_trainer(
        **{"max_epochs": 3, "val_check_interval": 0.5, "default_root_dir": folder, **options},
        callbacks=[ExactResume(answer_within=answer_within), WriteResult(folder, name), *callbacks],
    )
    trainer.fit(
        Slow(pause, **(module or {})),
        StatefulLoader(rank=rank),
        StatefulLoader(val_batches, rank=rank),
        ckpt_path=ckpt_path,
    )


_numbers = itertools.count()


def start(folder: Path, name: str, *, count: int = 2, slurm: bool = False, **options: Any) -> Processes:
    """Start the processes of one run as torchrun does, or as srun does."""
    port = free_port()

    def target(rank: int) -> None:
        variables = (
            slurm_variables(rank, count, port, folder / "programs")
            if slurm
            else torchrun_variables(rank, count, port)
        )
        strategy = "ddp" if count > 1 else "auto"
        fit(rank, folder, name, variables=variables, **{"devices": count, "strategy": strategy, **options})

    return Processes(folder / f"process-{next(_numbers)}", target, count)


def results(folder: Path, name: str, count: int = 2) -> list[Any]:
    return [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in range(count)]
