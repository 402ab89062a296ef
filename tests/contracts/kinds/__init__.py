"""The one table of kinds of LightningModule. A new kind is held to all callbacks by adding a row."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.contracts.kinds import loaders, networks, optimizers, steps
from tests.contracts.kinds.plain import NoSchedule, Plain, network

__all__ = ["KINDS", "Kind", "NoSchedule", "Plain", "network"]


@dataclass(frozen=True)
class Kind:
    """How a cell of the table builds a module.

    Attributes:
        build: Makes it.
        options: Of its trainer.
        monitor: What it logs in validation, or in training if it has none.
        stages: What a trainer does with it.
    """

    build: Callable[[], NoSchedule]
    options: dict[str, Any] = field(default_factory=dict)
    monitor: str = "val_loss"
    stages: tuple[str, ...] = ("fit", "validate", "test", "predict")


KINDS: dict[str, Kind] = {
    "plain": Kind(Plain),
    "no scheduler": Kind(NoSchedule),
    "schedule by steps": Kind(optimizers.StepSchedule),
    "plateau schedule": Kind(optimizers.Plateau),
    "manual optimization": Kind(optimizers.Manual),
    "two optimizers": Kind(optimizers.TwoOptimizers),
    "optimizers at two frequencies": Kind(optimizers.TwoFrequencies),
    "GAN": Kind(optimizers.Gan),
    "L-BFGS": Kind(optimizers.Closures),
    "manual L-BFGS": Kind(optimizers.ManualClosures),
    "no optimizer": Kind(optimizers.NoOptimizer),
    "groups with a tensor for a rate": Kind(optimizers.TwoGroups),
    "several validation loaders": Kind(loaders.SeveralValidations, monitor="val_loss/dataloader_idx_0"),
    "several prediction loaders": Kind(loaders.SeveralPredictions),
    "CombinedLoader": Kind(loaders.Combined),
    "list of training loaders": Kind(loaders.SeveralTrainings),
    "dictionary batches": Kind(loaders.Dictionaries),
    "tuple batches": Kind(loaders.Tuples),
    "string batches": Kind(loaders.Strings),
    "data without length": Kind(loaders.NoLength),
    "None at times": Kind(steps.NoneAtTimes),
    "None always": Kind(steps.NoneAlways),
    "dictionary outputs": Kind(steps.Outputs),
    "no batch_idx": Kind(steps.NoIndex),
    "dataloader_iter": Kind(steps.LoaderIterator),
    "breaks epochs off": Kind(steps.StopsEpochs),
    "no validation": Kind(steps.NoValidation, monitor="train_loss", stages=("fit", "test", "predict")),
    "no gradient clipping": Kind(steps.NoClipping, {"gradient_clip_val": 0.1}),
    "own gradient clipping": Kind(steps.OwnClipping),
    "own optimizer_step": Kind(steps.OwnStep),
    "optimizer_step that skips": Kind(steps.ClosureFirst),
    "own optimizer_zero_grad": Kind(steps.OwnZero),
    "frozen layers": Kind(networks.Frozen),
    "unfrozen later": Kind(networks.Unfrozen),
    "unfrozen later with a group": Kind(networks.UnfrozenLater),
    "configure_model": Kind(networks.MadeLater),
    "compiled": Kind(networks.Compiled),
    "shared parameters": Kind(networks.Shared),
    "scalar parameters": Kind(networks.Scalars),
    "unused parameters": Kind(networks.Unused),
    "no batch normalisation": Kind(networks.Flat),
    "sparse gradients": Kind(networks.Sparse),
    "regression (N, 1)": Kind(networks.Regresses),
    "regression (N,)": Kind(networks.Numbers),
}
