"""The short names that the command line takes, by the option that takes them.

Nothing is imported for it: this package's names are read from its files, so that help answers at once.
"""

import ast
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

__all__ = ["Names", "Place", "names_of", "part_of", "parts", "places"]

_PACKAGE = Path(__file__).parents[2]
# What is public for programmers: bases, and what no configuration makes.
_NO_PARTS = frozenset(
    [
        "Attack",
        "Batch",
        "BatchLoader",
        "BatchTransform",
        "Centring",
        "ColorShift",
        "CurriculumSampler",
        "Draws",
        "ImageDataModule",
        "ImageSet",
        "Network",
        "NoiseLayer",
        "Normalize",
        "Pacing",
        "Pipeline",
        "PixelSpace",
        "Place",
        "RandomlyApplied",
        "RateEstimate",
        "ScoreLoss",
        "Source",
        "Statistics",
        "StepMeter",
        "UpdateRule",
        "Views",
    ]
)


class Names(NamedTuple):
    """Names that one module makes known.

    Attributes:
        module: Its dotted name.
        names: The names of its classes.
        own: Whether it is of this package.
    """

    module: str
    names: tuple[str, ...]
    own: bool = False


class Place(NamedTuple):
    """An option that takes the name of a class.

    Attributes:
        option: Without its dashes; `+` at its end if it takes several.
        what: What the classes are, in the plural.
        modules: Where they are from.
    """

    option: str
    what: str
    modules: tuple[Names, ...]

    @property
    def key(self) -> str:
        """What the arguments of the class begin with."""
        return self.option.rstrip("+")


@cache
def places() -> tuple[Place, ...]:
    """List the options that take a class.

    Example:
        >>> [place.option for place in places()][:3]
        ['model.net', 'model.loss', 'data']
    """
    data = _own("data", keep=lambda name: name.endswith("DataModule"))
    return (
        Place("model.net", "networks", (_own("nets"),)),
        Place("model.loss", "losses", (_own("losses"), _TORCH_LOSSES)),
        Place("data", "data modules", (data,)),
        Place("data.augment+", "transforms", (_own("data.transforms"),)),
        Place("optimizer", "optimizers", (_own("optimizers"), _TORCH_OPTIMIZERS)),
        Place("lr_scheduler", "schedules", (_own("schedulers"), _TORCH_SCHEDULES)),
        Place("trainer.callbacks+", "callbacks", (_own("callbacks"), _LIGHTNING_CALLBACKS)),
        Place("trainer.strategy", "strategies", (_own("strategies"), _LIGHTNING_STRATEGIES)),
        Place("trainer.logger+", "loggers", (_own("loggers"), _LIGHTNING_LOGGERS)),
        Place("trainer.profiler", "profilers", (_LIGHTNING_PROFILERS,)),
    )


_TORCH_LOSSES = Names("torch.nn", ("CrossEntropyLoss", "MultiMarginLoss", "NLLLoss"))
_TORCH_OPTIMIZERS = Names(
    "torch.optim",
    (
        *("ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "LBFGS", "Muon", "NAdam"),
        *("RAdam", "RMSprop", "Rprop", "SGD"),
    ),
)
_TORCH_SCHEDULES = Names(
    "torch.optim.lr_scheduler",
    (
        *("ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR", "ExponentialLR"),
        *("LinearLR", "MultiStepLR", "OneCycleLR", "PolynomialLR", "ReduceLROnPlateau", "StepLR"),
    ),
)
_LIGHTNING_CALLBACKS = Names(
    "lightning.pytorch.callbacks",
    (
        *("BackboneFinetuning", "DeviceStatsMonitor", "EMAWeightAveraging", "GradientAccumulationScheduler"),
        *("LearningRateFinder", "LearningRateMonitor", "ModelCheckpoint", "ModelPruning", "ModelSummary"),
        *("OnExceptionCheckpoint", "RichProgressBar", "SpikeDetection", "StochasticWeightAveraging"),
        *("TQDMProgressBar", "ThroughputMonitor", "Timer", "WeightAveraging"),
    ),
)
_LIGHTNING_STRATEGIES = Names(
    "lightning.pytorch.strategies",
    ("DDPStrategy", "DeepSpeedStrategy", "FSDPStrategy", "ModelParallelStrategy"),
)
_LIGHTNING_LOGGERS = Names(
    "lightning.pytorch.loggers",
    ("CSVLogger", "CometLogger", "MLFlowLogger", "TensorBoardLogger", "WandbLogger"),
)
_LIGHTNING_PROFILERS = Names(
    "lightning.pytorch.profilers", ("AdvancedProfiler", "PyTorchProfiler", "SimpleProfiler")
)
# Parts of this package that are arguments of other parts.
_INNER = ("layers", "attacks", "data")


def _own(room: str, *, keep: Callable[[str], bool] = lambda name: True) -> Names:
    path = _PACKAGE.joinpath(*room.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found: list[str] = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            found = ast.literal_eval(node.value)
    # functions begin with a small letter
    kept = [name for name in found if name[0].isupper() and name not in _NO_PARTS and keep(name)]
    return Names(f"lightning_optreg.{room}", tuple(sorted(kept, key=str.lower)), own=True)


def names_of(key: str, *, own: bool = False) -> list[str]:
    """List the short names that an option takes, this package's first; none if it takes no class.

    Args:
        key: The option without dashes, such as `optimizer`.
        own: Whether to list only those of this package.

    Example:
        >>> names_of("model.net")[:3]
        ['AirbenchNet', 'AlexNet', 'DeepOBS2c2d']
    """
    key = key.rstrip("+")
    modules = [each for place in places() if place.key == key for each in place.modules]
    return [name for each in modules if each.own or not own for name in each.names]


def parts() -> Iterator[tuple[str, str, Place | None]]:
    """List every part that has a short name: the name, its module, and the option that takes it, if any."""
    for place in places():
        for each in place.modules:
            for name in each.names:
                yield name, each.module, place
    listed = {name for place in places() for each in place.modules for name in each.names}
    for room in _INNER:
        own = _own(room)
        for name in own.names:
            if name not in listed:
                yield name, own.module, None


def part_of(name: str) -> tuple[str, Place | None] | None:
    """Find the module of a part and the option that takes it; None if no part has that name.

    Args:
        name: The short name.

    Example:
        >>> module, place = part_of("MaxNorm")
        >>> module, place.option
        ('lightning_optreg.callbacks', 'trainer.callbacks+')
    """
    return next(((module, place) for other, module, place in parts() if other == name), None)
