"""Formulas in LaTeX as MathML: `$x$` in a line, `$$x$$` as a paragraph. No script, nothing fetched."""

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert

# What pymdownx.arithmatex leaves of a formula.
FORMULA = re.compile(
    r'<span class="arithmatex">\\\((.*?)\\\)</span>|<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.S
)


def on_page_content(html: str, **_: Any) -> str:
    """What MkDocs calls with each page as HTML."""
    return rendered(html)


def rendered(html: str) -> str:
    """Return a page with its formulas as MathML; one on a line of its own scrolls if it is too wide."""
    return FORMULA.sub(lambda found: inline(found[1]) if found[2] is None else block(found[2]), html)


def inline(latex: str) -> str:
    """Return a formula within a line."""
    return convert(unescape(latex).strip())


def block(latex: str) -> str:
    """Return a formula that is a paragraph; a search for words doesn't look into it."""
    mathml = convert(unescape(latex).strip(), display="block")
    return f'<div class="formula" data-search-exclude>{mathml}</div>'
