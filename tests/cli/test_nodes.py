"""Two nodes, each a process: they agree on folder and checkpoint, or all end with one sentence."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_optreg.__main__ import main
from tests.cli.tools import load, short

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_gloo_available(), reason="this build of torch has no gloo"
)

BOUND = 240.0  # seconds, on a machine that has other things to do; Lightning alone would wait 30 minutes


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, fashion_mnist_dir: Path) -> Path:
    root = tmp_path_factory.mktemp("trained")
    assert main(["fit", *short(fashion_mnist_dir, root)]) == 0
    return root / "version_0"


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port: int = place.getsockname()[1]
        return port


def start(data: Path, roots: list[Path], *more: str, elastic: bool = True) -> list[tuple[int, str]]:
    """Run fit as two nodes of one process each; return exit status and errors of each."""
    port = free_port()
    processes = []
    for rank, root in enumerate(roots):
        environment = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "RANK": str(rank),
            "WORLD_SIZE": str(len(roots)),
            "GROUP_RANK": str(rank),
            "NODE_RANK": str(rank),
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
        }
        if elastic:
            environment["TORCHELASTIC_RUN_ID"] = "none"
        nodes = ["--trainer.strategy=ddp", "--trainer.devices=1", f"--trainer.num_nodes={len(roots)}"]
        command = [sys.executable, "-m", "lightning_optreg", "fit", *short(data, root), *nodes, *more]
        processes.append(
            subprocess.Popen(
                command,
                env={**os.environ, **environment},
                stderr=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    try:
        outputs = [process.communicate(timeout=BOUND) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, out + err) for process, (out, err) in zip(processes, outputs, strict=True)]


def error_in(text: str) -> str:
    assert "Traceback" not in text, text
    (message,) = [line for line in text.splitlines() if line.startswith("error: ")]
    return message


@pytest.mark.slow  # starts four programs
@pytest.mark.parametrize("elastic", [True, False], ids=["torchrun", "by hand"])
def test_a_node_without_the_checkpoint(
    elastic: bool, trained: Path, fashion_mnist_dir: Path, tmp_path: Path
) -> None:
    roots = [tmp_path / "first", tmp_path / "second"]
    shutil.copytree(trained, roots[0] / "version_0")
    roots[1].mkdir()
    results = start(fashion_mnist_dir, roots, "--ckpt_path=last", elastic=elastic)
    assert [status for status, _ in results] == [2, 2], results
    first, second = (error_in(text) for _, text in results)
    assert first == second
    for part in (
        socket.gethostname(),
        "(node 1, process 1)",
        f"{roots[1]}/version_0/checkpoints/last.ckpt",
        "trainer.default_root_dir",
    ):
        assert part in first
    assert not (roots[0] / "version_0" / "run.lock").exists()


@pytest.mark.slow
def test_the_first_node_without_it(trained: Path, fashion_mnist_dir: Path, tmp_path: Path) -> None:
    roots = [tmp_path / "first", tmp_path / "second"]
    shutil.copytree(trained, roots[1] / "version_0")
    roots[0].mkdir()
    results = start(fashion_mnist_dir, roots, "--ckpt_path=last")
    assert [status for status, _ in results] == [2, 2], results
    assert all("no version_N/checkpoints/last.ckpt under" in error_in(text) for _, text in results)
    assert "(node 0, process 0)" in error_in(results[1][1])


@pytest.mark.slow
def test_a_node_with_another_checkpoint_of_the_name(
    trained: Path, fashion_mnist_dir: Path, tmp_path: Path
) -> None:
    roots = [tmp_path / "first", tmp_path / "second"]
    for root in roots:
        shutil.copytree(trained, root / "version_0")
    other = roots[1] / "version_0/checkpoints/last.ckpt"
    torch.save({**load(other), "global_step": 1}, other)
    results = start(fashion_mnist_dir, roots, "--ckpt_path=last")
    assert [status for status, _ in results] == [2, 2], results
    assert all("last.ckpt differs from the file on" in error_in(text) for _, text in results)


@pytest.mark.slow
def test_the_first_nodes_folder_counts(trained: Path, fashion_mnist_dir: Path, tmp_path: Path) -> None:
    roots = [tmp_path / "first", tmp_path / "second"]
    for number in range(3):
        (roots[0] / f"version_{number}").mkdir(parents=True)
    results = start(fashion_mnist_dir, roots)
    assert [status for status, _ in results] == [0, 0], results
    assert (roots[0] / "version_3/checkpoints/last.ckpt").exists()
    assert not (roots[1] / "version_0").exists()


@pytest.mark.slow
def test_nodes_that_share_the_folder_go_on(trained: Path, fashion_mnist_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "version_0")
    more = ["--ckpt_path=auto", "--trainer.max_epochs=2"]
    results = start(fashion_mnist_dir, [tmp_path, tmp_path], *more)
    assert [status for status, _ in results] == [0, 0], results
    assert load(tmp_path / "version_0/checkpoints/last.ckpt")["epoch"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["version_0"]
