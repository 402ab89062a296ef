"""The tutorials run as they are written, on small data, and become notebooks."""

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_optreg.__main__ import main

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
PROGRAM = "python -m lightning_optreg "


def script() -> Any:
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "scripts" / "notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["notebooks"] = module
    spec.loader.exec_module(module)
    return module


NOTEBOOKS = script()


def lines(shell: str) -> Iterator[str]:
    """The commands of a block."""
    for line in shell.replace("\\\n", " ").splitlines():
        if command := line.partition("#")[0].strip():
            yield command


def smaller(command: str, data: Path) -> list[str]:
    """The words of a command of the program, on small data and a CPU, and with little to do."""
    words = shlex.split(command.removeprefix(PROGRAM))
    where = ["--data.data_dir", str(data), "--data.verify_checksum", "false", "--trainer.accelerator", "cpu"]
    run = [*where, "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
    small = {
        "fit": run,
        "test": run,
        "plot landscape": ["--images", "64", "--points", "3", "--dpi", "40"],
        "plot surface": ["--steps", "3", "--dpi", "40"],
        "compare": ["--workers", "1"],
    }
    name = words[0] if words[0] != "plot" else f"plot {words[1]}"
    return [*words, *small.get(name, [])]


def smaller_study(text: str, data: Path) -> str:
    """A study of one seed and as few values as there may be, on small data."""
    study = yaml.safe_load(text)
    settings = {"data": {"init_args": {"data_dir": str(data), "verify_checksum": False}}}
    study["base"] += [settings, {"trainer": {"accelerator": "cpu"}}]
    study |= {"seeds": [0], "epochs": 1}
    for method in study["methods"].values():
        method["values"] = method["values"][:1]
    return yaml.safe_dump(study, sort_keys=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_runs_from_its_first_line_to_its_last(
    page: Path, fashion_mnist_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, block in enumerate(NOTEBOOKS.blocks(page.read_text())):
        if block.language == "python":
            exec(compile(block.text, f"{page.stem}-{number}", "exec"), names)
        elif block.file is not None:
            (tmp_path / block.file).write_text(smaller_study(block.text, fashion_mnist_dir))
        elif block.language == "shell":
            for command in lines(block.text):
                if command.startswith("scripts/"):
                    assert (ROOT / command.split()[0]).is_file()  # tests/test_scripts.py runs it
                else:
                    assert main(smaller(command, fashion_mnist_dir)) == 0, command


def test_every_command_of_a_tutorial_is_one_of_the_program_or_a_script() -> None:
    found = [
        command
        for page in PAGES
        for block in NOTEBOOKS.blocks(page.read_text())
        if block.language == "shell"
        for command in lines(block.text)
    ]
    assert len(found) > 8
    assert all(command.startswith((PROGRAM, "scripts/")) for command in found)


def test_the_navigation_has_every_tutorial() -> None:
    listed = re.findall(r": tutorials/(\w+)\.md$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert sorted(listed) == [page.stem for page in PAGES]
    start = (ROOT / "docs" / "index.md").read_text()
    assert all(f"(tutorials/{page.name})" in start for page in PAGES)
    assert all(f"({page.stem}.ipynb)" in page.read_text() for page in PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_notebook_has_all_that_the_page_has(page: Path) -> None:
    cells = NOTEBOOKS.notebook(page)["cells"]
    code = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
    expected = [block for block in NOTEBOOKS.blocks(page.read_text()) if block.language]
    assert [source.split("\n", 1)[-1] for source in code if source.startswith("%%")] == [
        block.text.strip("\n") for block in expected if block.language != "python"
    ]
    assert [source for source in code if not source.startswith("%%")] == [
        block.text.strip("\n") for block in expected if block.language == "python"
    ]
    text = "\n".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown")
    assert re.findall("^#.*", text, re.M) == re.findall(
        "^#.*", NOTEBOOKS._BLOCK.sub("", page.read_text()), re.M
    )
    assert "](../" not in text
    pictures = [name for cell in cells for name in cell.get("attachments", {})]
    assert pictures == re.findall(r"\(attachment:(\S+)\)", text)


def test_pieces_of_a_page_become_cells(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"picture")
    page = tmp_path / "page.md"
    page.write_text(
        "# T\n\nSee [that](x.md#y) and [this](https://example.org).\n\n![A](a.png)\n\n"
        "```python\nx = 1\n```\n\n```shell\nls  # all\n```\n```text\nout\n```\n"
        '```yaml title="s.yaml"\na: 1\n```\n'
    )
    made = NOTEBOOKS.notebook(page)
    assert [(cell["cell_type"], cell["source"]) for cell in made["cells"]] == [
        ("markdown", "# T\n\nSee that and [this](https://example.org).\n\n![A](attachment:a.png)"),
        ("code", "x = 1"),
        ("code", "%%bash\nls  # all"),
        ("markdown", "```text\nout\n```"),
        ("code", "%%writefile s.yaml\na: 1"),
    ]
    assert made["cells"][0]["attachments"] == {"a.png": {"image/png": "cGljdHVyZQ=="}}
    assert made == NOTEBOOKS.notebook(page)


def test_the_script_writes_notebooks(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "notebooks.py", "--output", tmp_path / "made"],
        capture_output=True,
        text=True,
        check=True,
    )
    written = [Path(line) for line in done.stdout.splitlines()]
    assert sorted(path.stem for path in written) == [page.stem for page in PAGES]
    assert [path.read_text() for path in written] == [text + "\n" for text in NOTEBOOKS.notebooks().values()]
