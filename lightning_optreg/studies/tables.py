"""The table of a study's methods: for a console, in Markdown and as CSV."""

from statistics import mean, median

from lightning_optreg.studies.layout import in_columns, in_csv, in_markdown, markdown_cell
from lightning_optreg.studies.summary import MethodSummary, Summary

__all__ = ["NOTE", "format_table", "notes_of", "table_cells", "table_csv", "table_markdown"]

_HEADER = (
    "method",
    "{tuned}",
    "mean",
    "95 % interval",
    "median",
    "best",
    "epochs to {target}",
    "seconds",
    "lost",
)


def table_cells(summary: Summary) -> list[list[str]]:
    """Return the table's cells as text, the header first."""
    target = "target" if summary.target is None else f"{summary.target:.4g}"
    rows = [[text.format(tuned=summary.tuned, target=target) for text in _HEADER]]
    if summary.reference is not None:
        rows[0].append(f"less {summary.reference}")
    for row in summary.methods:
        value = summary.setting(row.method, row.value) + (" *" if row.at_edge else "")
        cells = [row.method, value]
        if row.test:
            interval = "" if row.interval is None else f"{row.interval[0]:.4f} to {row.interval[1]:.4f}"
            cells += [f"{mean(row.test):.4f}", interval, f"{median(row.test):.4f}", f"{max(row.test):.4f}"]
        else:
            cells += ["", "", "", ""]
        of = f" ({row.reached}/{row.seeds})" if 0 < row.reached < row.seeds else ""
        cells.append("not reached" if row.epochs_to_target is None else f"{row.epochs_to_target:g}{of}")
        cells.append("" if row.seconds_to_target is None else f"{row.seconds_to_target:.1f}")
        cells.append(str(row.lost) if row.lost else "")
        if summary.reference is not None:
            cells.append(_difference(row, summary.reference))
        rows.append(cells)
    return rows


def _difference(row: MethodSummary, reference: str) -> str:
    if row.method == reference:
        return "reference"
    if row.difference is None:
        return ""
    interval = row.difference_interval
    around = "" if interval is None else f" ({interval[0]:+.4f} to {interval[1]:+.4f})"
    return f"{row.difference:+.4f}{around}"


def notes_of(summary: Summary) -> list[str]:
    """Return what to say below the table: values at an end of their grid, and many comparisons."""
    notes = [NOTE] if any(row.at_edge for row in summary.methods) else []
    compared = sum(row.difference is not None for row in summary.methods)
    if compared > 1:
        notes.append(
            f"differences are taken seed by seed; to be 95 % sure of all {compared} intervals together, each "
            f"would have to be one of {100 - 5 / compared:.3g} % (Bonferroni)"
        )
    return notes


_PAIRS = ("test", "interval", "difference_interval")
"""Fields that take more than one column."""

NOTE = "* the chosen value is at an end of its grid: a better one may lie outside"


def format_table(summary: Summary) -> str:
    """Lay out the table for a console.

    Args:
        summary: What `summarize` made.
    """
    return "\n".join([in_columns(table_cells(summary)), *notes_of(summary)])


def table_markdown(summary: Summary, first: str = "") -> str:
    """Lay out the table in Markdown.

    Args:
        summary: What `summarize` made.
        first: A notice in front of it, such as that the study is incomplete. Default: none.
    """
    lines = in_markdown(table_cells(summary))
    for note in notes_of(summary):
        lines += ["", note.replace("*", "\\*", 1)]
    if first:
        lines = [f"**{markdown_cell(first)}**", "", *lines]
    return "\n".join(lines) + "\n"


def table_csv(summary: Summary) -> str:
    """Write the table as CSV, with unrounded numbers."""
    names = [field for field in MethodSummary.__dataclass_fields__ if field not in _PAIRS]
    rows = [[*names, "mean", "median", "best", "low", "high", "difference_low", "difference_high"]]
    for row in summary.methods:
        numbers = (mean(row.test), median(row.test), max(row.test)) if row.test else ("", "", "")
        pairs = (*(row.interval or ("", "")), *(row.difference_interval or ("", "")))
        rows.append([*(getattr(row, name) for name in names), *numbers, *pairs])
    return in_csv(rows)
