"""Fills in the documentation's pages from the package itself, so that a new part needs no line there.

A page says where; each of these lines stands alone, outside of code:

    <!-- parts: lightning_optreg.nets -->        reference of all that the package's `__all__` names
    <!-- parts: lightning_optreg.data.Views -->  of that class and of all that are derived from it
    <!-- table: lightning_optreg.nets -->        a table of the same, with the first line of each docstring
    <!-- commands -->                            a table of the program's commands
    <!-- overlays -->                            a table of configs/methods, with each file's head comment

`parts` of a package leaves out what a page places itself, by a `:::` line or by its base class. `table` right
below a table completes it: it adds those that have no row there.
"""

import re
from functools import cache
from importlib import import_module
from inspect import getdoc
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
DIRECTIVE = re.compile(r"<!-- (parts|table|commands|overlays)(?:: (\S+))? -->")


class Part(NamedTuple):
    """A public name.

    Attributes:
        path: The name with the package that it is imported from.
        value: What it names.
    """

    path: str
    value: Any

    @property
    def name(self) -> str:
        """The name alone."""
        return self.path.rpartition(".")[2]

    @property
    def summary(self) -> str:
        """The first paragraph of its docstring."""
        return " ".join((getdoc(self.value) or "").split("\n\n")[0].split()).removesuffix(".")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """What MkDocs calls with the text of each page."""
    return expand(markdown)


def expand(page: str) -> str:
    """Return a page with its directives replaced by what they stand for."""
    lines: list[str] = []
    level, in_code = 1, False
    for line in page.splitlines():
        in_code ^= line.startswith("```")
        found = None if in_code else DIRECTIVE.fullmatch(line)
        if not in_code and (heading := re.match("(#+) ", line)):
            level = len(heading[1])
        if found is None:
            lines.append(line)
        elif found[1] == "parts":
            lines += reference(found[2], level + 1)
        elif found[1] == "table":
            above = list(takewhile(lambda row: row.startswith("|"), reversed(lines)))
            lines += table(found[2], above)
        else:
            lines += commands() if found[1] == "commands" else overlays()
    return "\n".join(lines) + "\n"


def reference(target: str, level: int) -> list[str]:
    """Return what mkdocstrings expands, with a heading for each family of parts."""
    taken = placed() if is_module(target) else set()
    lines = []
    for family, parts in families(
        target, [part for part in public(target) if part.path not in taken]
    ).items():
        if family:
            lines += [f"{'#' * level} {heading_of(family)} {{ #{family.rpartition('.')[2]} }}", ""]
        for part in parts:
            lines += [f"::: {part.path}", f"    options: {{heading_level: {level + bool(family)}}}", ""]
            if page := cards().get(part.name):
                lines += [f"[When to use `{part.name}`, settings, costs](methods/{page})", ""]
    return lines


def table(target: str, above: list[str]) -> list[str]:
    """Return rows for the parts that have none in the rows above, and a header if there are none at all."""
    shown = "\n".join(above)
    lines = [] if above else ["| name | what it does |", "|---|---|"]
    for family, parts in families(target, public(target)).items():
        if family:
            lines.append(f"| **{escaped(heading_of(family))}** | |")
        rows = [f"| [`{part.name}`](#{part.path}) | {escaped(part.summary)} |" for part in parts]
        lines += [row for row, part in zip(rows, parts, strict=True) if f"(#{part.path})" not in shown]
    return lines


def commands() -> list[str]:
    """Return a table of the program's commands."""
    rows = [f"| `{each.name}` | {escaped(each.summary)} |" for each in registered_commands()]
    return ["| command | what it does |", "|---|---|", *rows]


def overlays() -> list[str]:
    """Return a table of the files in `configs/methods`."""
    files = sorted((ROOT / "configs" / "methods").glob("*.yaml"))
    rows = [f"| `{path.relative_to(ROOT)}` | {escaped(head_comment(path))} |" for path in files]
    return ["| overlay | what it adds |", "|---|---|", *rows]


def head_comment(path: Path) -> str:
    """Return the comment at the top of a YAML file, in one line."""
    lines = takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    return " ".join(line.removeprefix("#").strip() for line in lines)


def registered_commands() -> Any:
    """Return the registry of the program."""
    return import_module("lightning_optreg.commands").COMMANDS


def is_module(target: str) -> bool:
    """Return whether a dotted path is a module, and not a class in one."""
    try:
        import_module(target)
    except ModuleNotFoundError as error:
        if error.name != target:
            raise
        return False
    return True


def public(target: str) -> list[Part]:
    """Return the parts that a package or a base class stands for."""
    if is_module(target):
        return [Part(f"{target}.{name}", getattr(import_module(target), name)) for name in all_of(target)]
    package, _, name = target.rpartition(".")
    base = getattr(import_module(package), name)
    derived = [
        part for part in public(package) if isinstance(part.value, type) and issubclass(part.value, base)
    ]
    return sorted(derived, key=lambda part: part.value is base)  # the base class last


def all_of(module: str) -> list[str]:
    """Return the public names of a module."""
    names: list[str] = import_module(module).__all__
    return names


@cache
def cards() -> dict[str, str]:
    """Return the page in docs/methods that is about each part, by the part's name."""
    found = {}
    for page in sorted((ROOT / "docs" / "methods").glob("*.md")):
        for names in re.findall(r"^<!-- card: (\S.*) -->$", page.read_text(), re.M):
            found.update({name.rpartition(".")[2]: page.name for name in names.split()})
    return found


@cache
def placed() -> set[str]:
    """Return the parts that have a place of their own on some page."""
    text = "\n".join(page.read_text() for page in sorted((ROOT / "docs").glob("*.md")))
    by_base = [
        target for target in re.findall(r"^<!-- parts: (\S+) -->", text, re.M) if not is_module(target)
    ]
    by_hand = re.findall(r"^::: (\S+)", text, re.M)
    return {*by_hand, *(part.path for target in by_base for part in public(target))}


def families(target: str, parts: list[Part]) -> dict[str, list[Part]]:
    """Return the parts by the folder of the package that they are defined in; "" for the package itself."""
    found: dict[str, list[Part]] = {}
    for part in parts:
        module = getattr(part.value, "__module__", "")
        below = module.removeprefix(f"{target}.") if module.startswith(f"{target}.") else ""
        folder, dot, _ = below.partition(".")
        found.setdefault(f"{target}.{folder}" if dot else "", []).append(part)
    return dict(sorted(found.items()))


def heading_of(package: str) -> str:
    """Return the first line of a package's docstring."""
    return Part(package, import_module(package)).summary


def escaped(text: str) -> str:
    """Return a string that Markdown shows as it is in a table's cell, but for code in backticks."""
    pieces = text.split("`")
    pieces[::2] = [re.sub(r"([|*_\[\]])", r"\\\1", piece).replace("<", "&lt;") for piece in pieces[::2]]
    pieces[1::2] = [piece.replace("|", r"\|") for piece in pieces[1::2]]
    return "`".join(pieces)
