"""Without any extra the program works, and each command that needs one says which in a sentence."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.test_dependencies import PROJECT

ROOT = Path(__file__).parents[1]
EXTRAS = set(PROJECT["optional-dependencies"]) - {"dev", "docs"}

# Hides the packages of all extras, with what they consist of, and runs commands one after the other.
PROGRAM = r"""
import contextlib, importlib.metadata, io, json, re, sys

hidden, commands = json.loads(sys.argv[1])
found = importlib.metadata.packages_distributions()
same = lambda name: re.sub(r"[-_.]+", "-", name).lower()
names = {top for top, owners in found.items() if {same(owner) for owner in owners} & set(hidden)}

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in names:
            return None
        return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):  # what finds the distributions
        return getattr(self.finder, name)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
real = importlib.metadata.Distribution.from_name.__func__

def from_name(cls, name):
    if same(name) in hidden:
        raise importlib.metadata.PackageNotFoundError(name)
    return real(cls, name)

importlib.metadata.Distribution.from_name = classmethod(from_name)
from lightning_optreg.__main__ import main

results = []
for words in commands:
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        status = main(words)
    results.append((status, errors.getvalue()))
print(json.dumps([sorted(set(sys.modules) & names), results]))
"""


@pytest.mark.slow
def test_commands_say_which_extra_they_need(fashion_mnist_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    always = {Requirement(each).name.lower() for each in PROJECT["dependencies"]}
    optional = {
        re.sub(r"[-_.]+", "-", Requirement(each).name).lower()
        for extra in EXTRAS
        for each in PROJECT["optional-dependencies"][extra]
    }
    hidden = sorted(optional - always - {"jinja2"})  # jinja2: torch brings it
    recipe = [
        *["--config", "configs/fashion_mnist/softmax.yaml", "--data.data_dir", str(fashion_mnist_dir)],
        *["--data.verify_checksum", "false", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "1"],
        *["--trainer.enable_progress_bar", "false"],
    ]
    private = ["--config", "configs/fashion_mnist/private_lenet5.yaml"]
    checkpoint = ["--ckpt_path", "last", "--default_root_dir", "runs/fashion_mnist/softmax"]
    writer = ["--trainer.callbacks+", "PredictionWriter", "--trainer.callbacks.path", "a.parquet"]
    needed: list[tuple[list[str], str | None]] = [
        (["fit", *recipe], None),
        (["test", *recipe, "--ckpt_path", "best"], None),
        (["describe", "--net", "LeNet5", "--input_shape", "1", "28", "28"], None),
        (["plot", "landscape", *checkpoint, "--points", "3", "--images", "64", "--output", "a.png"], None),
        (["fit", *recipe, "--config", "configs/methods/wandb.yaml"], "wandb"),
        (["fit", *recipe, "--config", "configs/methods/tensorboard.yaml"], "tensorboard"),
        (["fit", *recipe, "--config", "configs/methods/downpour.yaml"], "cluster"),
        (["fit", *recipe, "--trainer.default_root_dir", "s3://bucket/runs"], "s3"),
        (["fit", *private, *recipe[2:]], "privacy"),
        (["predict", *recipe, "--ckpt_path", "last", *writer], "parquet"),
        (["export", *checkpoint, "--output", "a.onnx"], "onnx"),
        (["attack", *recipe[:-2], "--ckpt_path", "last", "--eps", "0.1", "--images", "8"], "robustness"),
        (["compare", "--config", "configs/studies/quick.yaml", "--plan"], "tune"),
        (["tune", "--config", "configs/studies/tune_lenet5.yaml", "--plan"], "tune"),
        (["crossval", "--config", "configs/studies/crossval_mlp.yaml", "--plan"], "tune"),
    ]
    commands = [words for words, _ in needed]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([hidden, commands])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    imported, results = json.loads(done.stdout.splitlines()[-1])
    assert imported == []
    for (words, extra), (status, errors) in zip(needed, results, strict=True):
        what = f"{words[0]} ({extra}): {errors}"
        if extra is None:
            assert status == 0, what
            continue
        assert status == 2, what
        last = errors.splitlines()[-1]
        assert last.startswith("error: "), what
        assert last.count(f"lightning-optreg[{extra}]") == 1, what


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_an_extra_is_named_where_it_is_needed(extra: str) -> None:
    """In the package's messages, by the name that pip knows."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "lightning_optreg").rglob("*.py")))
    assert re.search(rf"lightning-optreg\[{extra}\]|[\"']{extra}[\"']", text)


def test_no_message_names_an_extra_that_is_not_there() -> None:
    for path in sorted((ROOT / "lightning_optreg").rglob("*.py")):
        named = set(re.findall(r"lightning-optreg\[([\w,]+)\]", path.read_text()))
        assert {each for names in named for each in names.split(",")} <= EXTRAS, path
