"""The documentation's Python runs, it lists all parts and commands, and ratios follow from figures."""

import importlib
import importlib.util
import pkgutil
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch import nn

import lightning_optreg
from lightning_optreg import ImageClassifier
from lightning_optreg.__main__ import main
from lightning_optreg.commands import COMMANDS
from lightning_optreg.nets import SoftmaxRegression

ROOT = Path(__file__).parents[1]
CARDS = sorted((ROOT / "docs" / "methods").glob("*.md"))  # in the navigation by themselves: see test_cards.py
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")), *CARDS]


def hook() -> Any:
    """What fills the pages in, as MkDocs loads it."""
    spec = importlib.util.spec_from_file_location("parts", ROOT / "docs" / "_hooks" / "parts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOK = hook()
TEXT = "\n".join(HOOK.expand(page.read_text()) for page in PAGES if page not in CARDS)


def python_blocks() -> list[tuple[str, str]]:
    return [
        (f"{page.name}-{number}", block)
        for page in PAGES
        for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S))
    ]


@pytest.mark.parametrize(("name", "block"), python_blocks(), ids=[name for name, _ in python_blocks()])
def test_python_runs(
    name: str, block: str, fashion_mnist_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    my_project = ModuleType("my_project")
    my_project.MyModule = lambda: ImageClassifier(SoftmaxRegression())  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_project", my_project)
    # A small data set in the place of the real one, which not every machine has.
    small = f"FashionMNISTDataModule(data_dir={str(fashion_mnist_dir)!r}, verify_checksum=False, "
    exec(compile(block.replace("FashionMNISTDataModule(", small), name, "exec"), {"__name__": "__main__"})


def commands() -> list[str]:
    blocks = re.findall(r"^```shell\n(.*?)^```", TEXT, re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    program = "python -m lightning_optreg "
    found = [line.partition("#")[0].removeprefix(program) for line in lines if line.startswith(program)]
    # with the spaces that align comments, the same command would be another one
    return [" ".join(command.split()) for command in found]


# How a command shows that it understands its words without running. Other commands have tests that run what
# is documented, and so have compare with --storage, which needs a database, and what starts from a finished
# run (tests/cli/test_own_settings.py).
_UNDERSTOOD = {
    **{
        each.name: (["--print_config"], "default_root_dir:")
        for each in COMMANDS
        if each.entry.startswith("cli.")
    },
    "describe": ([], "multiply-adds"),
    "compare": (["--plan"], "passes over the training data"),
    "tune": (["--plan"], "passes a trial"),
    "crossval": (["--plan"], "passes over the training folds"),
}


def understood() -> Iterator[object]:
    """Commands in order: those that show a command, an option or a folder for the first time, others slow."""
    seen: set[tuple[str, str]] = set()
    for line in sorted({line for line in commands() if line.split()[0] in _UNDERSTOOD}):
        name, *words = shlex.split(line)
        starts_from_a_run = " runs/" in line or ("--ckpt_path" in words and "--config" not in words)
        if "--storage" in words or starts_from_a_run:
            continue
        options = {word.partition("=")[0] for word in words if word.startswith("-")}
        folders = {str(Path(word).parent) for word in words if word.endswith(".yaml")}
        new = {(name, "")} | {(name, each) for each in options | folders}
        yield line if new - seen else pytest.param(line, marks=pytest.mark.slow)
        seen |= new


@pytest.mark.parametrize("command", list(understood()))
def test_commands_are_understood(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    my_package = ModuleType("my_package")
    my_package.MyNet = MyNet  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_package", my_package)
    words = shlex.split(command)
    more, shown = _UNDERSTOOD[words[0]]
    assert main([*words, *more]) == 0
    assert shown in capsys.readouterr().out


class MyNet(nn.Module):
    """Somebody's network."""

    __module__ = "my_package"


# The program's own: what they name is not meant for other projects.
_OF_THE_PROGRAM = ("cli", "commands", "files", "recipes", "trust")


def public_names() -> list[str]:
    modules = [
        importlib.import_module(f"lightning_optreg.{each.name}")
        for each in pkgutil.iter_modules(lightning_optreg.__path__)
        if not each.name.startswith("_") and each.name not in _OF_THE_PROGRAM
    ]
    return [f"{module.__name__}.{name}" for module in modules for name in getattr(module, "__all__", ())]


def named(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


DOCUMENTED = re.findall(r"^::: (\S+)$", TEXT, re.M)
# A name may be reachable by two paths, such as `randomness.Draws` and `data.Draws`; one of them is on a page.
DOCUMENTED_VALUES = [named(path) for path in DOCUMENTED]


def test_all_rooms_are_looked_at() -> None:
    rooms = {name.split(".")[1] for name in public_names()}
    assert rooms >= {"analysis", "callbacks", "classifier", "data", "figures", "layers", "losses", "nets"}
    assert rooms >= {"loggers", "optimizers", "randomness", "runs", "schedulers", "studies"}


@pytest.mark.parametrize("name", public_names())
def test_every_public_name_is_documented(name: str) -> None:
    assert any(named(name) is value for value in DOCUMENTED_VALUES)


def test_no_part_is_documented_twice() -> None:
    assert len(DOCUMENTED) == len(set(DOCUMENTED))


@pytest.mark.parametrize("recipe", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_listed(recipe: Path) -> None:
    assert str(recipe.relative_to(ROOT)) in TEXT


def overlays() -> list[Path]:
    return sorted((ROOT / "configs" / "methods").glob("*.yaml"))


@pytest.mark.parametrize("overlay", overlays(), ids=lambda path: path.stem)
def test_the_table_says_what_an_overlays_head_comment_says(overlay: Path) -> None:
    first = overlay.read_text().splitlines()[0]
    assert first.startswith("# ")
    (row,) = re.findall(rf"^\| `configs/methods/{overlay.name}` \| (.*) \|$", TEXT, re.M)
    assert row.replace("\\", "").startswith(first.removeprefix("# ").replace("<", "&lt;"))


def test_pages_are_filled_in_from_the_package() -> None:
    page = (
        "# Losses\n\n| name | use it when |\n|---|---|\n"
        "| [`SquaredLoss`](#lightning_optreg.losses.SquaredLoss) | mine |\n"
        "<!-- table: lightning_optreg.losses -->\n\n"
        "## Reference\n\n<!-- parts: lightning_optreg.losses -->\n"
    )
    filled = HOOK.expand(page)
    assert filled.count("[`SquaredLoss`]") == 1  # the page's own row stays
    assert "| [`ScoreLoss`](#lightning_optreg.losses.ScoreLoss) | Base of the losses" in filled
    assert "\n::: lightning_optreg.losses.SquaredLoss\n    options: {heading_level: 3}\n" in filled
    code = "```text\n# a comment\n<!-- parts: lightning_optreg.losses -->\n```\n"
    assert HOOK.expand(code) == code


def test_callbacks_stand_under_their_families() -> None:
    page = HOOK.expand("# Callbacks\n<!-- parts: lightning_optreg.callbacks -->\n")
    families = dict(re.findall(r"^## (.*) \{ #(\w+) \}$", page, re.M))
    assert set(families.values()) >= {"batches", "evaluation", "records", "resume", "steps", "weights"}
    assert importlib.import_module("lightning_optreg.callbacks.weights").__doc__ in {
        f"{s}." for s in families
    }
    _, _, weights = page.partition("{ #weights }")
    assert "::: lightning_optreg.callbacks.MaxNorm\n    options: {heading_level: 3}\n" in weights
    assert "::: lightning_optreg.callbacks.MixUp\n" in page.partition("{ #evaluation }")[0]


def test_a_base_class_stands_for_what_is_derived_from_it() -> None:
    names = re.findall(
        r"^::: lightning_optreg\.data\.(\w+)$",
        HOOK.expand("<!-- parts: lightning_optreg.data.Views -->"),
        re.M,
    )
    assert names == ["Flips", "MultiScale", "RandomViews", "TenCrop", "Views"]
    rest = HOOK.expand("<!-- parts: lightning_optreg.data -->")
    assert "::: lightning_optreg.data.Statistics\n" in rest
    assert not any(f"::: lightning_optreg.data.{name}\n" in rest for name in names)


def test_text_in_a_table_is_shown_as_it_is() -> None:
    assert HOOK.escaped("sum |w| <- `a|b_c` x_i * y") == r"sum \|w\| &lt;- `a\|b_c` x\_i \* y"


def test_every_command_is_listed() -> None:
    names = [each.name for each in COMMANDS]
    assert {command.split()[0] for command in commands()} >= set(names)  # of all pages
    readme = (ROOT / "README.md").read_text()
    assert set(re.findall(r"^python -m lightning_optreg (\w+)", readme, re.M)) == set(names)
    (table, *_) = tables(HOOK.expand((ROOT / "docs" / "command_line.md").read_text()))
    listed = [name for row in table[1:] for name in re.findall(r"`(\w+)`", row[0])]
    assert listed == names


def test_every_room_is_in_the_readmes_table() -> None:
    rooms = {each.name for each in pkgutil.iter_modules(lightning_optreg.__path__) if each.name[0] != "_"}
    (table,) = (
        table for table in tables((ROOT / "README.md").read_text()) if "`lightning_optreg/`" in table[0][0]
    )
    listed = {name for row in table[1:] for name in re.findall(r"`(\w+)(?:\.py)?`", row[0])}
    old_paths = {"param_groups"}
    assert listed == rooms - old_paths


def test_the_files_that_contributing_names_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (table,) = tables(text)
    paths = re.findall(r"`((?:tests|scripts|docs|configs)/[\w./]+)`", text)
    paths += [
        f"lightning_optreg/{path}" for row in table[1:] for path in re.findall(r"`([\w/]+\.py)`", row[2])
    ]
    paths = [path for path in paths if not re.search(r"[A-Z]{4}", path)]  # NAME, FAMILY, DATASET
    assert len(paths) > 15
    assert [path for path in paths if not (ROOT / path).exists()] == []
    for name, path in re.findall(r"`([A-Z_]+)` (?:and `[A-Z_]+` )?in `(tests/[\w./]+)`", text):
        assert re.search(rf"^{name}\b", (ROOT / path).read_text(), re.M), f"{name} in {path}"


def test_every_page_is_in_the_navigation_and_can_be_reached_from_the_readme() -> None:
    docs = {page.name for page in PAGES if page not in CARDS} - {"README.md", "CONTRIBUTING.md"}
    assert set(re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)) == docs
    reached, links = set(), {"README.md"}
    while links:
        page = links.pop()
        reached.add(page)
        text = next(path for path in (*PAGES, *ROOT.glob("*.md")) if path.name == page).read_text()
        links |= set(re.findall(r"\]\((?:docs/)?(\w+\.md)[#)]", text)) - reached
    assert reached >= docs


def tables(page: str) -> list[list[list[str]]]:
    """The cells of a page's tables, row by row, the header first."""
    blocks = re.findall(r"(?:^\|.*\n)+", page, re.M)
    rows = [[[c.strip() for c in line.strip("|").split("|")] for line in b.splitlines()] for b in blocks]
    return [[header, *body] for header, _, *body in rows]


def figure(cell: str) -> float | None:
    match = re.fullmatch(r"([\d,.]+)( x)?", cell)
    return float(match[1].replace(",", "")) if match else None


def quotient(table: list[list[str]], row: list[str], column: int) -> float | None:
    """What a ratio should be by the figures beside it; None if the column is none, or has none beside it."""
    header, first = table[0], table[1]
    if header[column] == "speed":  # to the first row's
        above, below = figure(row[column - 1]), figure(first[column - 1])
    elif header[column] == "ratio":  # of the two figures before
        before = [value for cell in row[:column] if (value := figure(cell)) is not None]
        above, below = before[-2:] if len(before) > 1 else (None, None)
    elif header[column].startswith("to the "):
        word = header[column].split()[-1]
        (other,) = [i for i, name in enumerate(header[:column]) if name.endswith(word)]
        above, below = figure(row[header.index("this project")]), figure(row[other])
    else:
        return None
    return above / below if above and below else None


def agrees(shown: str, value: float) -> bool:
    decimals = len(shown.removesuffix(" x").partition(".")[2])
    return abs(float(shown.removesuffix(" x")) - value) <= 0.5 * 10**-decimals + 1e-9


@pytest.mark.parametrize(("page", "count"), [("README.md", 4), ("docs/speed.md", 24)])
def test_ratios_are_those_of_the_figures_beside_them(page: str, count: int) -> None:
    checked = 0
    for table in tables((ROOT / page).read_text()):
        for row in table[1:]:
            for column, cell in enumerate(row):
                value = quotient(table, row, column)
                if value is not None:
                    assert agrees(cell, value), f"{page}: {row}: {cell} should be {value:.3f}"
                    checked += 1
    assert checked == count


def test_the_allocators_ratio_is_that_of_its_medians() -> None:
    prose = " ".join((ROOT / "docs" / "speed.md").read_text().split())
    (found,) = re.findall(r"median ([\d.]+),[^;]*median ([\d.]+),[^;]*; ([\d.]+) x as fast", prose)
    assert agrees(found[2], float(found[0]) / float(found[1]))
