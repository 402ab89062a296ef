"""How the package is laid out: imports run one way, private modules stay private, no folder is crowded."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lightning_optreg"

# From the program down to the mathematics. A room may import from those behind it only.
ROOMS = (
    "__main__",
    "commands",
    "studies",
    "cli",
    "runs",
    "export",
    "functional",
    "classifier",
    "callbacks",
    "strategies",
    "loggers",
    "trainer",
    "data",
    "attacks",
    "randomness",
    "figures",
    "analysis",
    "nets",
    "layers",
    "losses",
    "calibration",
    "parallel",
    "schedulers",
    "param_groups",
    "optimizers",
    "trust",
    "_checks",
    "files",
    "places",
    "recipes",
    "_nearest",
)
WITHOUT_LIGHTNING = (
    "nets",
    "layers",
    "losses",
    "optimizers",
    "schedulers",
    "parallel",
    "analysis",
    "figures",
)
MOST_FILES = {"callbacks": 10, "strategies": 14}  # in the folder and each below it


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in the file it does so."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where they lead"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else str(node.module)


IMPORTS = {name: set(imports_of(path)) for name, path in MODULES.items()}
OWN = {name: {each for each in found if each in MODULES} for name, found in IMPORTS.items()}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_room_has_its_place() -> None:
    assert {room_of(module) for module in MODULES} - {""} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_down(room: str) -> None:
    place = ROOMS.index(room)
    upward = {
        f"{module} imports {target}"
        for module in MODULES
        if room_of(module) == room
        for target in OWN[module]
        if target != "lightning_optreg" and ROOMS.index(room_of(target)) < place
    }
    assert not upward


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Nor do two modules import each other within functions."""
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"a circle: {' > '.join((*way[way.index(module) :], module))}"
        if module not in done:
            for target in OWN[module] - {"lightning_optreg"}:
                visit(target, (*way, module))
            done.add(module)

    for module in MODULES:
        if module != "lightning_optreg":  # its names are looked up when they are asked for
            visit(module, ())


def test_private_modules_are_imported_from_their_own_folder_only() -> None:
    strangers = {
        f"{module} imports {target}"
        for module in MODULES
        for target in OWN[module]
        if target.rpartition(".")[2].startswith("_") and not target.endswith("__main__")
        if not f"{module}.".startswith(target.rpartition(".")[0] + ".")
    }
    assert not strangers


@pytest.mark.parametrize("room", MOST_FILES)
def test_a_folder_shows_at_a_glance_what_is_in_it(room: str) -> None:
    folders = [PACKAGE / room, *(path for path in (PACKAGE / room).rglob("*") if path.is_dir())]
    files = {folder: len(list(folder.glob("*.py"))) for folder in folders}
    assert not {folder: count for folder, count in files.items() if count > MOST_FILES[room]}


@pytest.mark.parametrize("room", WITHOUT_LIGHTNING)
def test_the_mathematics_knows_no_lightning(room: str) -> None:
    """Neither in a file of the room nor in one that it imports."""
    seen: set[str] = set()
    queue = [module for module in MODULES if room_of(module) == room]
    while queue:
        module = queue.pop()
        if module not in seen:
            seen.add(module)
            found = {
                each
                for each in IMPORTS[module]
                if each.partition(".")[0] in ("lightning", "pytorch_lightning")
            }
            assert not found, f"{module} imports {found}"
            queue += OWN[module] - {"lightning_optreg"}


def test_nor_are_lightning_and_matplotlib_imported_with_it() -> None:
    """Of the figures, matplotlib is imported when something is drawn."""
    rooms = ", ".join(f"lightning_optreg.{room}" for room in WITHOUT_LIGHTNING)
    heavy = "{'lightning', 'matplotlib'} & set(sys.modules)"
    program = f"import sys, {rooms}; sys.exit(' '.join({heavy}) or 0)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("command", ["compare", "crossval", "tune"])
def test_a_study_can_be_stopped_before_long_imports(command: str) -> None:
    """A process that is started for one looks after its parent at once, and `--help` takes no seconds."""
    heavy = "{'torch', 'lightning', 'optuna', 'matplotlib'} & set(sys.modules)"
    program = f"import sys, lightning_optreg.commands.{command}; sys.exit(str({heavy} or 0))"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert run.stderr == "0\n"
