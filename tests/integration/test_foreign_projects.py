"""Projects of others, with this package's callbacks composed from YAML and from Python: both train alike."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, seed_everything
from PIL import Image

from lightning_optreg import callbacks, data
from tests.contracts.part import Need
from tests.contracts.parts import CALLBACKS
from tests.integration import gan, image_classifier, regression
from tests.resume_tools import assert_identical
from tests.small_runs import quiet_trainer

FOLDER = Path(__file__).parent

pytestmark = [
    pytest.mark.filterwarnings("ignore:LightningCLI's args parameter is intended"),
    # Lightning 2.6 calls methods that jsonargparse 4.53 deprecates, and torch 2.14 what Python's pytree does
    pytest.mark.filterwarnings(r"ignore:\s*(By default only one Json|``|skip_none)"),
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three classes of coloured squares."""
    root = tmp_path_factory.mktemp("pictures")
    for part, count in (("train", 4), ("val", 2)):
        for label, color in enumerate(((200, 30, 30), (30, 200, 30), (30, 30, 200))):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (32, 32), tuple(c + 5 * i for c in color)).save(folder / f"{i}.png")
    return root


def classifier_parts() -> list[Callback]:
    return [
        callbacks.ExactResume(),
        callbacks.BatchAugmentation([data.RandomHorizontalFlip(), data.RandomErasing(p=0.25)]),
        callbacks.MixUp(alpha=0.4, num_classes=3),
        callbacks.L2Penalty(0.0005),
        callbacks.BatchNormRecalibration(),
    ]


def regression_parts() -> list[Callback]:
    return [
        callbacks.ExactResume(),
        callbacks.L1Penalty(0.01, proximal=True),
        callbacks.GradientNoise(0.001),
        callbacks.AdamToSGD(at_epoch=2),
        callbacks.EarlyStopping("val_mse", patience=2, restore_best=True),
    ]


def gan_parts() -> list[Callback]:
    return [
        callbacks.ExactResume(),
        callbacks.MaxNorm(0.3, names=["discriminator.*weight"]),
        callbacks.GradientNoise(0.001),
        callbacks.L1Penalty(0.001, names=["generator.*weight"]),
        callbacks.NaNGuard(),
    ]


class Project:
    """How one of the projects is run, by its command line and in Python."""

    def __init__(
        self, name: str, main: Callable[..., Any], parts: Callable[[], list[Callback]], epochs: int
    ) -> None:
        self.name, self.main, self.parts, self.epochs = name, main, parts, epochs

    def from_yaml(self, folder: Path, pictures: Path) -> Any:
        arguments = ["fit", "--config", str(FOLDER / f"{self.name}.yaml")]
        if self.name == "image_classifier":
            arguments += ["--data.root", str(pictures)]
        cli = self.main([*arguments, "--trainer.default_root_dir", str(folder)])
        return cli.trainer, cli.model

    def from_python(self, folder: Path, pictures: Path, ckpt_path: Path | None = None, **options: Any) -> Any:
        seed_everything(1, verbose=False)
        module, datamodule = self.build(pictures)
        settings: dict[str, Any] = {"callbacks": self.parts(), **options}
        trainer = quiet_trainer(max_epochs=self.epochs, default_root_dir=folder, **settings)
        trainer.fit(module, datamodule=datamodule, ckpt_path=ckpt_path)
        return trainer, module

    def build(self, pictures: Path) -> tuple[LightningModule, Any]:
        if self.name == "image_classifier":
            return image_classifier.Classifier(3), image_classifier.Pictures(str(pictures))
        if self.name == "regression":
            return regression.Regressor(), regression.Measurements()
        return gan.GAN(), None


PROJECTS = [
    Project("image_classifier", image_classifier.main, classifier_parts, 2),
    Project("regression", regression.main, regression_parts, 4),
    Project("gan", gan.main, gan_parts, 3),
]
every_project = pytest.mark.parametrize("project", PROJECTS, ids=lambda project: project.name)
# The classifier's run takes the longest, and there is one for each part.
quick_projects = pytest.mark.parametrize(
    "project",
    [pytest.param(PROJECTS[0], marks=pytest.mark.slow), *PROJECTS[1:]],
    ids=lambda project: project.name,
)


@every_project
def test_yaml_and_python_train_alike(project: Project, tmp_path: Path, pictures: Path) -> None:
    by_yaml, module = project.from_yaml(tmp_path / "yaml", pictures)
    in_python, other = project.from_python(tmp_path / "python", pictures)
    names = [type(callback).__name__ for callback in by_yaml.callbacks]
    assert {type(callback).__name__ for callback in project.parts()} <= set(names)
    assert by_yaml.global_step == in_python.global_step > 0
    assert_identical(dict(module.state_dict()), dict(other.state_dict()))
    assert all(value.isfinite().all() for value in module.state_dict().values())


@quick_projects
def test_callbacks_make_a_difference(project: Project, tmp_path: Path, pictures: Path) -> None:
    _, module = project.from_python(tmp_path, pictures)
    for part in project.parts():
        if isinstance(part, (callbacks.ExactResume, callbacks.NaNGuard, callbacks.EarlyStopping)):
            continue  # these watch, and see nothing to act upon
        others = [p for p in project.parts() if type(p) is not type(part)]
        _, without = project.from_python(tmp_path, pictures, callbacks=others)
        pairs = zip(module.state_dict().values(), without.state_dict().values(), strict=True)
        assert any(not torch.equal(a, b) for a, b in pairs), type(part).__name__


@quick_projects
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    project: Project, tmp_path: Path, pictures: Path
) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    keep = ModelCheckpoint(tmp_path / "all", "{epoch}", every_n_epochs=1, save_top_k=-1)
    options: dict[str, Any] = {"callbacks": [*project.parts(), keep], "enable_checkpointing": True}
    _, straight = project.from_python(tmp_path, pictures, **options)
    _, resumed = project.from_python(tmp_path, pictures, tmp_path / "all" / "epoch=0.ckpt")
    assert_identical(dict(straight.state_dict()), dict(resumed.state_dict()))


LACKS: set[Need] = {"automatic optimization", "list batches", "batch normalisation", "residual blocks"}
REFUSING = [name for name, part in CALLBACKS.items() if part.needs & LACKS]


@pytest.mark.parametrize("name", REFUSING)
def test_parts_that_a_gan_cannot_use_say_so_before_the_first_step(name: str, tmp_path: Path) -> None:
    module = gan.GAN()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer = quiet_trainer(max_epochs=1, callbacks=[CALLBACKS[name].build()], default_root_dir=tmp_path)
    with pytest.raises(MisconfigurationException, match=f"^{name}: ") as error:
        trainer.fit(module)
    assert "\n" not in str(error.value)
    assert_identical(before, dict(module.state_dict()))
