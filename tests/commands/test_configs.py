"""The command `configs`, and files of the package by name wherever a command takes a file."""

import subprocess
import sys
from pathlib import Path

import pytest

from lightning_optreg import recipes
from lightning_optreg.cli.given import with_found_files
from lightning_optreg.commands.configs import main
from lightning_optreg.studies.study_file import merged_base

CONFIGS = Path(__file__).parents[2] / "configs"


def test_names_are_the_files() -> None:
    files = {path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.glob("*/*.yaml")}
    assert set(recipes.names()) == files
    assert len(files) > 50


def test_lists_each_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in recipes.names():
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert len(name) + 10 < len(line) <= 110, name


def test_answers_before_torch_is_imported() -> None:
    program = (
        "import sys; from lightning_optreg.__main__ import main; main(['configs']); "
        "sys.exit(', '.join({'torch', 'yaml', 'lightning'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "fashion_mnist/lenet5" in done.stdout


def test_copies_a_file_to_edit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    source = (CONFIGS / "methods" / "ema.yaml").read_text()
    (tmp_path / "sub").mkdir()
    assert main(["copy", "methods/ema"]) == 0
    assert main(["copy", "configs/methods/ema.yaml", "--output", "mine.yaml"]) == 0
    assert main(["copy", "methods/ema", "--output", "sub"]) == 0
    assert capsys.readouterr().out.split() == ["ema.yaml", "mine.yaml", "sub/ema.yaml"]
    assert {Path(file).read_text() for file in ("ema.yaml", "mine.yaml", "sub/ema.yaml")} == {source}
    Path("ema.yaml").write_text("edited")
    assert main(["copy", "methods/ema"]) == 2
    assert "'ema.yaml' exists; give another file" in capsys.readouterr().err
    assert Path("ema.yaml").read_text() == "edited"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show"], "configs show needs a name, such as fashion_mnist/lenet5"),
        (["show", "lenet5"], "did you mean cifar10/lenet5 or fashion_mnist/lenet5 or sweeps/lenet5?"),
        (["copy", "methods/emma"], "nothing is called 'methods/emma'; did you mean methods/ema"),
        (["methods/ema"], "say what to do with it: configs show methods/ema"),
        (["cpoy", "methods/ema"], "unknown word 'cpoy'; did you mean copy?"),
        (["copy", "methods/ema", "--output", "no/where.yaml"], "there is no folder 'no'"),
        (["--outptu", "a"], "did you mean --output?"),
    ],
)
def test_refuses_in_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("word", ["methods/ema", "methods/ema.yaml", "configs/methods/ema.yaml"])
def test_a_name_means_the_file_from_any_folder(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = str(recipes.FOLDER / "methods" / "ema.yaml")
    for words in (["--config", word], [f"--config={word}"], [f"-c{word}"], ["-c", word]):
        assert [each.partition("/")[2] for each in with_found_files(words)][-1] in path
        assert path in "".join(with_found_files(words))
    own = tmp_path / "methods" / "ema.yaml"
    own.parent.mkdir()
    own.write_text("")
    assert (
        with_found_files(["--config", "methods/ema.yaml"])[1] == "methods/ema.yaml"
    )  # one's own comes first


def test_a_name_that_means_no_file_is_refused() -> None:
    with pytest.raises(
        FileNotFoundError, match=r"config: there is no file 'emma'; did you mean methods/ema\?"
    ):
        with_found_files(["fit", "--config", "emma"])
    # what is no name, or like none, is left to the parser: text in the place of a file, and standard input
    for words in (
        ["--config", "{trainer: {max_epochs: 1}}"],
        ["--config", "-"],
        ["--config"],
        ["-c", "x.yaml"],
    ):
        assert with_found_files(words) == words


def test_a_study_names_its_base_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = tmp_path / "study.yaml"
    by_name = merged_base(["fashion_mnist/mlp", "methods/no_decay"], study)
    by_path = merged_base([CONFIGS / "fashion_mnist/mlp.yaml", CONFIGS / "methods/no_decay.yaml"], study)
    assert by_name == by_path
    assert by_name["model"]["no_decay"] is True
    with pytest.raises(
        FileNotFoundError, match="nor does the package have it; did you mean fashion_mnist/mlp"
    ):
        merged_base(["fashion_mnist/mpl"], study)
