"""Runs whose folder is a URL, here in the memory of this process; test_object_store.py has S3."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_optreg.__main__ import main
from lightning_optreg.places import Place, UrlPath, local_copy
from tests.cli.tools import short
from tests.places.tools import memory
from tests.resume_tools import assert_identical

pytestmark = pytest.mark.usefixtures("blank_curves")

WRITTEN = [
    "checkpoints/best.ckpt",
    "checkpoints/last.ckpt",
    "config.yaml",
    "curves.png",
    "metrics.csv",
    "throughput.json",
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: nothing may appear in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder: UrlPath) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*")]


def outcome(folder: Place) -> dict[str, Any]:
    checkpoint = torch.load(local_copy(folder / "checkpoints" / "last.ckpt"), weights_only=True)
    parts = {name: checkpoint[name] for name in ("state_dict", "optimizer_states", "loops")}
    return {**parts, "metrics": (folder / "metrics.csv").read_text()}


def test_from_fit_to_predict(fashion_mnist_dir: Path, elsewhere: Path, tmp_path: Path) -> None:
    """A run by URL, resumed there, ends as one on a disk that never stopped; the other commands find it."""
    url, disk = memory(), tmp_path.with_name(f"{tmp_path.name}_disk")
    options = short(fashion_mnist_dir, Path("unused"), "MLP")
    options = [option for option in options if "default_root_dir" not in option]
    here = [*options, f"--trainer.default_root_dir={url}"]
    assert main(["fit", *here]) == 0
    run = UrlPath(f"{url}/version_0")
    assert files(run) == WRITTEN
    assert main(["fit", *here, "--trainer.max_epochs=2", "--ckpt_path=auto"]) == 0
    assert main(["fit", *options, f"--trainer.default_root_dir={disk}", "--trainer.max_epochs=2"]) == 0
    assert_identical(outcome(disk / "version_0"), outcome(run))
    assert main(["test", *here, "--ckpt_path=best"]) == 0
    assert "test/accuracy" in (run / "metrics.csv").read_text()
    assert main(["predict", *here, "--ckpt_path=last"]) == 0
    assert set(files(run)) - set(WRITTEN) == {"config-1.yaml", "predictions.csv"}
    assert [folder.name for folder in url.iterdir()] == ["version_0"]
    assert not os.listdir(elsewhere)


def test_a_run_that_starts_from_another_s_checkpoint_leaves_it_there(
    fashion_mnist_dir: Path, tmp_path: Path
) -> None:
    """Lightning 2.6 removes the best checkpoint of the other run, if its path is a URL."""
    url = memory()
    options = short(fashion_mnist_dir, tmp_path)
    root = f"--trainer.default_root_dir={url}"
    assert main(["fit", *options, root]) == 0
    path = f"--ckpt_path={url}/version_0/checkpoints/last.ckpt"
    assert main(["fit", *options, "--trainer.max_epochs=2", path]) == 0
    assert main(["fit", *options, root, "--trainer.max_epochs=2", path]) == 0
    assert files(UrlPath(f"{url}/version_0")) == WRITTEN
    assert {path.name for path in tmp_path.glob("version_*")} == {"version_0"}
    assert [path.name for path in url.iterdir()] == ["version_0", "version_1"]


def test_a_damaged_checkpoint_is_noticed(
    fashion_mnist_dir: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    url = memory()
    options = [*short(fashion_mnist_dir, tmp_path), f"--trainer.default_root_dir={url}"]
    assert main(["fit", *options]) == 0
    last = UrlPath(f"{url}/version_0/checkpoints/last.ckpt")
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(bytes(content))
    capsys.readouterr()
    assert main(["fit", *options, "--ckpt_path=last"]) == 2
    error = capsys.readouterr().err
    assert f"{last} is damaged" in error
    assert f"newest intact checkpoint: {url}/version_0/checkpoints/best.ckpt" in error


def test_a_fit_that_never_began_leaves_nothing(fashion_mnist_dir: Path, tmp_path: Path) -> None:
    url = memory()
    options = [*short(fashion_mnist_dir, tmp_path), f"--trainer.default_root_dir={url}"]
    assert main(["fit", *options, "--data.data_dir=/nowhere"]) != 0
    assert not list(url.rglob("*"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["fit", "--trainer.default_root_dir=s4://b/runs"],
            "trainer.default_root_dir: 's4://b/runs': Protocol",
        ),
        (["fit", "--trainer.default_root_dir=gs://b/runs"], "trainer.default_root_dir: gs://: "),
        (["test", "--ckpt_path=s4://b/a.ckpt"], "ckpt_path: 's4://b/a.ckpt': Protocol not known: s4"),
        (["test", "--ckpt_path=memory://none/a.ckpt"], "ckpt_path: there is no file 'memory://none/a.ckpt'"),
    ],
)
def test_a_wrong_url_is_one_sentence(
    fashion_mnist_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    if "gs://" in arguments[-1] and importlib.util.find_spec("gcsfs"):
        pytest.skip("gcsfs is installed")
    command, *options = arguments
    assert main([command, *short(fashion_mnist_dir, tmp_path), *options]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert line.startswith(f"error: {said}")


def test_a_study_s_default_database_can_t_be_in_a_bucket(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna", reason="the extra 'tune' is not installed")
    study = tmp_path / "study.yaml"
    study.write_text("{name: s, base: [{}], epochs: 1, seeds: [0], values: [0.1], methods: {SGD: {}}}")
    assert main(["compare", "--config", str(study), "--output", "memory://study"]) == 2
    assert "--output: 'memory://study' can't hold the study's SQLite database" in capsys.readouterr().err
    assert main(["compare", "--config", str(study), "--output", "s4://study"]) == 2
    assert capsys.readouterr().err == "error: --output: 's4://study': Protocol not known: s4\n"
