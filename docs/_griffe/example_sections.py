"""Lets griffe read the docstrings' `Example:` sections, which hold doctests, as it reads `Examples:`."""

import re
from typing import Any

from griffe import Extension, Object


class ExampleSections(Extension):
    """Renames the section before it is parsed; otherwise its doctests would be set as quotations."""

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:
        """Rename the section in one object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
