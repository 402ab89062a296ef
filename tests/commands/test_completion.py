"""Completion: the script is generated, and bash completes with it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_optreg.__main__ import main
from lightning_optreg.commands.completion import completion_script

pytest.importorskip("shtab")

CASES = {
    "": {"fit", "test", "plot", "compare"},
    "pl": {"plot"},
    "fit --model.net Res": {"ResNet", "ResNeXt"},
    "fit --model.net ResNet --model.net.dep": {"--model.net.depth"},
    "fit --config methods/em": {"methods/ema"},
    "fit --config re": {"recipe.yaml"},
    "fit --config a.yaml --trainer.callbacks+ Max": {"MaxNorm"},
    "fit --trainer.callbacks.max_no": {"--trainer.callbacks.max_norm"},
    "fit --model.net.block b": {"basic", "bottleneck"},
    "fit --safe --oversub": {"--oversubscribe"},
    "fit --trainer.default_root_dir ru": {"runs"},
    "fit --help MaxN": {"MaxNorm"},
    "test --ckpt_path be": {"best"},
    "validate --trainer.dev": {"--trainer.devices"},
    "attack --ep": {"--eps", "--eps_l2"},
    "attack --data.batch": {"--data.batch_size"},
    "describe --net Le": {"LeNet5"},
    "configs show methods/em": {"methods/ema"},
    "plot su": {"surface"},
    "plot surface --surface sa": {"saddle"},
    "plot landscape --traj": {"--trajectory"},
    "compare --config studies/qui": {"studies/quick"},
    "export --input": {"--input_shape"},
}


@pytest.fixture(scope="module")
def script() -> str:
    return completion_script("bash")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.slow
def test_bash_completes(script: str, tmp_path: Path) -> None:
    (tmp_path / "script.sh").write_text(script)
    (tmp_path / "recipe.yaml").touch()
    (tmp_path / "runs").mkdir()
    ask = (
        'COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=(); _shtab_lightning_optreg; echo "${COMPREPLY[*]}"'
    )
    empty = "''"
    asks = [f"COMP_WORDS=(lightning-optreg {words or empty}); {ask}" for words in CASES]
    program = "\n".join(["source script.sh", "complete -p lightning-optreg", *asks])
    run = subprocess.run(
        ["bash", "--norc", "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    first, *answers = run.stdout.splitlines()
    assert first.endswith("-F _shtab_lightning_optreg lightning-optreg")
    found = {words: set(answer.split()) for words, answer in zip(CASES, answers, strict=True)}
    assert {words for words, wanted in CASES.items() if words and found[words] != wanted} == set()
    assert found[""] >= CASES[""]


@pytest.mark.slow
def test_zsh_has_a_script_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print_completion", "zsh"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("#compdef lightning-optreg")
    assert "--model.net" in out


@pytest.mark.parametrize("words", [["--print_completion"], ["--print_completion=korn"]])
def test_an_unknown_shell(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("error: --print_completion must be bash or zsh")


def test_without_shtab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--print_completion", "bash"]) == 2
    assert capsys.readouterr().err == (
        "error: --print_completion needs the package shtab: pip install 'lightning-optreg[completion]'\n"
    )
