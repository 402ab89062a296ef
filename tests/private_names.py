"""Reads a file for private names of other packages: where they are imported, accessed or overridden."""

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lightning_optreg"

PUBLIC = {
    "_asdict": "namedtuple's, public by Python's documentation",
    "_replace": "namedtuple's, likewise",
    "_exit": "os._exit, public by Python's documentation",
    "_orig": "ending of the names that torch.nn.utils.prune gives, documented",
    "_mask": "likewise",
}
"""Names with an underscore that are documented for use."""
PUBLIC_PREFIXES = ("torch._foreach_",)  # documented: "Foreach Operations"

OWN_ON_OTHERS = {"_device", "_network", "_own_key", "_passes", "_rank"}
"""Private attributes of this package's classes that other objects of the same module read."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@cache
def nodes(tree: ast.AST) -> list[ast.AST]:
    """All nodes of a tree, which are looked through several times."""
    return list(ast.walk(tree))


def own_names(trees: dict[Path, ast.Module]) -> set[str]:
    """Private names that this package's classes, methods and functions define or assign."""
    found = set()
    for node in (each for tree in trees.values() for each in nodes(tree)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and on_self(node):
            found.add(node.attr)
        if isinstance(node, ast.ClassDef):
            for statement in node.body:
                if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                    found.add(statement.target.id)
                elif isinstance(statement, ast.Assign):
                    found |= {target.id for target in statement.targets if isinstance(target, ast.Name)}
    return {name for name in found if is_private(name)}


def on_self(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and (
        node.value.id in ("self", "cls") or node.value.id[0].isupper()
    )


def uses(tree: ast.Module, own: set[str]) -> Iterator[tuple[str, int]]:
    """Private names of others in a file, and their lines: imported, on an object, or as a string."""
    fragments = {id(part) for node in nodes(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes(tree):
        if isinstance(node, ast.ImportFrom) and not str(node.module).startswith("lightning_optreg"):
            for path in (f"{node.module}.{alias.name}" for alias in node.names):
                yield from ((name, node.lineno) for name in path.split(".") if is_private(name))
        elif isinstance(node, ast.Import):
            for path in (alias.name for alias in node.names):
                yield from ((name, node.lineno) for name in path.split(".") if is_private(name))
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            is_own = node.attr in (own if on_self(node) else OWN_ON_OTHERS)
            documented = node.attr in PUBLIC or ast.unparse(node).startswith(PUBLIC_PREFIXES)
            if not is_own and not documented:
                yield node.attr, node.lineno
        elif isinstance(node, ast.Constant) and id(node) not in fragments:
            name = node.value
            if isinstance(name, str) and is_private(name) and name.isidentifier() and name not in own:
                yield name, node.lineno


@cache
def inherited(cls: type) -> frozenset[str]:
    """Private names of a class of another package: of its body, and those that its methods assign."""
    found = set(vars(cls))
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):  # written in C
        return frozenset(filter(is_private, found))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and on_self(node):
            found.add(node.attr)
    return frozenset(filter(is_private, found))


def uses_of_bases(path: Path, tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Private names that classes share with a base of another package, and their lines."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    if not classes:
        return
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for node in classes:
        cls: Any = getattr(module, node.name)
        bases = [base for base in cls.__mro__ if not base.__module__.startswith("lightning_optreg")]
        theirs = set().union(*(inherited(base) for base in bases if base.__module__ not in IGNORED))
        for each in ast.walk(node):
            if isinstance(each, ast.FunctionDef) and each.name in theirs:
                yield each.name, each.lineno
            elif isinstance(each, ast.Attribute) and on_self(each) and each.attr in theirs:
                yield each.attr, each.lineno


IGNORED = {"builtins", "abc", "typing", "enum", "collections.abc"}
