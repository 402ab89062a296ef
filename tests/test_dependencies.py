"""What the package imports is what pyproject.toml asks for."""

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    found = (re.match(r"[\w.-]+", requirement) for requirement in requirements)
    return {normal(match.group()) for match in found if match}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imports(body: list[ast.stmt], always: bool = True) -> Iterator[tuple[str, bool]]:
    """Top-level packages that statements import, and whether importing the module does it."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], always) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0 and node.module:
                yield node.module.partition(".")[0], always
        else:
            typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or typing
            inner = [child for child in ast.walk(node) if isinstance(child, ast.Import | ast.ImportFrom)]
            nested = isinstance(node, ast.ClassDef)  # its methods run later, and nothing else in it imports
            yield from imports(list(inner), always and not (later or nested))


def test_every_import_is_declared() -> None:
    """On the way of `import`, by the dependencies; in functions, by those or by an extra."""
    core = names(PROJECT["dependencies"])
    extras = set().union(
        *(names(extra) for name, extra in PROJECT["optional-dependencies"].items() if name != "dev")
    )
    distributions = packages_distributions()
    missing = set()
    for path in sorted((ROOT / "lightning_optreg").rglob("*.py")):
        for package, always in imports(ast.parse(path.read_text()).body):
            if package in sys.stdlib_module_names or package == "lightning_optreg":
                continue
            wanted = {normal(name) for name in distributions.get(package, [package])}
            if not wanted & (core if always else core | extras):
                missing.add(f"{package} ({path.relative_to(ROOT)})")
    assert not missing


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import a.b, c", [("a", True), ("c", True)]),
        ("from a.b import c\nfrom . import d\nfrom .e import f", [("a", True)]),
        ("if x:\n    import a", [("a", True)]),
        ("try:\n    import a\nexcept ImportError:\n    import b", [("a", True), ("b", True)]),
        ("if TYPE_CHECKING:\n    import a", [("a", False)]),
        ("def f():\n    import a", [("a", False)]),
        ("class C:\n    def f(self):\n        from a import b", [("a", False)]),
    ],
)
def test_imports_are_found(code: str, found: list[tuple[str, bool]]) -> None:
    assert list(imports(ast.parse(code).body)) == found
