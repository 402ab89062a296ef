"""What the scripts do, with a stand-in for .venv's Python that notes its calls and trains nothing."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Plays python3 on the PATH and, copied by `-m venv`, the one in .venv. Real Python does what isn't listed.
STAND_IN = r"""#!/usr/bin/env bash
real={real}
calls={calls}
case "$*" in
    "-m venv --clear "*)
        echo venv >>"$calls"
        mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
    "-m pip config list") echo "global.index-url='https://example.org/simple'" ;;
    "-m pip install "*)
        echo "pip ${{@: -1}}" >>"$calls"
        exit "${{PIP_STATUS:-0}}" ;;
    "-m lightning_optreg fit "*)
        from=; [[ "$*" != *"--ckpt_path last"* ]] || from=" last"
        echo "fit$from" >>"$calls"
        run=runs/quickstart/version_$(ls -d runs/quickstart/version_* 2>/dev/null | wc -l)
        if [ -n "$from" ]; then run=$(ls -d runs/quickstart/version_* | tail -n 1); fi
        [ "${{STOP:-}}" != early ] || exit 143
        if [ "${{STOP:-}}" = told ]; then
            trap 'echo stopped >>"$calls"; kill %1; exit 143' TERM
            sleep 60 &
            wait
        fi
        mkdir -p "$run/checkpoints" && touch "$run/checkpoints/last.ckpt"
        [ -z "${{STOP:-}}" ] || exit 143
        echo '{{"images_per_second": 8000.0, "seconds": 70.0, "validation_seconds": 5.0}}' \
            >"$run/throughput.json"
        printf '%s\n' test/accuracy,test/top5,test/calibration_error ,, 0.912,0.998,0.0123 \
            >"$run/metrics.csv" ;;
    "-m lightning_optreg test "*) echo "test ${{@: -1}}" >>"$calls" ;;
    "-c import torch") exit 1 ;;
    *) exec "$real" "$@" ;;
esac
"""


class Checkout:
    """A copy of the scripts in a folder whose name has a space, and a machine to run them on."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "my checkout"
        self.calls_file = folder / "calls"
        shutil.copytree(ROOT / "scripts", self.root / "scripts")
        self.recipe = self.root / "configs" / "fashion_mnist" / "lenet5.yaml"
        self.recipe.parent.mkdir(parents=True)
        self.recipe.write_text("first: recipe\n")
        (self.root / "pyproject.toml").write_text("[project]\n")
        (self.root / "data").mkdir()
        self.path = folder / "bin"
        self.path.mkdir()
        python = self.path / "python3"
        python.write_text(STAND_IN.format(real=sys.executable, calls=f"'{self.calls_file}'"))
        python.chmod(0o755)

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        self.calls_file.write_text("")
        data = str(self.root / "data")
        return subprocess.run(
            [self.root / "scripts" / script, *arguments],
            cwd="/",
            env={"PATH": f"{self.path}:/usr/bin:/bin", "HOME": str(self.root), "DATA": data, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def quickstart(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("quickstart", *arguments, **environment)

    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_first_run_installs_trains_tests_and_shows(checkout: Checkout) -> None:
    done = checkout.quickstart()
    assert done.returncode == 0, done.stderr
    assert checkout.calls() == ["venv", "pip .", "fit", "test best"]
    for shown in (
        "91.20%",
        "99.80%",
        "1.23%",
        "8,000 images/s, 70 s",
        str(checkout.root / "runs/quickstart/version_0"),
    ):
        assert shown in done.stdout


def test_second_run_uses_what_is_there(checkout: Checkout) -> None:
    checkout.quickstart()
    done = checkout.quickstart()
    assert checkout.calls() == ["test best"]
    assert "already trained" in done.stdout
    assert "91.20%" in done.stdout


def test_a_signal_to_the_script_ends_what_it_has_started(checkout: Checkout) -> None:
    checkout.calls_file.write_text("")
    environment = {"PATH": f"{checkout.path}:/usr/bin:/bin", "HOME": str(checkout.root), "STOP": "told"}
    script = subprocess.Popen(
        [checkout.root / "scripts" / "quickstart"],
        env={**environment, "DATA": str(checkout.root / "data")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    end = time.monotonic() + 60
    while "fit" not in checkout.calls():
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(0.2)
    script.terminate()
    assert script.wait(60) == 143
    assert checkout.calls()[-2:] == ["fit", "stopped"]


def test_retrain_and_another_recipe_train_anew(checkout: Checkout) -> None:
    checkout.quickstart()
    checkout.quickstart("--retrain")
    assert checkout.calls() == ["fit", "test best"]
    checkout.recipe.write_text("another: recipe\n")
    checkout.quickstart()
    assert checkout.calls() == ["fit", "test best"]
    assert len(list(checkout.root.glob("runs/quickstart/version_*"))) == 3


def test_a_stopped_run_goes_on(checkout: Checkout) -> None:
    assert checkout.quickstart(STOP="late").returncode == 143
    assert checkout.calls() == ["venv", "pip .", "fit"]
    checkout.quickstart()
    assert checkout.calls() == ["fit last", "test best"]


def test_a_run_that_stopped_before_its_first_checkpoint_is_not_taken_for_the_one_before(
    checkout: Checkout,
) -> None:
    checkout.quickstart()
    assert checkout.quickstart("--retrain", STOP="early").returncode == 143
    checkout.quickstart()
    assert checkout.calls() == ["fit", "test best"]
    checkout.quickstart("--retrain", STOP="late")
    checkout.quickstart()
    assert checkout.calls() == ["fit last", "test best"]


def test_changed_dependencies_are_installed(checkout: Checkout) -> None:
    checkout.quickstart()
    (checkout.root / "pyproject.toml").write_text("[project]  # another\n")
    checkout.quickstart()
    assert checkout.calls() == ["pip .", "test best"]


def test_a_failed_install_is_tried_again(checkout: Checkout) -> None:
    assert checkout.quickstart(PIP_STATUS="1").returncode == 1
    checkout.quickstart()
    assert checkout.calls() == ["pip .", "fit", "test best"]


def test_what_test_installed_serves_quickstart_but_not_the_other_way_round(checkout: Checkout) -> None:
    checkout.quickstart()
    failed = checkout.run("test")  # the stand-in brings no ruff
    assert failed.returncode != 0
    assert checkout.calls() == ["pip .[dev]"]
    assert "ruff check failed" in failed.stdout
    (checkout.root / ".venv" / "installed-").unlink()
    checkout.quickstart()
    assert checkout.calls() == ["test best"]


def test_unknown_option_is_refused(checkout: Checkout) -> None:
    done = checkout.quickstart("--again")
    assert done.returncode == 1
    assert done.stderr == "usage: scripts/quickstart [--retrain]\n"


def test_without_a_python_it_says_so(checkout: Checkout) -> None:
    tools = checkout.path.parent / "tools"
    tools.mkdir()
    for tool in ("bash", "dirname", "env", "realpath"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    done = checkout.quickstart(PATH=str(tools))
    assert done.returncode == 1
    assert "No Python of version 3.10 or later was found" in done.stderr


def test_without_venv_it_names_the_package(checkout: Checkout) -> None:
    stand_in = checkout.path / "python3"
    stand_in.write_text(stand_in.read_text().replace('"-c import torch")', '"-c import torch"|*ensurepip*)'))
    done = checkout.quickstart()
    assert done.returncode == 1
    version = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    assert f"apt-get install {version}" in done.stderr


def test_ci_runs_the_tests_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if not line.startswith("#")]
    assert lines == ['exec "$(dirname "${BASH_SOURCE[0]}")/../scripts/test"']
    for script in (".ci/run", "scripts/test", "scripts/quickstart"):
        assert os.access(ROOT / script, os.X_OK)
