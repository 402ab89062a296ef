"""A network's layers in a table: output size, memory, parameters and multiply-adds."""

from lightning_optreg.describe.command import main
from lightning_optreg.describe.layers import LayerRow, describe, format_table, total

__all__ = ["LayerRow", "describe", "format_table", "main", "total"]
