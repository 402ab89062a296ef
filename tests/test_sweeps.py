"""Sweeps of Weights & Biases: their command is one that `fit` understands, with every value that they try."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_optreg.__main__ import main

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))


def test_there_are_sweeps() -> None:
    assert SWEEPS


def values_of(parameter: dict[str, Any]) -> list[Any]:
    return parameter.get("values") or [parameter["min"], parameter["max"]]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_fit_understands_what_the_agent_runs(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    sweep = yaml.safe_load(path.read_text())
    env, python, dash_m, program, *words = sweep["command"]
    assert (env, python, dash_m, program) == ("${env}", "python", "-m", "lightning_optreg")
    assert words[-1] == "${args}"  # the agent writes --key=value there
    assert sweep["metric"]["name"] == "val/accuracy"
    tried = {key: values_of(parameter) for key, parameter in sweep["parameters"].items()}
    for number in range(max(map(len, tried.values()))):
        chosen = {key: values[number % len(values)] for key, values in tried.items()}
        assert (
            main([*words[:-1], *(f"--{key}={value}" for key, value in chosen.items()), "--print_config"]) == 0
        )
        shown = yaml.safe_load(capsys.readouterr().out)
        for key, value in chosen.items():
            at = shown
            for part in key.split("."):
                at = at[part]
            assert at == value, key
