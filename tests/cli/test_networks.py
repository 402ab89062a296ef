"""The command line on two nodes that share files and a cable, and nothing else.

Each node is a network namespace, as `scripts/bench/nodes.py` makes them.
"""

import importlib.util
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.tools import load, short

NODES = Path(__file__).parents[2] / "scripts" / "bench" / "nodes.py"
BOUND = 400.0  # seconds, on a machine that has other things to do

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("ip") is None or os.geteuid() != 0, reason="needs root and iproute2"),
]


@pytest.fixture
def nodes() -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("nodes", NODES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.Nodes() as made:
        yield made
    names = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert not any(name in names for name in made.names)


def fit(data: Path, root: Path, strategy: str, *more: str) -> list[str]:
    """Options of a short run of one process on each of two nodes."""
    own = [f"--trainer.strategy={strategy}", "--trainer.devices=1", "--trainer.num_nodes=2"]
    return ["fit", *short(data, root), *own, *more]


def ends(started: list[Any]) -> list[int]:
    return [process.wait(timeout=BOUND) for process in started]


@pytest.mark.parametrize("strategy", ["ddp", "LocalSGD", "ElasticAveraging", "PipelineParallel"])
def test_torchrun(strategy: str, nodes: Any, fashion_mnist_dir: Path, tmp_path: Path) -> None:
    more = ["--model.net=MLP"] if strategy == "PipelineParallel" else []
    assert ends(nodes.torchrun(fit(fashion_mnist_dir, tmp_path, strategy, *more))) == [0, 0]
    assert load(tmp_path / "version_0/checkpoints/last.ckpt")["global_step"] == 2
    assert min(nodes.sent()) > 10_000
    assert [path.name for path in tmp_path.iterdir()] == ["version_0"]


def test_slurms_variables(nodes: Any, fashion_mnist_dir: Path, tmp_path: Path) -> None:
    started = []
    for rank, address in enumerate(nodes.addresses):
        variables = {
            "SLURM_JOB_ID": "1234",
            "SLURM_JOB_NAME": "lenet5",
            "SLURM_NTASKS": "2",
            "SLURM_NTASKS_PER_NODE": "1",
            "SLURM_NNODES": "2",
            "SLURM_NODELIST": ",".join(nodes.addresses),
            "SLURM_PROCID": str(rank),
            "SLURM_LOCALID": "0",
            "SLURM_NODEID": str(rank),
            "SLURMD_NODENAME": address,
        }
        started.append(nodes.program(rank, fit(fashion_mnist_dir, tmp_path, "ddp"), environment=variables))
    assert ends(started) == [0, 0]
    assert load(tmp_path / "version_0/checkpoints/last.ckpt")["global_step"] == 2
    assert (tmp_path / "version_0/slurm_job.txt").read_text() == "1234\n"


def test_torchrun_replaces_a_killed_process(nodes: Any, fashion_mnist_dir: Path, tmp_path: Path) -> None:
    """The nodes' counts of restarts differ then: only one of them has seen a process fail."""
    last = tmp_path / "version_0/checkpoints/last.ckpt"
    epochs = ["--trainer.max_epochs=400", "--ckpt_path=auto", "--trainer.log_every_n_steps=100"]
    started = nodes.torchrun(fit(fashion_mnist_dir, tmp_path, "ddp", *epochs), restarts=1)
    end = time.monotonic() + BOUND
    while not last.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    killed = [pid for pid in nodes.processes(1) if "torch.distributed.run" not in command_of(pid)]
    os.kill(killed[-1], 9)
    assert ends(started) == [0, 0]
    assert load(last)["epoch"] == 399
    assert [path.name for path in tmp_path.iterdir()] == ["version_0"]


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()
