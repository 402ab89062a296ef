"""The one table of callbacks that the contract tests go through. A new callback is tested by adding a row."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_optreg import callbacks, data
from lightning_optreg.attacks import FGSM
from tests.contracts.part import EVALUATION, RUNS_SEED, Part

__all__ = ["CALLBACKS", "STEPWISE"]

CHOICE: tuple[tuple[dict[str, object], str], ...] = (({"names": "net.*"}, "names"), ({"types": [1]}, "types"))
"""Wrong choices of parameters."""

ONE_ONLY = "only one of them"
FLIPS_AND_ERASING = [data.RandomHorizontalFlip(), data.RandomErasing()]


class Poisoned(callbacks.NaNGuard):
    """Leaves out two steps, in which it makes the last image of the last process not a number."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step in (4, 8) and trainer.global_rank == trainer.world_size - 1:
            batch[0][-1] = float("nan")
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)


PARTS = [
    Part(
        callbacks.AdamRestarts("val_loss", patience=1, min_delta=9.0),
        neutral=callbacks.AdamRestarts("val_loss", patience=1000),
        settings={
            "ends the run": callbacks.AdamRestarts("val_loss", patience=1, min_delta=9.0, max_restarts=0)
        },
        on_images=callbacks.AdamRestarts(patience=1, min_delta=0.3),
        needs={"no schedule"},
        alone=ONE_ONLY,
        wrong=(
            ({"mode": "least"}, "mode"),
            ({"patience": 0}, "patience"),
            ({"first_patience": 0}, "first_patience"),
            ({"factor": 0.0}, "factor"),
            ({"max_restarts": -1}, "max_restarts"),
            ({"min_delta": -1.0}, "min_delta"),
        ),
    ),
    Part(
        callbacks.AdamToSGD(at_step=5),
        neutral=callbacks.AdamToSGD(tolerance=1e-30),
        settings={
            "at once": callbacks.AdamToSGD(at_step=0, lr=0.01, nesterov=True),
            "by its criterion": callbacks.AdamToSGD(tolerance=10.0),
        },
        needs={"Adam"},
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
    Part(
        callbacks.AdversarialTraining(eps=0.1, steps=2, loss="mse", clip=False, seed=3),
        neutral=callbacks.AdversarialTraining(eps=0.0),
        settings={
            RUNS_SEED: callbacks.AdversarialTraining(eps=0.1, steps=2, loss="mse", clip=False),
            "l2, in evaluation mode": callbacks.AdversarialTraining(
                eps=0.5, steps=2, norm="l2", loss="mse", mode="eval", clip=False
            ),
            "free": callbacks.AdversarialTraining("free", eps=0.1, replays=3, loss="mse", clip=False),
        },
        on_images=callbacks.AdversarialTraining(eps=0.1, steps=3),
        on_kinds=callbacks.AdversarialTraining("fgsm", eps=0.1, clip=False),
        needs={"list batches", "numbers"},
        wrong=(
            ({"method": "madry"}, "method"),
            ({"eps": 1.5}, "eps"),
            ({"eps": -0.1}, "eps"),
            ({"steps": 0}, "steps"),
            ({"method": "fgsm", "steps": 2}, "steps"),
            ({"step_size": 0.0}, "step_size"),
            ({"norm": "l1"}, "norm"),
            ({"loss": "mae"}, "loss"),
            ({"method": "trades", "loss": "mse"}, "loss"),
            ({"beta": -1.0}, "beta"),
            ({"replays": 0}, "replays"),
            ({"mode": "test"}, "mode"),
            ({"mean": [0.5]}, "mean"),
            ({"mean": [0.5], "std": [0.0]}, "std"),
            ({"images": 0.5}, "images"),
            ({"seed": "one"}, "seed"),
        ),
    ),
    Part(
        callbacks.BatchAugmentation(FLIPS_AND_ERASING, seed=1),
        neutral=callbacks.BatchAugmentation(),
        settings={RUNS_SEED: callbacks.BatchAugmentation(FLIPS_AND_ERASING)},
        on_images=callbacks.BatchAugmentation(FLIPS_AND_ERASING),
        needs={"list batches"},
        wrong=(
            ({"transforms": [1]}, "transforms"),
            ({"images": 0.5}, "images"),
            ({"seed": "one"}, "seed"),
        ),
    ),
    Part(
        callbacks.BatchNormRecalibration(batches=3),
        neutral=callbacks.BatchNormRecalibration(stages=["test"]),
        network="batch_norm",
        ranks_differ="batch normalisation takes its statistics from the rows of one process",
        needs={"batch normalisation"},
        comes_last=True,
        evaluates=callbacks.BatchNormRecalibration(2, stages=["fit", *EVALUATION]),
        wrong=(({"batches": 0}, "batches"), ({"stages": ["train"]}, "stages"), ({"images": None}, "images")),
    ),
    Part(
        callbacks.BatchSizeGrowth([1], factor=2),
        neutral=callbacks.BatchSizeGrowth(),
        needs={"automatic optimization"},
        alone=ONE_ONLY,
        wrong=(
            ({"milestones": [2, 1]}, "milestones"),
            ({"milestones": [0]}, "milestones"),
            ({"factor": 1}, "factor"),
            ({"max_growth": 0}, "max_growth"),
        ),
    ),
    Part(
        callbacks.Curriculum(),
        on_images=callbacks.Curriculum(min_images=16),
        on_kinds=callbacks.Curriculum(order="random", min_images=4),
        excused={"step by step": "it needs one of this package's loaders"},
        needs={"own loader"},
        alone=ONE_ONLY,
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
    Part(
        callbacks.Curves(),
        idle={"": "it only watches"},
        second=callbacks.Curves("other.png"),
        wrong=(
            ({"filename": "curves.txt"}, "filename"),
            ({"filename": "../curves.png"}, "filename"),
            ({"filename": "/curves.png"}, "filename"),
            ({"filename": "..\\curves.png"}, "filename"),
        ),
    ),
    Part(
        callbacks.CutMix(num_classes=3, seed=2),
        neutral=callbacks.CutMix(alpha=0.0),
        settings={RUNS_SEED: callbacks.CutMix(num_classes=3)},
        on_images=callbacks.CutMix(p=0.8),
        needs={"list batches"},
        second=callbacks.CutMix(num_classes=3, p=0.5),
        wrong=(
            ({"alpha": float("nan")}, "alpha"),
            ({"p": 1.5}, "p"),
            ({"num_classes": 1}, "num_classes"),
            ({"labels": None}, "labels"),
        ),
    ),
    Part(
        callbacks.DifferentialPrivacy(1.0, accountant="rdp", seed=4),
        on_images=callbacks.DifferentialPrivacy(1.0, accountant="rdp"),
        excused={"step by step": "without noise and bound it is the same up to rounding only"},
        needs={"automatic optimization", "no batch normalisation"},
        alone=ONE_ONLY,
        wrong=(
            ({"noise_multiplier": -1.0}, "noise_multiplier"),
            ({"noise_multiplier": float("nan")}, "noise_multiplier"),
            ({"target_epsilon": 0.0}, "target_epsilon"),
            ({"delta": 1.0}, "delta"),
            ({"max_grad_norm": 0.0}, "max_grad_norm"),
            ({"max_grad_norm": float("inf")}, "max_grad_norm"),
            ({"max_grad_norm": [1.0, 1.0]}, "max_grad_norm"),
            ({"clipping": "layer"}, "clipping"),
            ({"accountant": "moments"}, "accountant"),
            ({"mode": "ghost"}, "mode"),
            ({"loss_reduction": "none"}, "loss_reduction"),
            ({"convert": 1}, "convert"),
            ({"seed": "one"}, "seed"),
        ),
    ),
    Part(
        callbacks.EarlyStopping(
            "val_loss", patience=2, mode="max", strict=False, restore_best=True, smoothing=0.5
        ),
        neutral=callbacks.EarlyStopping("val_loss", patience=1000, strict=False),
        settings={
            criterion: callbacks.EarlyStopping(
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
        idle=dict.fromkeys(("GL", "PQ", "UP"), "the loss falls in the second epoch, so nothing stops"),
        on_images=callbacks.EarlyStopping(patience=2, restore_best=True, smoothing=0.5),
        second=callbacks.EarlyStopping("val_loss", patience=3, strict=False),
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
    Part(
        callbacks.ElasticNet(0.01, beta=2.0),
        neutral=callbacks.ElasticNet(0.0),
        settings={"proximal": callbacks.ElasticNet(0.1, proximal=True)},
        second=callbacks.ElasticNet(0.02, beta=2.0),
        wrong=(
            *CHOICE,
            ({"lambd": -1.0}, "lambd"),
            ({"beta": float("nan")}, "beta"),
            ({"proximal": 1}, "proximal"),
        ),
    ),
    Part(
        callbacks.ExactResume(),
        idle={"": "it only watches"},
        alone=ONE_ONLY,
        wrong=(({"save_on_sigterm": "yes"}, "save_on_sigterm"),),
    ),
    Part(
        callbacks.FullBatch(),
        needs={"automatic optimization"},
        excused={"step by step": "it makes one step of an epoch, so no setting is neutral"},
        alone=ONE_ONLY,
        wrong=(({"noise_free": "yes"}, "noise_free"),),
    ),
    Part(
        callbacks.GradientNoise(eta=0.01, seed=3),
        neutral=callbacks.GradientNoise(eta=0.0),
        settings={RUNS_SEED: callbacks.GradientNoise(eta=0.01)},
        on_images=callbacks.GradientNoise(eta=0.01),
        second=callbacks.GradientNoise(eta=0.02),
        wrong=(
            ({"eta": -1.0}, "eta"),
            ({"eta": float("nan")}, "eta"),
            ({"gamma": -0.5}, "gamma"),
            ({"seed": "one"}, "seed"),
        ),
    ),
    Part(
        callbacks.Histograms(of="all", every_n_steps=2),
        excused={"waits for nothing": "every few steps it logs what it reads from the device"},
        idle={"": "it only watches"},
        wrong=(({"of": "weights"}, "of"), ({"every_n_steps": 0}, "every_n_steps"), ({"bins": 0}, "bins")),
    ),
    Part(
        callbacks.L1Penalty(0.1, proximal=True),
        neutral=callbacks.L1Penalty(0.0),
        settings={"gradient": callbacks.L1Penalty(0.1)},
        second=callbacks.L1Penalty(0.2, types=["Linear"]),
        wrong=(*CHOICE, ({"lambd": float("nan")}, "lambd"), ({"proximal": "yes"}, "proximal")),
    ),
    Part(
        callbacks.L2Penalty(0.01),
        neutral=callbacks.L2Penalty(0.0),
        settings={"proximal": callbacks.L2Penalty(0.5, proximal=True)},
        second=callbacks.L2Penalty(0.02, types=["Linear"]),
        wrong=(*CHOICE, ({"lambd": float("inf")}, "lambd"), ({"proximal": None}, "proximal")),
    ),
    Part(
        callbacks.LabelSmoothing(0.2, num_classes=3),
        neutral=callbacks.LabelSmoothing(0.0),
        needs={"list batches"},
        wrong=(({"epsilon": float("nan")}, "epsilon"), ({"num_classes": 0}, "num_classes")),
    ),
    Part(
        callbacks.MaxNorm(0.5),
        neutral=callbacks.MaxNorm(1e6),
        settings={f"{bound}": callbacks.MaxNorm(bound) for bound in (0.1, 0.55)},
        second=callbacks.MaxNorm(0.3, types=["Linear"]),
        wrong=(*CHOICE, ({"max_norm": 0.0}, "max_norm"), ({"max_norm": float("nan")}, "max_norm")),
    ),
    Part(
        callbacks.MixUp(0.4, p=0.8, num_classes=3, seed=2),
        neutral=callbacks.MixUp(p=0.0),
        settings={RUNS_SEED: callbacks.MixUp(0.4, p=0.8, num_classes=3)},
        on_images=callbacks.MixUp(p=0.8),
        needs={"list batches"},
        second=callbacks.MixUp(0.4, p=0.8, num_classes=3),
        wrong=(
            ({"alpha": -1.0}, "alpha"),
            ({"p": float("nan")}, "p"),
            ({"images": True}, "images"),
            ({"seed": 0.5}, "seed"),
        ),
    ),
    Part(
        callbacks.NaNGuard("skip"),
        settings={"skips": Poisoned("skip")},
        excused={"waits for nothing": "whether a step is made depends on its loss and gradients"},
        idle={"": "all gradients are finite"},
        on_images=Poisoned("skip"),
        alone=ONE_ONLY,
        wrong=(({"action": "ignore"}, "action"), ({"max_skips": 0}, "max_skips")),
    ),
    Part(
        callbacks.NoiseFree(),
        neutral=callbacks.NoiseFree(shuffling=False, augmentation=False, layers=False),
        network="dropout",
        wrong=tuple(({name: 1}, name) for name in ("shuffling", "augmentation", "layers")),
    ),
    Part(
        callbacks.NoiseMarginalization(3, stages=["validate"], average="outputs"),
        idle={"": "it acts in evaluation only"},
        needs={"noise layers"},
        network="dropout",
        ranks_differ="the layers whose noise it averages draw from each process's own generator",
        evaluates=callbacks.NoiseMarginalization(3, stages=EVALUATION, average="outputs"),
        second=callbacks.NoiseMarginalization(2, stages=["test"], average="outputs"),
        wrong=(
            ({"samples": 0}, "samples"),
            ({"layers": []}, "layers"),
            ({"stages": ["fit"]}, "stages"),
            ({"average": "median"}, "average"),
        ),
    ),
    Part(
        callbacks.ResetOptimizer(),
        idle={"": "it acts on a resume only"},
        excused={"resumes": "its purpose is to change what a resume restores"},
        alone=ONE_ONLY,
    ),
    Part(
        callbacks.NoisyEnsemble(
            0.3, blocks=["0", "BasicBlock"], samples=2, average="outputs", stages=["validate"], seed=5
        ),
        neutral=callbacks.NoisyEnsemble(0.0, blocks=["0", "BasicBlock"]),
        settings={
            "batch": callbacks.NoisyEnsemble(0.3, "batch", blocks=["0"], seed=5),
            "absolute": callbacks.NoisyEnsemble(0.3, None, blocks=["0"], seed=5),
            RUNS_SEED: callbacks.NoisyEnsemble(
                0.3, blocks=["0"], samples=2, stages=["validate"], average="outputs"
            ),
        },
        evaluates=callbacks.NoisyEnsemble(0.3, blocks=["0"], samples=2, stages=EVALUATION, average="outputs"),
        on_images=callbacks.NoisyEnsemble(0.3, blocks=["Block"], samples=2, stages=["validate"]),
        ranks_differ="each process draws the noise of its own rows",
        needs={"residual blocks"},
        second=callbacks.NoisyEnsemble(0.2, blocks=["1"]),
        wrong=(
            ({"noise": float("nan")}, "noise"),
            ({"relative_to": "pixel"}, "relative_to"),
            ({"blocks": "BasicBlock"}, "blocks"),
            ({"samples": 0}, "samples"),
            ({"stages": ["fit"]}, "stages"),
            ({"average": "median"}, "average"),
        ),
    ),
    Part(
        callbacks.PatchWhitening(bias_epochs=1),
        neutral=callbacks.PatchWhitening(count=0, bias_epochs=None),
        settings={"never frozen": callbacks.PatchWhitening(bias_epochs=None)},
        network="whitened",
        needs={"whitened layers"},
        alone=ONE_ONLY,
        wrong=(
            ({"count": -1}, "count"),
            ({"count": 0.5}, "count"),
            ({"bias_epochs": -1}, "bias_epochs"),
            ({"bias_epochs": 1.5}, "bias_epochs"),
            ({"images": None}, "images"),
        ),
    ),
    Part(
        callbacks.PredictionWriter(),
        idle={"": "it only watches"},
        second=callbacks.PredictionWriter("other.csv"),
        wrong=(({"path": "predictions.txt"}, "path"), ({"path": "a/../../predictions.csv"}, "path")),
    ),
    Part(
        callbacks.RobustnessEvaluation([FGSM(0.1)]),
        idle={"": "it only watches"},
        on_images=callbacks.RobustnessEvaluation([FGSM(0.1)], stages=["validate"]),
        on_kinds=callbacks.RobustnessEvaluation([FGSM(0.01)], mean=[0.5] * 3, std=[0.1] * 3),
        second=callbacks.RobustnessEvaluation([FGSM(0.1)], output="other", mean=[0.5] * 3, std=[0.1] * 3),
        wrong=(
            ({"attacks": []}, "attacks"),
            ({"attacks": [1]}, "attacks"),
            ({"max_images": 0}, "max_images"),
            ({"stages": ["predict"]}, "stages"),
            ({"every_n_epochs": 0}, "every_n_epochs"),
            ({"output": "../table"}, "output"),
            ({"mean": [0.5]}, "mean"),
            ({"images": 0.5}, "images"),
        ),
    ),
    Part(
        callbacks.SnapshotEnsemble(cycles=2, average="outputs"),
        neutral=callbacks.SnapshotEnsemble(cycles=2, schedule=False),
        excused={"waits for nothing": "at the end of a cycle it saves the weights"},
        settings={
            "validated": callbacks.SnapshotEnsemble(
                cycles=3, members=2, stages=["validate"], average="outputs"
            )
        },
        evaluates=callbacks.SnapshotEnsemble(cycles=2, stages=EVALUATION, average="outputs"),
        needs={"automatic optimization", "no schedule"},
        alone=ONE_ONLY,
        wrong=(
            ({"cycles": 0}, "cycles"),
            ({"members": 0}, "members"),
            ({"schedule": "cosine"}, "schedule"),
            ({"stages": []}, "stages"),
            ({"average": "median"}, "average"),
        ),
    ),
    Part(
        callbacks.TestTimeAugmentation(data.Flips(), stages=["validate"], average="outputs"),
        evaluates=callbacks.TestTimeAugmentation(data.Flips(), stages=EVALUATION, average="outputs"),
        idle={"": "it acts in evaluation only"},
        second=callbacks.TestTimeAugmentation(data.Flips(), stages=["test"]),
        wrong=(
            ({"views": "TenCrop"}, "views"),
            ({"stages": []}, "stages"),
            ({"average": "median"}, "average"),
        ),
    ),
    Part(callbacks.Throughput(), idle={"": "it only watches"}, alone=ONE_ONLY),
]

CALLBACKS = {part.name: part for part in PARTS}
"""All rows, by the name of their callback's class."""

STEPWISE = {name: part for name, part in CALLBACKS.items() if "step by step" not in part.excused}
"""Those that can be compared step by step with a run without them."""
