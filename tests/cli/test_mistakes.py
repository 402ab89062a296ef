"""Mistyped command lines: each is answered in a few lines that name the culprit, and status 2.

Nothing is written for them, and no data are read: the data files of every row are broken.
"""

from pathlib import Path

import lightning.pytorch  # noqa: F401  # its log keeps the stream that it finds when it is imported
import pytest

from lightning_optreg.__main__ import main
from tests.cli import mistaken_commands, mistaken_files, mistaken_words
from tests.cli.mistake import Mistake

TABLE = [
    *mistaken_files.NAMES,
    *mistaken_files.FILES,
    *mistaken_words.WORDS,
    *mistaken_words.RANGES,
    *mistaken_words.MONITORS,
    *mistaken_words.CHECKPOINTS,
    *mistaken_commands.COMMANDS,
    *mistaken_commands.COMPARE,
    *mistaken_commands.STUDIES,
]


def row(mistake: Mistake) -> object:
    shown = next((repr(content) for content in mistake.files.values() if content), "")
    # most of the broken files are left to the slow tests
    is_rarer = mistake.slow or (mistake in mistaken_files.FILES and mistake not in mistaken_files.FILES[::3])
    marks = [pytest.mark.slow] if is_rarer else []
    return pytest.param(mistake, id=f"{mistake.line} {shown}"[:110].strip(), marks=marks)


def listing(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("mistake", [row(mistake) for mistake in TABLE])
def test_a_mistake_is_answered(
    mistake: Mistake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    mistake.make_files()
    before = listing(tmp_path)
    status = main(mistake.argv)
    out, err = capfd.readouterr()
    assert status == 2, out + err
    assert "Traceback" not in out + err
    assert listing(tmp_path) == before
    assert out == ""
    lines = err.splitlines()
    assert len(lines) <= 5, err
    (answer,) = (line for line in lines if line.startswith("error: "))
    assert [word for word in mistake.says if word not in answer] == [], answer
    assert len(answer) < 500
