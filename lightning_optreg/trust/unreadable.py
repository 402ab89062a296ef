"""Why a file of tensors cannot be read without running anything: never in torch's words.

torch's message for a file that holds more than tensors advises to read it with `weights_only=False`, which
runs whatever the file says.
"""

import pickle
import re

__all__ = ["why_unreadable"]

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
