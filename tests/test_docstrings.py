"""Every public class and function documents what it does, its arguments, its errors, and shows an example."""

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

PACKAGES = (
    *("nets", "layers", "losses", "optimizers", "schedulers", "data", "callbacks", "loggers", "classifier"),
    *("runs", "figures", "analysis", "export", "randomness", "studies", "functional"),
    *("parallel", "strategies"),
)

# Why these have no example.
WITHOUT_EXAMPLE = {
    "analysis.Dynamics": "the result of compute_dynamics",
    "analysis.EulerErrors": "the result of measure_euler",
    "analysis.Moment": "a part of a ScalingRun",
    "analysis.ScalingRun": "the result of simulate",
    "analysis.Stability": "the result of measure_stability",
    "analysis.TransportSolutions": "a part of the result of compute_transport",
    "studies.Point": "a part of a StudyResult",
    "figures.PrivatePoint": "a part of the result of read_private",
    "studies.StudyResult": "the result of a whole study",
    "studies.Unfinished": "a part of a StudyResult",
}

# What is still to be written: the rule and the name, with what is missing.
MISSING: dict[tuple[str, str], str] = {}


def public() -> dict[str, Any]:
    """Every public class and function by its name, each once."""
    found: dict[int, tuple[str, Any]] = {}
    for package in PACKAGES:
        module = importlib.import_module(f"lightning_optreg.{package}")
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                found.setdefault(id(value), (f"{package}.{name}", value))
    return dict(found.values())


PUBLIC = public()


def checked(rule: str) -> Any:
    """Parametrize a test by all that is public."""
    return pytest.mark.parametrize(
        "name",
        [
            pytest.param(
                name,
                marks=[pytest.mark.xfail(strict=True, reason=MISSING[rule, name])]
                if (rule, name) in MISSING
                else [],
            )
            for name in PUBLIC
        ],
    )


def docstring(value: Any) -> str:
    """Its own, not a base class's."""
    text = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    return inspect.cleandoc(text or "")


def section(text: str, title: str) -> str:
    """What is indented below a title."""
    found = re.search(rf"^{title}:\n((?:    .*\n|\n)*)", f"{text}\n", re.M)
    return found[1] if found else ""


def entries(text: str) -> set[str]:
    """The names that the sections of arguments and attributes explain."""
    both = section(text, "Args") + section(text, "Attributes")
    return {name.strip() for names in re.findall(r"^    ([\w, ]+):", both, re.M) for name in names.split(",")}


def described_fields(cls: type) -> Iterator[str]:
    """The fields of a dataclass or a named tuple that a string below them explains."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    for field, below in zip(body.body, body.body[1:], strict=False):
        is_string = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_string:
            yield field.target.id


def arguments(value: Any) -> list[str]:
    """The parameters of a function, or of a class's own constructor."""
    plain = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [name for name, each in inspect.signature(value).parameters.items() if each.kind not in plain]


def documented(value: Any) -> set[str]:
    """The arguments that a docstring explains, itself or by those that it refers to."""
    names = entries(docstring(value))
    if not inspect.isclass(value):
        return names
    names |= set(described_fields(value))
    for base in value.__mro__[1:]:
        inherits = "__init__" not in vars(value) or f"arguments see `{base.__name__}`" in docstring(value)
        if inherits and base.__module__.startswith("lightning_optreg."):
            names |= documented(base)
    return names


def raised(value: Any) -> set[str]:
    """The classes in the `raise` statements of a function, or of a class's own constructor."""
    makers = [value]
    if inspect.isclass(value):
        makers = [vars(value)[name] for name in ("__init__", "__post_init__") if name in vars(value)]
        makers = [maker for maker in makers if maker.__code__.co_filename == inspect.getsourcefile(value)]
    found = set()
    for maker in makers:
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(maker)))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                found.add(ast.unparse(node.exc.func).rpartition(".")[2])
    return found


@checked("sentence")
def test_the_first_line_is_a_sentence(name: str) -> None:
    first = docstring(PUBLIC[name]).partition("\n")[0]
    assert first.endswith("."), first


@checked("arguments")
def test_each_argument_is_documented(name: str) -> None:
    missing = set(arguments(PUBLIC[name])) - documented(PUBLIC[name])
    assert not missing, sorted(missing)


@checked("example")
def test_it_has_an_example(name: str) -> None:
    has_example = section(docstring(PUBLIC[name]), "Example") != ""
    assert has_example is (name not in WITHOUT_EXAMPLE)


@checked("raises")
def test_what_it_raises_is_listed(name: str) -> None:
    listed = section(docstring(PUBLIC[name]), "Raises")
    missing = {kind for kind in raised(PUBLIC[name]) if not re.search(rf"^    {kind}:", listed, re.M)}
    assert not missing, sorted(missing)


def test_nothing_is_listed_that_is_not_there() -> None:
    assert WITHOUT_EXAMPLE.keys() <= PUBLIC.keys()
    assert {name for _, name in MISSING} <= PUBLIC.keys()


def test_the_rules_find_what_is_missing() -> None:
    def bad(a: int, b: int) -> None:
        """Add numbers

        Args:
            a: A number.
        """
        raise ValueError("no")

    assert set(arguments(bad)) - documented(bad) == {"b"}
    assert raised(bad) == {"ValueError"}
    assert section(docstring(bad), "Raises") == section(docstring(bad), "Example") == ""
