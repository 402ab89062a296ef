"""Files of tensors, read without running anything, and why one cannot be: never in torch's words.

torch's message for a file that holds more than tensors advises to read it with `weights_only=False`, which
runs whatever the file says.
"""

import pickle
import re
from pathlib import Path
from typing import Any

__all__ = ["read_plain", "why_unreadable"]

_NAMED = re.compile(
    r"(?:GLOBAL|Unsupported (?:global|class)|found in checkpoint:?)[ :]+`?([A-Za-z_][\w.]*\.\w+)"
)


def why_unreadable(error: Exception) -> str:
    """Say in a few words why a file of tensors could not be read.

    Args:
        error: What `torch.load` raised.

    Example:
        >>> why_unreadable(pickle.UnpicklingError("Unsupported global: GLOBAL os.system was not an allowed"))
        'it holds os.system, and reading that could run code: only tensors and plain values are read'
        >>> why_unreadable(EOFError())
        'it is empty or cut short'
    """
    text = str(error).strip()
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in text:
        if named := _NAMED.search(text):
            held = f"it holds {named[1]}, and reading that could run code"
            return f"{held}: only tensors and plain values are read"
        return "it is damaged, or holds other than tensors and plain values, which could run code"
    return text.splitlines()[0] if text else "it is empty or cut short"


def read_plain(path: Path, *, what: str, map_location: Any = "cpu") -> Any:
    """Read a file of tensors and plain values.

    Args:
        path: The file.
        what: Begins the message, such as "SnapshotEnsemble".
        map_location: See `torch.load`.

    Raises:
        ValueError: If it is damaged or holds anything else.
    """
    from lightning_optreg.torch_files import DamagedFileError, load_whole

    try:
        return load_whole(path, map_location)
    except DamagedFileError as error:
        raise ValueError(f"{what}: {error}") from error
    except pickle.UnpicklingError as error:
        # Without its cause, whose text gives torch's advice.
        raise ValueError(f"{what}: {path} cannot be read: {why_unreadable(error)}") from None
