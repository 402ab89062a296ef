"""What `import lightning_optreg` gives, and how little it imports."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import lightning_optreg

ROOT = Path(__file__).parents[1]


def fresh(program: str) -> str:
    """Run a program in a process of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'lightning', 'matplotlib', 'yaml'} & set(sys.modules)"
    assert fresh(f"import sys, lightning_optreg; dir(lightning_optreg); print({heavy})") == "set()"


@pytest.mark.parametrize("name", sorted(set(lightning_optreg.__all__) - {"__version__", "ImageClassifier"}))
def test_every_package_is_reached(name: str) -> None:
    package = getattr(lightning_optreg, name)
    assert isinstance(package, ModuleType)
    assert all(hasattr(package, each) for each in package.__all__)


def test_packages_are_reached_without_an_import_of_their_own() -> None:
    program = "import lightning_optreg; print(lightning_optreg.studies.__name__)"
    assert fresh(program) == "lightning_optreg.studies"


def test_all_packages_of_parts_are_there() -> None:
    """Those that a user imports from; the program's own rooms are not among them."""
    folders = {path.parent.name for path in (ROOT / "lightning_optreg").glob("*/__init__.py")}
    own = {"cli", "commands", "places", "trainer", "trust"}
    modules = {"losses", "functional"}
    assert (set(lightning_optreg.__all__) - {"__version__", "ImageClassifier"}) == (folders - own) | modules


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'netz'"):
        lightning_optreg.netz  # noqa: B018
    assert set(lightning_optreg.__all__) <= set(dir(lightning_optreg))


@pytest.mark.parametrize("path", (ROOT / "tests" / "public_paths.txt").read_text().split())
def test_paths_that_were_public_lead_to_the_same_names(path: str) -> None:
    """Those that version 0.1.0 documented before its modules moved into rooms."""
    module, _, name = path.rpartition(".")
    assert hasattr(import_module(module), name)
