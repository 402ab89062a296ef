"""The documentation's Python runs, and it lists every public part."""

import importlib
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
from torch import nn

from lightning_optreg import ImageClassifier
from lightning_optreg.__main__ import main
from lightning_optreg.nets import SoftmaxRegression

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)


def python_blocks() -> list[tuple[str, str]]:
    return [
        (f"{page.name}-{number}", block)
        for page in PAGES
        for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S))
    ]


@pytest.mark.parametrize(("name", "block"), python_blocks(), ids=[name for name, _ in python_blocks()])
def test_python_runs(
    name: str, block: str, fashion_mnist_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    my_project = ModuleType("my_project")
    my_project.MyModule = lambda: ImageClassifier(SoftmaxRegression())  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_project", my_project)
    # A small data set in the place of the real one, which not every machine has.
    small = f"FashionMNISTDataModule(data_dir={str(fashion_mnist_dir)!r}, verify_checksum=False, "
    exec(compile(block.replace("FashionMNISTDataModule(", small), name, "exec"), {"__name__": "__main__"})


def commands() -> list[str]:
    blocks = re.findall(r"^```shell\n(.*?)^```", TEXT, re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    program = "python -m lightning_optreg "
    return [line.partition("#")[0].removeprefix(program) for line in lines if line.startswith(program)]


# The others have no settings to print; their own tests run them.
_OTHERS = ("export", "plot", "compare")


@pytest.mark.parametrize(
    "command", sorted({command for command in commands() if command.split()[0] not in _OTHERS})
)
def test_commands_are_understood(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    my_package = ModuleType("my_package")
    my_package.MyNet = MyNet  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_package", my_package)
    words = shlex.split(command)
    more, shown = {
        "describe": ([], "multiply-adds"),
        "compare": (["--plan"], "passes over the training data"),
        "plot": (["--help"], "--output"),
    }.get(words[0], (["--print_config"], "default_root_dir:"))
    assert main([*words, *more]) == 0
    assert shown in capsys.readouterr().out


class MyNet(nn.Module):
    """Somebody's network."""

    __module__ = "my_package"


def public_names() -> list[str]:
    def own(module: ModuleType) -> list[str]:
        return [f"{module.__name__}.{name}" for name in module.__all__ if name != "main"]  # a command's

    modules = (
        "callbacks",
        "classifier",
        "data",
        "export",
        "figures",
        "layers",
        "loggers",
        "losses",
        "nets",
        "optimizers",
        "param_groups",
        "runs",
        "schedulers",
        "studies",
    )
    return [name for module in modules for name in own(importlib.import_module(f"lightning_optreg.{module}"))]


@pytest.mark.parametrize("name", public_names())
def test_every_public_name_is_documented(name: str) -> None:
    assert f"::: {name}\n" in TEXT


@pytest.mark.parametrize("recipe", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_listed(recipe: Path) -> None:
    assert str(recipe.relative_to(ROOT)) in TEXT
