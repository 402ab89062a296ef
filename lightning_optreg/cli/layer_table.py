"""The layers of a network and their numbers of parameters, printed when a fit starts."""

import sys

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary
from torch import nn
from torch.nn.parameter import is_lazy
from typing_extensions import override

__all__ = ["LayerTable", "layer_table"]

_MOST = 16  # rows; a network with more layers side by side is shown by its first and last ones


class LayerTable(ModelSummary):
    """Print the parts of a module that have parameters, and how many.

    Lightning's own table also lists metrics and losses, and the multiply-adds of modules that it can't count.

    Example:
        >>> trainer = Trainer(accelerator="cpu", logger=False, callbacks=[LayerTable()])
    """

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table, in the first process."""
        if trainer.is_global_zero:
            print(layer_table(pl_module), file=sys.stderr, flush=True)


def layer_table(module: nn.Module) -> str:
    """Return the table: of the one part that has all parameters, if there is one, else of the module.

    Args:
        module: The module.

    Example:
        >>> print(layer_table(nn.ModuleDict({"net": nn.Sequential(nn.Linear(2, 3), nn.ReLU())})))
        Sequential: 9 parameters
          0  Linear  9
    """
    whole = module
    while len(parts := _parts(whole)) == 1 and _parts(parts[0][1]) and not list(whole.parameters(False)):
        whole = parts[0][1]
    count, trained = _count(whole), _count(whole, trained=True)
    some = "" if count == trained else f", {trained:,} of them trained"
    lazy = " so far; some layers find their sizes in the first batch" if _is_open(whole) else ""
    rows = [(name, type(part).__name__, f"{_count(part):,}") for name, part in parts]
    if own := sum(0 if is_lazy(each) else each.numel() for each in whole.parameters(recurse=False)):
        rows.append(("", "its own", f"{own:,}"))
    if len(rows) > _MOST:
        half = _MOST // 2
        rows = [*rows[:half], (f"... {len(rows) - 2 * half} more", "", ""), *rows[-half:]]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    lines = [f"{type(whole).__name__}: {count:,} parameters{some}{lazy}"]
    for name, kind, number in rows:
        lines.append(f"  {name:<{widths[0]}}  {kind:<{widths[1]}}  {number:>{widths[2]}}".rstrip())
    return "\n".join(lines)


def _parts(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The children that have parameters."""
    return [
        (name, child) for name, child in module.named_children() if next(child.parameters(), None) is not None
    ]


def _count(module: nn.Module, *, trained: bool = False) -> int:
    return sum(
        each.numel()
        for each in module.parameters()
        if not is_lazy(each) and (each.requires_grad or not trained)
    )


def _is_open(module: nn.Module) -> bool:
    return any(is_lazy(each) for each in module.parameters())
