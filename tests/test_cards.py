"""Every method has a card: a page with a picture, formula, advice, costs and examples, in one form."""

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from torch import nn

from lightning_optreg.__main__ import main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def hook(name: str) -> ModuleType:
    """A hook of the documentation, as MkDocs loads it: beside the others."""
    folder = str(DOCS / "_hooks")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


CARDS_HOOK = hook("cards")
CARDS = CARDS_HOOK.files()
SECTIONS = [
    "Formula",
    "When to use it",
    "Settings that work",
    "What it costs",
    "Works with",
    "Example",
    "Reference",
]
ROOMS = ("callbacks", "optimizers", "schedulers", "layers", "losses", "data", "strategies", "nets")

# What has no card, and why.
NO_METHODS = {
    "callbacks": {
        "Curves": "draws records",
        "ExactResume": "continues runs",
        "Histograms": "records",
        "NaNGuard": "watches",
        "PredictionWriter": "records",
        "ResetOptimizer": "continues runs",
        "Throughput": "measures",
    },
    "optimizers": {"StepMeter": "measures", "UpdateRule": "base class"},
    "layers": {"NoiseLayer": "base class"},
    "losses": {
        "ScoreLoss": "base class",
        "multiclass_hinge": "the function of a class",
        "squared_error": "the function of a class",
    },
    "data": {
        "Batch": "a type",
        "BatchLoader": "loads data",
        "BatchTransform": "base class",
        "CIFAR10DataModule": "a dataset",
        "Draws": "a type",
        "FashionMNISTDataModule": "a dataset",
        "ImageDataModule": "base class",
        "ImageFolderDataModule": "a dataset",
        "ImageSet": "a type",
        "Place": "a type",
        "Source": "a type",
        "Statistics": "a type",
        "Views": "base class",
        "compute_statistics": "measures",
        "rank_images": "the function of a callback",
    },
    "nets": {"Network": "base class"},
}


def methods() -> list[str]:
    return [
        f"lightning_optreg.{room}.{name}"
        for room in ROOMS
        for name in importlib.import_module(f"lightning_optreg.{room}").__all__
        if name not in NO_METHODS.get(room, {})
    ]


def value(path: str) -> object:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


NAMED = [value(name) for card in CARDS for name in CARDS_HOOK.named(card)]


@pytest.mark.parametrize("name", methods())
def test_every_method_has_a_card(name: str) -> None:
    assert sum(value(name) is each for each in NAMED) == 1


@pytest.mark.parametrize("room", ROOMS)
def test_what_has_no_card_is_there_and_has_none(room: str) -> None:
    without = NO_METHODS.get(room, {})
    assert set(without) <= set(importlib.import_module(f"lightning_optreg.{room}").__all__)
    cards_of_room = {name for card in CARDS for name in CARDS_HOOK.named(card)}
    assert not {f"lightning_optreg.{room}.{name}" for name in without} & cards_of_room


def section(text: str, name: str) -> str:
    return re.split(r"^## ", text.partition(f"\n## {name}\n")[2], flags=re.M)[0].strip()


@pytest.mark.parametrize("card", CARDS, ids=[card.stem for card in CARDS])
class TestCard:
    def test_has_all_sections_in_order(self, card: Path) -> None:
        text = card.read_text()
        assert text.startswith("# ")
        found = re.findall(r"^## (.*)$", text, re.M)
        assert [name for name in found if name in SECTIONS] == [
            name for name in SECTIONS if name in found or name != "Formula"
        ]
        for name in found:
            assert len(section(text, name)) > 20, f"{name} is empty"
        assert re.search(r"^\| .* \|$", section(text, "Settings that work"), re.M)

    def test_is_named_like_a_module_or_a_class(self, card: Path) -> None:
        names = CARDS_HOOK.named(card)
        modules = {value(name).__module__.rpartition(".")[2] for name in names}
        classes = {re.sub("(?<=[a-z])(?=[A-Z])", "_", name.rpartition(".")[2]).lower() for name in names}
        assert any(card.stem in name for name in modules | classes)

    def test_shows_a_picture_that_says_in_words_what_it_shows(self, card: Path) -> None:
        pictures = CARDS_HOOK.PICTURE.findall(card.read_text())
        assert pictures
        for alt, target in pictures:
            assert len(alt) > 20
            path = (card.parent / target).resolve()
            assert path.stat().st_size < 80_000 or "methods" not in path.parts

    def test_formulas_are_rendered(self, card: Path) -> None:
        formulas = re.findall(r"^\$\$\n?(.*?)\$\$$", section(card.read_text(), "Formula"), re.M | re.S)
        assert formulas or "## Formula" not in card.read_text()
        for formula in formulas:
            mathml = hook("formulas").rendered(f'<div class="arithmatex">\\[{formula}\\]</div>')
            assert "<math" in mathml
            assert "\\" not in re.sub(r"<[^>]*>", "", mathml), "a command that latex2mathml doesn't know"

    def test_examples_are_python_and_yaml(self, card: Path) -> None:
        example = section(card.read_text(), "Example")
        assert re.search(r"^```python\n", example, re.M)
        blocks = re.findall(r"^```yaml\n(.*?)^```", example, re.M | re.S)
        assert blocks
        assert all(isinstance(yaml.safe_load(block), dict) for block in blocks)

    def test_head_leads_to_files_that_are_there(self, card: Path) -> None:
        head = "\n".join(CARDS_HOOK.head(CARDS_HOOK.named(card)))
        for path in re.findall(r"`((?:lightning_optreg|tests|configs)/[\w/.]+)`", head):
            assert (ROOT / path).exists()
        assert re.search(r"^\| tests \| `", head, re.M)
        assert not re.findall(r"\[\[|\]\]", head)

    def test_paths_in_it_are_there(self, card: Path) -> None:
        paths = re.findall(r"\b((?:configs|scripts|docs|tests)/[\w/]+\.\w+)", card.read_text())
        assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_drawing_belongs_to_a_card() -> None:
    shown = {
        Path(target).name for card in CARDS for _, target in CARDS_HOOK.PICTURE.findall(card.read_text())
    }
    drawn = {path.name for path in (DOCS / "images" / "methods").iterdir()}
    assert drawn <= shown | {f"{card.stem}.svg" for card in CARDS}


def test_every_picture_has_a_command() -> None:
    text = "\n".join(CARDS_HOOK.pictures())  # raises where there is none
    shown = set(re.findall(r"\]\((images/[^)]+)\)", text))
    assert shown >= set(CARDS_HOOK.commands_of_pictures())
    drawings = {Path(path).stem for path in shown if path.startswith("images/methods/")}
    assert drawings <= drawing_functions()


def drawing_functions() -> set[str]:
    """The names of the functions of the scripts that draw the cards' pictures."""
    files = (ROOT / "scripts" / "experiments" / "card_pictures").glob("*.py")
    return {name for file in files for name in re.findall(r"^@picture\ndef (\w+)\(", file.read_text(), re.M)}


def test_cards_stand_in_the_navigation_by_kind() -> None:
    grouped = CARDS_HOOK.by_kind()
    assert sorted(page for pages in grouped.values() for page in pages) == [
        f"methods/{c.name}" for c in CARDS
    ]

    class Config:
        nav: list[dict[str, list[object]]] = [{"Methods": []}]  # noqa: RUF012

    CARDS_HOOK.on_config(Config)
    (section,) = Config.nav
    assert [next(iter(group)) for group in section["Methods"]] == [CARDS_HOOK.KINDS[kind] for kind in grouped]


def test_a_head_says_what_a_part_does_and_where_it_is() -> None:
    filled = CARDS_HOOK.fill_in("# L1 and L2\n<!-- card: lightning_optreg.callbacks.MaxNorm -->\n")
    assert "| reference | [`MaxNorm`](../callbacks.md#lightning_optreg.callbacks.MaxNorm) |" in filled
    assert "| source | `lightning_optreg/callbacks/weights/max_norm.py` |" in filled
    assert "| tests | `tests/callbacks/weights/test_max_norm.py` |" in filled


def test_formulas_become_mathml() -> None:
    rendered = hook("formulas").rendered(
        'a <span class="arithmatex">\\(x &lt; 1\\)</span> b <div class="arithmatex">\\[\\sqrt{x}\\]</div>'
    )
    assert rendered.count("<math") == 2
    assert "&#x0003C;" in rendered  # less than
    assert "<msqrt>" in rendered
    assert '<div class="formula"' in rendered


# The lecture's parts, in its order.
LECTURE = [
    "Image classification",
    "Linear classification, loss and risk",
    "Loss + regularization (regularisation)",
    "Gradient descent and its variants",
    "Parallel and distributed SGD",
    "Additional strategies for SGD",
    "Adam vs. tuned SGD",
    "Second order methods",
    "Dropout",
    "Normalization (normalisation)",
    "Data augmentation",
    "Randomized (randomised) algorithms: add random noise, marginalize (marginalise) over the noise",
    "Popular architectures",
    "ResNet in noisy ensembles: Feynman-Kac equations",
    "References that the slides list without a page",
]


def test_the_map_has_the_lectures_parts_in_its_order() -> None:
    assert re.findall(r"^## (.*)$", (DOCS / "lecture.md").read_text(), re.M) == LECTURE


def rows_of_the_map() -> list[list[str]]:
    lines = re.findall(r"^\| (.*) \|$", (DOCS / "lecture.md").read_text(), re.M)
    return [line.split(" | ") for line in lines if not line.startswith("in the lecture")]


@pytest.mark.parametrize("row", rows_of_the_map(), ids=lambda row: row[0][:30])
def test_what_the_map_names_is_there(row: list[str]) -> None:
    _, here, configuration, picture, tests, page = row
    assert here
    for name in re.findall(r"`([A-Z]\w+)`", here):
        rooms = [importlib.import_module(f"lightning_optreg.{room}") for room in (*ROOMS, "data.transforms")]
        assert any(hasattr(room, name) for room in rooms), name
    for path in re.findall(r"`(torch\.[\w.]+)`", here):
        assert value(path)
    for name, card in re.findall(r"\[`(\w+)`\]\(methods/(\w+)\.md\)", here):
        assert name in {path.rpartition(".")[2] for path in CARDS_HOOK.named(DOCS / "methods" / f"{card}.md")}
    paths = re.findall(r"`([^`]+)`", configuration + tests)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert tests.startswith("`tests/")
    links = re.findall(r"\]\(([^)#]+)", here + picture + page)
    assert links
    assert [link for link in links if not (DOCS / link).exists()] == []


def yaml_blocks() -> list[object]:
    """Each card's YAML; the first of each kind of part in every run of the tests, the others in slow ones."""
    first = {Path(pages[0]).stem for pages in CARDS_HOOK.by_kind().values()}
    return [
        pytest.param(block, id=card.stem, marks=() if card.stem in first else pytest.mark.slow)
        for card in CARDS
        for block in re.findall(r"^```yaml\n(.*?)^```", card.read_text(), re.M | re.S)
    ]


@pytest.mark.parametrize("block", yaml_blocks())
def test_yaml_changes_a_recipe(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    my_package = ModuleType("my_package")
    my_package.MyNet = MyNet  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_package", my_package)
    (tmp_path / "block.yaml").write_text(block)
    recipe = str(ROOT / "configs" / "fashion_mnist" / "lenet5.yaml")
    files = ["--config", recipe, "--config", str(tmp_path / "block.yaml")]
    assert main(["fit", *files, "--print_config"]) == 0
    assert "default_root_dir:" in capsys.readouterr().out


class MyNet(nn.Module):
    """Somebody's network."""

    __module__ = "my_package"
