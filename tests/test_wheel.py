"""The wheel, installed in an environment of its own and used from an empty folder."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.cli.tools import SHORT

ROOT = Path(__file__).parents[1]

STUDY = """\
name: mine
base: [fashion_mnist/softmax, settings.yaml]
epochs: 1
seeds: [0]
methods:
  SGD: {optimizer: {class_path: SGD}, values: [0.1]}
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        folder,
        ROOT,
    ]
    subprocess.run(command, check=True)
    (file,) = folder.glob("lightning_optreg-*.whl")
    return file


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the wheel, and this one's packages but for the checkout."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    found = folder / "bin" / "python"
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        found,
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        wheel,
    ]
    subprocess.run(install, check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    # A path is added as it is: the .pth files there, with that of a checkout, are not read.
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"])
    return found


@pytest.fixture
def run(python: Path, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Runs the installed program in an empty folder, and returns what it prints."""

    def program(*words: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [python.with_name("lightning-optreg"), *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return program


def test_the_wheel_carries_the_recipes(wheel: Path) -> None:
    names = set(ZipFile(wheel).namelist())
    recipes = {f"lightning_optreg/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert recipes <= names
    templates = {str(path.relative_to(ROOT)) for path in (ROOT / "lightning_optreg").rglob("*.jinja")}
    assert templates | {"lightning_optreg/py.typed"} <= names
    assert not [name for name in names if name.partition("/")[0] in ("tests", "docs", "scripts", "configs")]


@pytest.mark.slow
def test_a_recipe_trains_from_an_empty_folder(run, fashion_mnist_dir: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert "fashion_mnist/lenet5" in run("configs")
    run("fit", "--config", "fashion_mnist/softmax", f"--data.data_dir={fashion_mnist_dir}", *SHORT)
    assert (tmp_path / "runs/fashion_mnist/softmax/version_0/checkpoints/best.ckpt").is_file()


@pytest.mark.slow  # four processes
def test_every_step_of_a_study_and_of_a_run(run, fashion_mnist_dir: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    data = f"--data.data_dir={fashion_mnist_dir}"
    run("fit", "--config", "fashion_mnist/softmax", "--config", "methods/ema", data, *SHORT)
    assert "test/accuracy" in run("test", "--ckpt_path", "best")
    run("predict", "--ckpt_path", "best")
    assert (tmp_path / "runs/fashion_mnist/softmax/version_0/predictions.csv").is_file()
    (tmp_path / "study.yaml").write_text(STUDY)
    settings = {"data": {"init_args": {"data_dir": str(fashion_mnist_dir), "verify_checksum": False}}}
    (tmp_path / "settings.yaml").write_text(f"{settings}")
    run("compare", "--config", "study.yaml", "--output", "study", "--workers", "1")
    assert list((tmp_path / "study").rglob("*.html"))
