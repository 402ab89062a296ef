"""The table of `PredictionWriter`: its columns, and how they are written to a CSV or Parquet file."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["Column", "columns_of", "labels_in", "write_csv", "write_parquet"]

Column = Tensor | Sequence[str]
"""Numbers (N,), or N strings."""


def labels_in(batch: object, count: int) -> Tensor | None:
    """Return the true labels of a batch (x, y, ...): y is (N,) or (N, 1), classes or numbers.

    Args:
        batch: Any batch.
        count: N.

    Returns:
        (N,), int64 or float32; None if there are none.

    Example:
        >>> labels_in([torch.zeros(2, 4), torch.tensor([1, 0])], 2)
        tensor([1, 0])
    """
    if not (isinstance(batch, tuple | list) and len(batch) >= 2 and isinstance(batch[1], Tensor)):
        return None
    labels = batch[1].detach()
    if labels.shape not in ((count,), (count, 1)) or labels.is_complex():
        return None
    return (labels.float() if labels.is_floating_point() else labels.long()).view(count).cpu()


def columns_of(
    index: Tensor,
    predictions: Tensor,
    labels: Tensor | None,
    names: Sequence[str] | None,
    class_names: Sequence[str] | None,
) -> dict[str, Column]:
    """Sort the rows, with each image once: a DistributedSampler repeats some, so that all ranks have as many.

    Args:
        index: int64 (N,), positions in the dataset.
        predictions: Scores of classes (N, K); or (N, 1): classes if they are integers, otherwise numbers.
        labels: (N,), the true classes or numbers.
        names: File of the image at each position.
        class_names: Names of the classes.

    Returns:
        Columns by name. If a true class is impossible, such as -1 for unknown, its columns are left out.

    Example:
        >>> scores = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
        >>> list(columns_of(torch.tensor([1, 0]), scores, torch.tensor([1, 0]), None, ["cat", "dog"]))
        ['index', 'label', 'label_name', 'prediction', 'class_name', 'p_0', 'p_1']
    """
    order = index.argsort(stable=True)
    first = torch.ones_like(index, dtype=torch.bool)
    first[1:] = index[order][1:] != index[order][:-1]
    rows = order[first]
    index, predictions = index[rows], predictions[rows]
    scores = predictions if predictions.shape[1] > 1 else predictions[:, :0]
    answer = scores.argmax(dim=1) if predictions.shape[1] > 1 else predictions[:, 0]
    classes = not answer.is_floating_point()
    count = scores.shape[1] or (len(class_names) if classes and class_names else None)  # None: not known

    columns: dict[str, Column] = {"index": index}
    if names is not None:
        columns["file"] = [names[k] for k in index.tolist()]
    if labels is not None and (not classes or _are_classes(labels, count)):
        columns["label"] = labels[rows]
        if (words := _words(labels[rows], class_names, count)) is not None:
            columns["label_name"] = words
    columns["prediction"] = answer
    if (words := _words(answer, class_names, count)) is not None:
        columns["class_name"] = words
    return columns | {f"p_{k}": column for k, column in enumerate(scores.T.contiguous())}


def _are_classes(labels: Tensor, count: int | None) -> bool:
    highest = labels.max() if count is None else count - 1
    return not labels.is_floating_point() and bool(((labels >= 0) & (labels <= highest)).all())


def _words(classes: Tensor, class_names: Sequence[str] | None, count: int | None) -> list[str] | None:
    """Return the names of classes, if every class has one."""
    if class_names is None or count != len(class_names) or not _are_classes(classes, count):
        return None
    return [str(class_names[k]) for k in classes.tolist()]


def write_csv(columns: Mapping[str, Column], path: Path) -> None:
    """Write columns to a CSV file in UTF-8."""
    # NumPy prints a float32 with just enough digits to identify it
    cells = [
        [str(number) for number in column.numpy()] if isinstance(column, Tensor) else _printable(column)
        for column in columns.values()
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*cells, strict=True))


def write_parquet(columns: Mapping[str, Column], path: Path) -> None:
    """Write columns to a Parquet file."""
    import pyarrow
    from pyarrow import parquet

    arrays = [
        pyarrow.array(column.numpy() if isinstance(column, Tensor) else _printable(column))
        for column in columns.values()
    ]
    parquet.write_table(pyarrow.Table.from_arrays(arrays, names=list(columns)), path)


def _printable(words: Sequence[str]) -> list[str]:
    """Return strings that can be encoded in UTF-8; file names may have bytes that can't."""
    return [word.encode("utf-8", "backslashreplace").decode("utf-8") for word in words]
