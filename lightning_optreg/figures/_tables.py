"""The rows of the tables that figures are drawn from."""

import csv
from pathlib import Path

from lightning_optreg.places import UrlPath, place_of

__all__ = ["read_rows"]


def read_rows(path: str | Path | UrlPath, *columns: str, owner: str) -> list[dict[str, str]]:
    """Read a table with a head line.

    Args:
        path: A CSV file.
        columns: Those that it must have.
        owner: Name of the calling function, for the error.

    Returns:
        Its rows, by the columns' names.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it lacks a column.
    """
    with place_of(path).open(newline="") as file:
        rows = csv.DictReader(file)
        for name in columns:
            if name not in (rows.fieldnames or ()):
                raise ValueError(f"{owner}: {path} has no column {name!r}, but {rows.fieldnames}")
        return list(rows)
