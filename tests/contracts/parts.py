"""The one table of parts that the contract tests go through. A new part is tested by adding a row."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_optreg import callbacks, data

Build = Callable[[Path], Callback]


@dataclass(frozen=True)
class Part:
    """How the contract tests build a callback.

    Attributes:
        build: Makes the callback as a user would, for a run in the given folder.
        neutral: Makes it at its trivial setting. None: the callback only watches, so `build` is neutral too.
        refuses: What it says of modules that it can't work on, such as one without noise to average out.
        adam: Whether it needs an optimizer of Adam's type in its module.
        boring: What it says of Lightning's `BoringModel`, if it lacks what the part needs.
        no_schedule: Whether it refuses a module with a learning-rate schedule.
        refuses_manual: What it says of manual optimization, if it says something else there.
        whole_epochs: Whether it makes one step of an epoch, so that no setting of it is neutral, parts that
            work at a step find none, and tests of its own show what the tables' tests would.
        own_loader: Whether it needs one of this package's loaders, so that it refuses those of the tables'
            tests, and tests of its own show what they would.
        comes_last: Whether it stands behind parts that change the weights at the end.
        resumes: Whether a resume is exact. Not where it is the part's purpose to change it.
        settings: Further settings at which a resume has to be exact, by what they are.
        acts: Whether the tables' network ends with other weights than without the part.
        idle: Settings at which it does not nevertheless, "" being that of `build`.
        on_images: Makes it for `tests.contracts.images`, one process or several. None: `build` does.
        on_kinds: Makes it for the tables of kinds of modules and modes of trainers. None: `build` does.
        network: Which of the networks there it needs.
        ranks_differ: Why several processes end with other weights there than one does. None: they do not.
        evaluates: Makes it where it has most to do in evaluation, of a network of one output. None: `build`
            does.
        second: Makes another one beside the first. None: `anywhere` does.
        alone: What it says if there are two of them.
        wrong: Wrong arguments, each with a part of the message that must name them.
    """

    build: Build
    neutral: Build | None = None
    refuses: str | None = None
    refuses_manual: str | None = None
    whole_epochs: bool = False
    own_loader: bool = False
    adam: bool = False
    boring: str | None = None
    no_schedule: bool = False
    comes_last: bool = False
    resumes: bool = True
    settings: dict[str, Build] = field(default_factory=dict)
    acts: bool = True
    idle: tuple[str, ...] = ()
    on_images: Build | None = None
    on_kinds: Build | None = None
    network: Literal["plain", "dropout", "batch_norm"] = "plain"
    ranks_differ: str | None = None
    evaluates: Build | None = None
    second: Build | None = None
    alone: str | None = None
    wrong: tuple[tuple[dict[str, object], str], ...] = ()

    @property
    def anywhere(self) -> Build:
        """Makes it for any kind of module."""
        return self.on_kinds or self.build


EVALUATION: tuple[Literal["validate", "test", "predict"], ...] = ("validate", "test", "predict")
"""All stages in which a network is evaluated."""

NO_LIST = "a training batch must be a list or a dictionary"
"""What is said of batches that are one tensor."""

CHOICE: tuple[tuple[dict[str, object], str], ...] = (({"names": "net.*"}, "names"), ({"types": [1]}, "types"))
"""Wrong choices of parameters."""

RUNS_SEED = "from the run's seed"
"""A setting at which a resumed run is given another seed by `seed_everything`."""


class Poisoned(callbacks.NaNGuard):
    """Leaves out two steps, in which it makes the last image of the last process not a number."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step in (4, 8) and trainer.global_rank == trainer.world_size - 1:
            batch[0][-1] = float("nan")
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)


CALLBACKS: dict[str, Part] = {
    "AdamRestarts": Part(
        lambda _: callbacks.AdamRestarts("val_loss", patience=1, min_delta=9.0),
        neutral=lambda _: callbacks.AdamRestarts("val_loss", patience=1000),
        settings={
            "ends the run": lambda _: callbacks.AdamRestarts(
                "val_loss", patience=1, min_delta=9.0, max_restarts=0
            )
        },
        on_images=lambda _: callbacks.AdamRestarts(patience=1, min_delta=0.3),
        no_schedule=True,
        alone="one of them only",
        wrong=(
            ({"mode": "least"}, "mode"),
            ({"patience": 0}, "patience"),
            ({"first_patience": 0}, "first_patience"),
            ({"factor": 0.0}, "factor"),
            ({"max_restarts": -1}, "max_restarts"),
            ({"min_delta": -1.0}, "min_delta"),
        ),
    ),
    "AdamToSGD": Part(
        lambda _: callbacks.AdamToSGD(at_step=5),
        neutral=lambda _: callbacks.AdamToSGD(tolerance=1e-30),
        settings={
            "at once": lambda _: callbacks.AdamToSGD(at_step=0, lr=0.01, nesterov=True),
            "by its criterion": lambda _: callbacks.AdamToSGD(tolerance=10.0),
        },
        adam=True,
        alone="two of them would replace optimizer 0",
        wrong=(
            ({"at_epoch": 1, "at_step": 2}, "at_epoch"),
            ({"at_step": -1}, "at_step"),
            ({"at_epoch": 0.5}, "at_epoch"),
            ({"mode": "least"}, "mode"),
            ({"patience": 0}, "patience"),
            ({"min_delta": -1.0}, "min_delta"),
            ({"lr": 0.0}, "lr"),
            ({"lr": float("nan")}, "lr"),
            ({"momentum": 1.0}, "momentum"),
            ({"momentum": 0.0, "nesterov": True}, "momentum"),
            ({"weight_decay": -0.1}, "weight_decay"),
            ({"tolerance": 0.0}, "tolerance"),
            ({"optimizer_index": -1}, "optimizer_index"),
        ),
    ),
    "BatchAugmentation": Part(
        lambda _: callbacks.BatchAugmentation([data.RandomHorizontalFlip(), data.RandomErasing()], seed=1),
        neutral=lambda _: callbacks.BatchAugmentation(),
        settings={
            RUNS_SEED: lambda _: callbacks.BatchAugmentation(
                [data.RandomHorizontalFlip(), data.RandomErasing()]
            )
        },
        on_images=lambda _: callbacks.BatchAugmentation([data.RandomHorizontalFlip(), data.RandomErasing()]),
        boring=NO_LIST,
        wrong=(
            ({"transforms": [1]}, "transforms"),
            ({"images": 0.5}, "images"),
            ({"seed": "one"}, "seed"),
        ),
    ),
    "BatchNormRecalibration": Part(
        lambda _: callbacks.BatchNormRecalibration(batches=3),
        neutral=lambda _: callbacks.BatchNormRecalibration(stages=["test"]),
        network="batch_norm",
        ranks_differ="batch normalisation takes its statistics from the rows of one process",
        boring="has no batch normalisation",
        comes_last=True,
        evaluates=lambda _: callbacks.BatchNormRecalibration(2, stages=["fit", *EVALUATION]),
        wrong=(({"batches": 0}, "batches"), ({"stages": ["train"]}, "stages"), ({"images": None}, "images")),
    ),
    "BatchSizeGrowth": Part(
        lambda _: callbacks.BatchSizeGrowth([1], factor=2),
        neutral=lambda _: callbacks.BatchSizeGrowth(),
        refuses_manual="needs automatic optimization",
        alone="one of them only",
        wrong=(
            ({"milestones": [2, 1]}, "milestones"),
            ({"milestones": [0]}, "milestones"),
            ({"factor": 1}, "factor"),
            ({"max_growth": 0}, "max_growth"),
        ),
    ),
    "Curriculum": Part(
        lambda _: callbacks.Curriculum(),
        on_images=lambda _: callbacks.Curriculum(min_images=16),
        on_kinds=lambda _: callbacks.Curriculum(order="random", min_images=4),
        refuses="the training loader must be a BatchLoader, as from a data module",
        own_loader=True,
        alone="one of them only",
        wrong=(
            ({"scoring": "entropy"}, "scoring"),
            ({"scoring": "loss"}, "reference"),
            ({"scoring": "self_paced", "reference": "a.ckpt"}, "reference"),
            ({"scoring": "file"}, "scores"),
            ({"scores": "scores.pt"}, "scores"),
            ({"pacing": "cubic"}, "pacing"),
            ({"start": 0.0}, "start"),
            ({"start": float("nan")}, "start"),
            ({"full_at": 1.5}, "full_at"),
            ({"increase": 1.0}, "increase"),
            ({"min_images": 0}, "min_images"),
            ({"order": "easy"}, "order"),
            ({"balanced": 1}, "balanced"),
            ({"rescore_every": 0}, "rescore_every"),
            ({"seed": "one"}, "seed"),
        ),
    ),
    "Curves": Part(
        lambda _: callbacks.Curves(),
        acts=False,
        second=lambda _: callbacks.Curves("other.png"),
        wrong=(
            ({"filename": "curves.txt"}, "filename"),
            ({"filename": "../curves.png"}, "filename"),
            ({"filename": "/curves.png"}, "filename"),
            ({"filename": "..\\curves.png"}, "filename"),
        ),
    ),
    "CutMix": Part(
        lambda _: callbacks.CutMix(num_classes=3, seed=2),
        neutral=lambda _: callbacks.CutMix(alpha=0.0),
        settings={RUNS_SEED: lambda _: callbacks.CutMix(num_classes=3)},
        on_images=lambda _: callbacks.CutMix(p=0.8),
        boring=NO_LIST,
        second=lambda _: callbacks.CutMix(num_classes=3, p=0.5),
        wrong=(
            ({"alpha": float("nan")}, "alpha"),
            ({"p": 1.5}, "p"),
            ({"num_classes": 1}, "num_classes"),
            ({"labels": None}, "labels"),
        ),
    ),
    "EarlyStopping": Part(
        lambda _: callbacks.EarlyStopping(
            "val_loss", patience=2, mode="max", strict=False, restore_best=True, smoothing=0.5
        ),
        neutral=lambda _: callbacks.EarlyStopping("val_loss", patience=1000, strict=False),
        settings={
            criterion: lambda _, criterion=criterion: callbacks.EarlyStopping(
                "val_loss",
                criterion=criterion,
                alpha=1e-9,
                strip=1,
                successive=1,
                train_monitor="train_error",
                strict=False,
                restore_best=True,
            )
            for criterion in ("GL", "PQ", "UP")
        },
        idle=("GL", "PQ", "UP"),
        on_images=lambda _: callbacks.EarlyStopping(patience=2, restore_best=True, smoothing=0.5),
        second=lambda _: callbacks.EarlyStopping("val_loss", patience=3, strict=False),
        wrong=(
            ({"mode": "least"}, "mode"),
            ({"min_delta": float("nan")}, "min_delta"),
            ({"patience": -1}, "patience"),
            ({"patience": float("nan")}, "patience"),
            ({"criterion": "GP"}, "criterion"),
            ({"criterion": "GL", "mode": "max"}, "mode"),
            ({"criterion": "PQ"}, "train_monitor"),
            ({"alpha": 0.0}, "alpha"),
            ({"strip": 0}, "strip"),
            ({"successive": 1.5}, "successive"),
            ({"smoothing": 1.0}, "smoothing"),
        ),
    ),
    "ElasticNet": Part(
        lambda _: callbacks.ElasticNet(0.01, beta=2.0),
        neutral=lambda _: callbacks.ElasticNet(0.0),
        settings={"proximal": lambda _: callbacks.ElasticNet(0.1, proximal=True)},
        second=lambda _: callbacks.ElasticNet(0.02, beta=2.0),
        wrong=(
            *CHOICE,
            ({"lambd": -1.0}, "lambd"),
            ({"beta": float("nan")}, "beta"),
            ({"proximal": 1}, "proximal"),
        ),
    ),
    "ExactResume": Part(
        lambda _: callbacks.ExactResume(),
        acts=False,
        alone="leave out all but one",
        wrong=(({"save_on_sigterm": "yes"}, "save_on_sigterm"),),
    ),
    "FullBatch": Part(
        lambda _: callbacks.FullBatch(),
        refuses_manual="needs automatic optimization",
        whole_epochs=True,
        alone="one of them only",
        wrong=(({"noise_free": "yes"}, "noise_free"),),
    ),
    "GradientNoise": Part(
        lambda _: callbacks.GradientNoise(eta=0.01, seed=3),
        neutral=lambda _: callbacks.GradientNoise(eta=0.0),
        settings={RUNS_SEED: lambda _: callbacks.GradientNoise(eta=0.01)},
        on_images=lambda _: callbacks.GradientNoise(eta=0.01),
        second=lambda _: callbacks.GradientNoise(eta=0.02),
        wrong=(
            ({"eta": -1.0}, "eta"),
            ({"eta": float("nan")}, "eta"),
            ({"gamma": -0.5}, "gamma"),
            ({"seed": "one"}, "seed"),
        ),
    ),
    "Histograms": Part(
        lambda _: callbacks.Histograms(of="all", every_n_steps=2),
        acts=False,
        wrong=(({"of": "weights"}, "of"), ({"every_n_steps": 0}, "every_n_steps"), ({"bins": 0}, "bins")),
    ),
    "L1Penalty": Part(
        lambda _: callbacks.L1Penalty(0.1, proximal=True),
        neutral=lambda _: callbacks.L1Penalty(0.0),
        settings={"gradient": lambda _: callbacks.L1Penalty(0.1)},
        second=lambda _: callbacks.L1Penalty(0.2, types=["Linear"]),
        wrong=(*CHOICE, ({"lambd": float("nan")}, "lambd"), ({"proximal": "yes"}, "proximal")),
    ),
    "L2Penalty": Part(
        lambda _: callbacks.L2Penalty(0.01),
        neutral=lambda _: callbacks.L2Penalty(0.0),
        settings={"proximal": lambda _: callbacks.L2Penalty(0.5, proximal=True)},
        second=lambda _: callbacks.L2Penalty(0.02, types=["Linear"]),
        wrong=(*CHOICE, ({"lambd": float("inf")}, "lambd"), ({"proximal": None}, "proximal")),
    ),
    "LabelSmoothing": Part(
        lambda _: callbacks.LabelSmoothing(0.2, num_classes=3),
        neutral=lambda _: callbacks.LabelSmoothing(0.0),
        boring=NO_LIST,
        wrong=(({"epsilon": float("nan")}, "epsilon"), ({"num_classes": 0}, "num_classes")),
    ),
    "MaxNorm": Part(
        lambda _: callbacks.MaxNorm(0.5),
        neutral=lambda _: callbacks.MaxNorm(1e6),
        settings={f"{bound}": lambda _, bound=bound: callbacks.MaxNorm(bound) for bound in (0.1, 0.55)},
        second=lambda _: callbacks.MaxNorm(0.3, types=["Linear"]),
        wrong=(*CHOICE, ({"max_norm": 0.0}, "max_norm"), ({"max_norm": float("nan")}, "max_norm")),
    ),
    "MixUp": Part(
        lambda _: callbacks.MixUp(0.4, p=0.8, num_classes=3, seed=2),
        neutral=lambda _: callbacks.MixUp(p=0.0),
        settings={RUNS_SEED: lambda _: callbacks.MixUp(0.4, p=0.8, num_classes=3)},
        on_images=lambda _: callbacks.MixUp(p=0.8),
        boring=NO_LIST,
        second=lambda _: callbacks.MixUp(0.4, p=0.8, num_classes=3),
        wrong=(
            ({"alpha": -1.0}, "alpha"),
            ({"p": float("nan")}, "p"),
            ({"images": True}, "images"),
            ({"seed": 0.5}, "seed"),
        ),
    ),
    "NaNGuard": Part(
        lambda _: callbacks.NaNGuard("skip"),
        settings={"skips": lambda _: Poisoned("skip")},
        idle=("",),
        on_images=lambda _: Poisoned("skip"),
        alone="one of them only",
        wrong=(({"action": "ignore"}, "action"), ({"max_skips": 0}, "max_skips")),
    ),
    "NoiseFree": Part(
        lambda _: callbacks.NoiseFree(),
        neutral=lambda _: callbacks.NoiseFree(shuffling=False, augmentation=False, layers=False),
        network="dropout",
        wrong=tuple(({name: 1}, name) for name in ("shuffling", "augmentation", "layers")),
    ),
    "NoiseMarginalization": Part(
        lambda _: callbacks.NoiseMarginalization(3, stages=["validate"], average="outputs"),
        refuses="has no noise layers to average out",
        acts=False,
        network="dropout",
        ranks_differ="the layers whose noise it averages draw from each process's own generator",
        evaluates=lambda _: callbacks.NoiseMarginalization(3, stages=EVALUATION, average="outputs"),
        second=lambda _: callbacks.NoiseMarginalization(2, stages=["test"], average="outputs"),
        wrong=(
            ({"samples": 0}, "samples"),
            ({"layers": []}, "layers"),
            ({"stages": ["fit"]}, "stages"),
            ({"average": "median"}, "average"),
        ),
    ),
    "ResetOptimizer": Part(
        lambda _: callbacks.ResetOptimizer(), resumes=False, acts=False, alone="one of them only"
    ),
    "NoisyEnsemble": Part(
        lambda _: callbacks.NoisyEnsemble(
            0.3, blocks=["0", "BasicBlock"], samples=2, average="outputs", stages=["validate"], seed=5
        ),
        neutral=lambda _: callbacks.NoisyEnsemble(0.0, blocks=["0", "BasicBlock"]),
        settings={
            "batch": lambda _: callbacks.NoisyEnsemble(0.3, "batch", blocks=["0"], seed=5),
            "absolute": lambda _: callbacks.NoisyEnsemble(0.3, None, blocks=["0"], seed=5),
            RUNS_SEED: lambda _: callbacks.NoisyEnsemble(
                0.3, blocks=["0"], samples=2, stages=["validate"], average="outputs"
            ),
        },
        evaluates=lambda _: callbacks.NoisyEnsemble(
            0.3, blocks=["0"], samples=2, stages=EVALUATION, average="outputs"
        ),
        on_images=lambda _: callbacks.NoisyEnsemble(0.3, blocks=["Block"], samples=2, stages=["validate"]),
        ranks_differ="each process draws the noise of its own rows",
        boring="has no residual blocks",
        second=lambda _: callbacks.NoisyEnsemble(0.2, blocks=["1"]),
        wrong=(
            ({"noise": float("nan")}, "noise"),
            ({"relative_to": "pixel"}, "relative_to"),
            ({"blocks": "BasicBlock"}, "blocks"),
            ({"samples": 0}, "samples"),
            ({"stages": ["fit"]}, "stages"),
            ({"average": "median"}, "average"),
        ),
    ),
    "PredictionWriter": Part(
        lambda _: callbacks.PredictionWriter(),
        acts=False,
        second=lambda _: callbacks.PredictionWriter("other.csv"),
        wrong=(({"path": "predictions.txt"}, "path"), ({"path": "a/../../predictions.csv"}, "path")),
    ),
    "SnapshotEnsemble": Part(
        lambda _: callbacks.SnapshotEnsemble(cycles=2, average="outputs"),
        neutral=lambda _: callbacks.SnapshotEnsemble(cycles=2, schedule=False),
        settings={
            "validated": lambda _: callbacks.SnapshotEnsemble(
                cycles=3, members=2, stages=["validate"], average="outputs"
            )
        },
        evaluates=lambda _: callbacks.SnapshotEnsemble(cycles=2, stages=EVALUATION, average="outputs"),
        no_schedule=True,
        refuses_manual="needs automatic optimization",
        alone="one of them only",
        wrong=(
            ({"cycles": 0}, "cycles"),
            ({"members": 0}, "members"),
            ({"schedule": "cosine"}, "schedule"),
            ({"stages": []}, "stages"),
            ({"average": "median"}, "average"),
        ),
    ),
    "TestTimeAugmentation": Part(
        lambda _: callbacks.TestTimeAugmentation(data.Flips(), stages=["validate"], average="outputs"),
        evaluates=lambda _: callbacks.TestTimeAugmentation(
            data.Flips(), stages=EVALUATION, average="outputs"
        ),
        acts=False,
        second=lambda _: callbacks.TestTimeAugmentation(data.Flips(), stages=["test"]),
        wrong=(
            ({"views": "TenCrop"}, "views"),
            ({"stages": []}, "stages"),
            ({"average": "median"}, "average"),
        ),
    ),
    "Throughput": Part(lambda _: callbacks.Throughput(), acts=False, alone="one of them only"),
}


def checkpoint_every_step(folder: Path) -> ModelCheckpoint:
    """Keep a checkpoint of every step, named by it."""
    return ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
