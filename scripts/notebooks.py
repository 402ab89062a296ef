"""Makes a Jupyter notebook of each tutorial: scripts/notebooks.py [--output DIR].

The pages in docs/tutorials are the only source. Text becomes Markdown, a block of Python a cell, and a block
of shell commands a cell of bash; a block with a title is a file, which a cell writes. Pictures come along. As
a hook of MkDocs, it puts the notebooks beside the pages.
"""

import argparse
import base64
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).parents[1]
TUTORIALS = ROOT / "docs" / "tutorials"
_BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.M | re.S)
_PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
_LINK = re.compile(
    r"(?<!!)\[([^\]]+)\]\((?!https?:)[^)\s]+\)"
)  # to other pages, which a notebook is not beside


class Block(NamedTuple):
    """A piece of a page."""

    language: str
    """`python`, `shell` or another language; empty for text."""
    text: str
    file: str | None = None
    """What it is the contents of."""


def blocks(page: str) -> Iterator[Block]:
    """Take a page apart."""
    end = 0
    for found in _BLOCK.finditer(page):
        yield Block("", page[end : found.start()])
        yield Block(found[1], found[3], found[2])
        end = found.end()
    yield Block("", page[end:])


def notebook(page: Path) -> Any:
    """Make a notebook of a page, checked against the format; the same page gives the same notebook."""
    cells = [cell for block in blocks(page.read_text()) if (cell := _cell(block, page)) is not None]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    made = new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})
    nbformat.validate(made)
    return made


def _cell(block: Block, page: Path) -> Any:
    text = block.text.strip("\n")
    if block.language == "python":
        return new_code_cell(text)
    if block.language == "shell":
        return new_code_cell(f"%%bash\n{text}")
    if block.file is not None:
        return new_code_cell(f"%%writefile {block.file}\n{text}")
    if block.language:
        return new_markdown_cell(f"```{block.language}\n{text}\n```")
    if not text.strip():
        return None
    attachments = {}
    for _, path in _PICTURE.findall(text):
        content = base64.b64encode((page.parent / path).read_bytes()).decode()
        attachments[Path(path).name] = {"image/png": content}
    text = _PICTURE.sub(lambda found: f"![{found[1]}](attachment:{Path(found[2]).name})", text)
    text = _LINK.sub(r"\1", text)
    return new_markdown_cell(text, attachments=attachments) if attachments else new_markdown_cell(text)


@cache
def notebooks() -> dict[str, str]:
    """The notebooks by file name."""
    return {f"{page.stem}.ipynb": nbformat.writes(notebook(page)) for page in sorted(TUTORIALS.glob("*.md"))}


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """What MkDocs calls with the files of the site: adds the notebooks."""
    from mkdocs.structure.files import File

    for name, content in notebooks().items():
        files.append(File.generated(config, f"tutorials/{name}", content=content))
    return files


def main() -> None:
    """Write the notebooks."""
    parser = argparse.ArgumentParser(description="Make a Jupyter notebook of each tutorial.")
    parser.add_argument(
        "--output", type=Path, default=Path("notebooks"), help="the folder; default: notebooks"
    )
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in notebooks().items():
        (folder / name).write_text(content + "\n")
        print(folder / name)


if __name__ == "__main__":
    main()
