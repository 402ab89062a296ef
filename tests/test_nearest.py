"""The end of a message that refuses a name: names close to it, or all."""

import subprocess
import sys

import pytest

from lightning_optreg._nearest import close_names, nearest


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("SDG", ["SGD", "Adam", "AdamW"], "; did you mean SGD?"),
        ("sgd", ["SGD", "Adam"], "; did you mean SGD?"),
        ("Flip", ["RandomCrop", "RandomHorizontalFlip"], "; did you mean RandomHorizontalFlip?"),
        ("zzz", ["SGD", "Adam"], "; known: SGD, Adam"),
        ("zzz", [f"name{i}" for i in range(13)], ""),
        ("zzz", [], ""),
    ],
)
def test_nearest(name: str, known: list[str], hint: str) -> None:
    assert nearest(name, known) == hint


def test_at_most_three_names_are_suggested() -> None:
    assert nearest("adam", ["Adam", "AdamW", "NAdam", "RAdam"]) == "; did you mean Adam or RAdam or NAdam?"


def test_a_prefix_stands_before_each_name() -> None:
    assert nearest("x", ["lr", "eps"], prefix="--") == "; known: --lr, --eps"


def test_a_dotted_name_is_found_by_its_last_part() -> None:
    assert close_names("depth", ["model.net.width", "model.net.depth"]) == ["model.net.depth"]


def test_nothing_heavy_is_imported() -> None:
    heavy = "{'torch', 'lightning', 'numpy', 'jsonargparse'}"
    code = f"import sys, lightning_optreg._nearest; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
