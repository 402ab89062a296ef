"""Tables as text, and the files of a report: what the reports of all kinds of study share."""

import csv
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_optreg.files import replacing
from lightning_optreg.places import Place

if TYPE_CHECKING:  # matplotlib is imported when something is drawn: it takes a while
    from matplotlib.figure import Figure

__all__ = ["in_columns", "in_csv", "in_markdown", "markdown_cell", "write_files"]


def in_columns(rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows for a console.

    Example:
        >>> print(in_columns([["method", "mean"], ["SGD", "0.9"]]))
        method  mean
        SGD     0.9
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def in_csv(rows: Iterable[Sequence[Any]]) -> str:
    r"""Write rows as CSV.

    Example:
        >>> in_csv([["a", "b"], [1, "x,y"]])
        'a,b\n1,"x,y"\n'
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def in_markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    r"""Return the lines of a table in Markdown; the first row is its header.

    Example:
        >>> in_markdown([["method", "mean"], ["a|b", "0.9"]])
        ['| method | mean |', '| --- | --- |', '| a\\|b | 0.9 |']
    """
    header, *body = [[markdown_cell(cell) for cell in row] for row in rows]
    return ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *body)]


def markdown_cell(cell: str) -> str:
    """Return a cell's text without tags, which Markdown would take for HTML."""
    return " ".join(html.escape(cell, quote=False).replace("|", "\\|").split())


def write_files(
    folder: Place, texts: Mapping[str, str], pictures: "Mapping[str, Figure] | None" = None
) -> list[Place]:
    """Write the files of a report, each at once and whole.

    Args:
        folder: Created if it is missing.
        texts: By the names of their files.
        pictures: By name; each as PNG and SVG. Default: none.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in texts.items():
        with replacing(folder / name) as path:
            path.write_text(text, encoding="utf-8", errors="replace")
        written.append(folder / name)
    for name, figure in (pictures or {}).items():
        for suffix in ("png", "svg"):
            with replacing(folder / f"{name}.{suffix}") as path:
                figure.savefig(path, dpi=150)
            written.append(folder / f"{name}.{suffix}")
    return written
