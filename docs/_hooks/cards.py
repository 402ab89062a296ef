"""Fills in the methods' cards, `docs/methods/NAME.md`, and finds their places: a card needs no other line.

    <!-- card: lightning_optreg.callbacks.MaxNorm -->  what it does, reference, source, tests, recipes
    <!-- gallery -->                                   all pictures, and what draws them

`card` takes several names, with spaces between them. The pages that hold one stand in the navigation under
"Methods", by the kind of the first.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from parts import DIRECTIVE as PARTS
from parts import ROOT, Part, escaped, expand, public

DOCS = ROOT / "docs"
CARD = re.compile(r"^<!-- card: (\S.*) -->$", re.M)
GALLERY = re.compile(r"^<!-- gallery -->$", re.M)
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
KINDS = {
    "optimizers": "Optimizers",
    "schedulers": "Schedules",
    "callbacks": "Callbacks",
    "layers": "Layers",
    "losses": "Losses",
    "data": "Transforms and sampling",
    "strategies": "Strategies",
    "nets": "Networks",
}


def on_config(config: Any) -> None:
    """What MkDocs calls with its settings: puts the cards into the navigation."""
    (section,) = [entry["Methods"] for entry in config.nav if "Methods" in entry]
    section += [{KINDS[kind]: pages} for kind, pages in by_kind().items()]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """What MkDocs calls with the text of each page."""
    return fill_in(markdown)


def fill_in(page: str) -> str:
    """Return a page with its directives replaced by what they stand for."""
    page = CARD.sub(lambda found: "\n".join(head(found[1].split())), page)
    return GALLERY.sub(lambda _: "\n".join(pictures()), page)


def files() -> list[Path]:
    """Return the cards, in the order of their names."""
    return sorted((DOCS / "methods").glob("*.md"))


def named(card: Path) -> list[str]:
    """Return the paths of the parts that a card is about, the first one first."""
    return [name for found in CARD.findall(card.read_text()) for name in found.split()]


def by_kind() -> dict[str, list[str]]:
    """Return the cards of each kind, as paths below `docs`, in the order of `KINDS`."""
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for card in files():
        found[named(card)[0].split(".")[1]].append(f"methods/{card.name}")
    return {kind: pages for kind, pages in found.items() if pages}


def head(paths: list[str]) -> list[str]:
    """Return what stands at the top of a card: what its parts do, and where they are."""
    parts = [part_at(path) for path in paths]
    rows = [("reference", ", ".join(link(part) for part in parts))]
    rows.append(("source", ", ".join(unique(f"`{source(part)}`" for part in parts))))
    rows.append(("tests", ", ".join(unique(f"`{test}`" for part in parts for test in tests(part)))))
    if recipes := unique(recipe for part in parts for recipe in recipes_of(part)):
        more = f" and {len(recipes) - 3} more" if len(recipes) > 3 else ""
        rows.append(("configuration", ", ".join(f"`{recipe}`" for recipe in recipes[:3]) + more))
    summaries = [f"{escaped(part.summary)}." for part in parts]
    if len(parts) > 1:
        pairs = zip(parts, summaries, strict=True)
        summaries = [f"- **{part.name}**: {summary}" for part, summary in pairs]
    return [*summaries, "", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def unique(items: Any) -> list[str]:
    """Return strings without those that came before, in their order."""
    return list(dict.fromkeys(items))


def part_at(path: str) -> Part:
    """Return the part with a path."""
    (part,) = [part for part in public(path.rpartition(".")[0]) if part.path == path]
    return part


def link(part: Part) -> str:
    """Return a link from a card to a part's reference."""
    for page, values in references().items():
        for path, value in values:
            if value is part.value:
                return f"[`{part.name}`](../{page}#{path})"
    raise ValueError(f"no page refers to {part.path}")


@cache
def references() -> dict[str, list[tuple[str, Any]]]:
    """Return the parts that each page has the reference of."""
    return {
        page.name: [
            (found, part.value)
            for found in re.findall(r"^::: (\S+)$", expand(page.read_text()), re.M)
            for part in public(found.rpartition(".")[0])
            if part.path == found
        ]
        for page in sorted(DOCS.glob("*.md"))
        if PARTS.search(page.read_text())
    }


def source(part: Part) -> str:
    """Return the file that defines a part."""
    module = part.value.__module__.replace(".", "/")
    file = f"{module}.py"
    return file if (ROOT / file).exists() else f"{module}/__init__.py"


def tests(part: Part) -> list[str]:
    """Return a part's tests: the files that are named like its own, or the one that speaks of it most."""
    name = Path(source(part)).stem
    texts = test_files()
    word = re.compile(rf"\b{part.name}\b")
    named_alike = [
        path
        for path, text in texts.items()
        if re.fullmatch(rf"test_(\w+_)?{name}(_\w+)?\.py", Path(path).name) and word.search(text)
    ]
    return named_alike[:3] or [max(texts, key=lambda path: len(word.findall(texts[path])))]


@cache
def test_files() -> dict[str, str]:
    """Return the text of each file of tests, by its path."""
    return {
        str(path.relative_to(ROOT)): path.read_text() for path in sorted((ROOT / "tests").rglob("test_*.py"))
    }


def recipes_of(part: Part) -> list[str]:
    """Return the files in `configs` that build a part: overlays first, then recipes, then studies."""
    word = re.compile(rf"^[^#\n]*[\s:\[.]{part.name}\b", re.M)
    found = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "configs").rglob("*.yaml")
        if word.search(path.read_text())
    ]
    return sorted(found, key=lambda path: ("/methods/" not in path, "/studies/" in path, path))


def pictures() -> list[str]:
    """Return all pictures of the pages, each with a link to its page and the command that draws it."""
    lines: list[str] = []
    shown: set[str] = set()
    for page in [*sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("tutorials/*.md")), *files()]:
        text = page.read_text()
        title = re.findall(r"^# (.*)$", text, re.M)[0]
        place = page.relative_to(DOCS)
        for alt, target in PICTURE.findall(text):
            path = str((page.parent / target).resolve().relative_to(DOCS))
            if path in shown:
                continue
            shown.add(path)
            lines += [
                f"[![{alt}]({path}){{ loading=lazy width=560 }}]({place})",
                "",
                f"[{title}]({place}), drawn by `{drawn_by(path)}`",
                "",
            ]
    return lines


def drawn_by(path: str) -> str:
    """Return the command that draws a picture, which is given by its path below `docs`."""
    if path.startswith("images/methods/"):
        return f"python scripts/experiments/cards.py {Path(path).stem}"
    return commands_of_pictures()[path]


@cache
def commands_of_pictures() -> dict[str, str]:
    """Return what draws the pictures that are not those of cards."""
    read: dict[str, str] = yaml.safe_load((DOCS / "_hooks" / "pictures.yaml").read_text())
    return read
