"""Fill in a page's template, with plotly inside: the page opens from a disk, without a network."""

import json
import re
from typing import Any

__all__ = ["render"]


def render(template: str, **values: Any) -> str:
    """Return a page.

    Args:
        template: Name of the template, a file beside this module that extends `page.html.jinja`.
        values: What it shows; `figures` are plotly's, each with `data` and `layout`, drawn into the elements
            `panel0`, `panel1`, ....

    Returns:
        HTML, about 5 MB, nearly all of it plotly's script.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("lightning_optreg.studies", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["for_script"] = _for_script
    return environment.get_template(template).render(plotly=get_plotlyjs(), **values)


def _for_script(value: Any) -> str:
    """Return JSON that is safe in a script element: no string ends it, opens a comment or breaks a line."""
    # Half of a surrogate pair is not text: it becomes a question mark, as in the rest of the page.
    text = json.dumps(value, ensure_ascii=False).encode(errors="replace").decode()
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)
