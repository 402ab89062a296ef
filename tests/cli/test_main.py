"""The entry: help and version at once, dispatch on the first word, and statuses of a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from lightning_optreg import __version__
from lightning_optreg.__main__ import main
from lightning_optreg.commands import COMMANDS
from tests.cli.tools import short


def process(*argv: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the program as a user does."""
    command = [sys.executable, "-m", "lightning_optreg", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, check=False)


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_the_commands(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for command in COMMANDS:
        assert f"\n  {command.name} " in out
    assert out.count("lightning-optreg fit --config configs/") == 1
    assert max(map(len, out.splitlines())) <= 100


def test_the_example_of_the_help_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    words = capsys.readouterr().out.split()
    root = Path(__file__).parents[2]
    files = [word for word in words if word.endswith(".yaml")]
    assert files
    assert all((root / file).is_file() for file in files)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lightning-optreg {__version__}\n"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from lightning_optreg.__main__ import main; main(['--help']); main(['fti']);"
        "print([name for name in ('torch', 'lightning', 'numpy', 'jsonargparse') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("[]\n")


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("fti", "unknown command 'fti'; did you mean fit?"),
        ("FIT", "did you mean fit?"),
        ("tets", "did you mean test?"),
        ("zzz", f"known: {', '.join(command.name for command in COMMANDS)}"),
        ("--trainer.max_epochs", "unknown option '--trainer.max_epochs'"),
    ],
)
def test_an_unknown_command(word: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert says in err
    assert err.count("\n") == 1


def test_a_command_of_lightning_has_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--help"]) == 0
    out = capsys.readouterr().out
    for option in ("--model.net", "--data", "--optimizer", "--trainer.max_epochs", "--ckpt_path"):
        assert option in out


def test_a_part_has_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--model.net.help", "ResNet"]) == 0
    assert "--model.net.depth" in capsys.readouterr().out


def test_describe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "--net", "SoftmaxRegression"]) == 0
    assert "7,850" in capsys.readouterr().out


@pytest.mark.slow
def test_a_process_of_its_own_succeeds(tmp_path: Path, fashion_mnist_dir: Path) -> None:
    result = process("fit", *short(fashion_mnist_dir, Path("runs")), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert "jsonargparse" not in result.stderr.lower()
    assert "deprecat" not in result.stderr.lower()
    assert sorted(path.name for path in tmp_path.glob("runs/*")) == ["version_0"]
    assert (tmp_path / "runs/version_0/checkpoints/last.ckpt").is_file()


@pytest.mark.slow
def test_a_process_of_its_own_fails(tmp_path: Path, fashion_mnist_dir: Path) -> None:
    options = short(fashion_mnist_dir, Path("runs"))
    result = process("fit", *options, "--model.net=ResNet", "--model.net.dpeth=20", cwd=tmp_path)
    assert result.returncode == 2
    assert [line for line in result.stderr.splitlines() if line.startswith("error: ")] == [
        "error: model.net.dpeth: ResNet has no argument 'dpeth'; did you mean depth or width?"
    ]
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["fit --help", "configs"])
def test_a_closed_pipe_is_no_error(command: str) -> None:
    """As `| head -1` closes it, while there is more to write than a pipe holds."""
    program = f"import sys; from lightning_optreg.__main__ import main; sys.exit(main({command.split()}))"
    program = f"import builtins; p = print; builtins.print = lambda *a, **k: p(*a * 50, **k); {program}"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert (process.wait(), process.stderr.read()) == (141, "")
    process.stderr.close()
