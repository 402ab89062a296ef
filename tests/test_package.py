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


NO_PACKAGES = {"__version__", "ImageClassifier", "register_names"}


@pytest.mark.parametrize("name", sorted(set(lightning_optreg.__all__) - NO_PACKAGES))
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
    assert (set(lightning_optreg.__all__) - NO_PACKAGES) == (folders - own) | modules


PROJECT = """
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI
from torch import nn
{first}
class Mine(LightningModule):
    def __init__(self, net: nn.Module, noise: nn.Module, loss: nn.Module) -> None:
        super().__init__()
        self.net, self.noise, self.loss = net, noise, loss

words = (
    "--trainer.callbacks+=MaxNorm --trainer.callbacks.max_norm=3 --trainer.callbacks+=ExactResume "
    "--trainer.logger=RunCSVLogger --trainer.logger.save_dir=nowhere --trainer.strategy=LocalSGD "
    "--model.net=LeNet5 --model.noise=DropConnect --model.noise.in_features=4 "
    "--model.noise.out_features=2 --model.loss=SquaredLoss "
    "--data=FashionMNISTDataModule --optimizer=NAG --optimizer.lr=0.1 --lr_scheduler=InverseTimeDecay "
)
cli = LightningCLI(
    Mine, subclass_mode_data=True, run=False, save_config_callback=None, args=words.split()
)
print(*(type(part).__name__ for part in (*cli.trainer.callbacks[:2], cli.trainer.strategy, cli.model.noise)))
"""


@pytest.mark.parametrize(
    "first",
    ["import lightning_optreg", pytest.param("", marks=pytest.mark.slow)],
    ids=["after Lightning", "before"],
)
def test_another_projects_cli_takes_short_names(first: str) -> None:
    program = PROJECT.format(first=f"{first}\n")
    if not first:
        program = f"import lightning_optreg\nlightning_optreg.register_names()\n{program}"
    assert fresh(program) == "MaxNorm ExactResume LocalSGD DropConnect"


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'netz'"):
        lightning_optreg.netz  # noqa: B018
    assert set(lightning_optreg.__all__) <= set(dir(lightning_optreg))


@pytest.mark.parametrize("path", (ROOT / "tests" / "public_paths.txt").read_text().split())
def test_paths_that_were_public_lead_to_the_same_names(path: str) -> None:
    """Those that version 0.1.0 documented before its modules moved into rooms."""
    module, _, name = path.rpartition(".")
    assert hasattr(import_module(module), name)
