"""The one table of strategies that contract tests go through. A new strategy is tested by adding a row."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

import torch
from lightning.pytorch.strategies import Strategy

from lightning_optreg.strategies import (
    AsyncElasticAveraging,
    Downpour,
    ElasticAveraging,
    Hogwild,
    LocalSGD,
    PipelineParallel,
)

__all__ = ["STARTED", "STARTING", "STRATEGIES", "StrategyRow"]


@dataclass(frozen=True)
class StrategyRow:
    """A row: a strategy at its usual setting, and what it refuses.

    Attributes:
        make: Makes the strategy.
        refuses: Callbacks of the table of callbacks that do not work with it, by the names of their classes,
            each with a part of the sentence that says so before the first step.
        processes: How many processes the tests start for it, as torchrun would; 1 if it starts its own.
        devices: Of the trainer.
        draws: Whether layers that draw numbers draw those of a plain run's first process.
        equals_plain: Whether a run ends as one in a single process without a strategy, to the last bit.
        alone: If it starts its own processes: makes it so that one worker trains as without it.
        refuses_alone: Whether it refuses the same callbacks with one worker.
        own_weights: Whether such a worker's weights are not those that the module has at the end.
        on_ray: Whether Ray starts its processes.
    """

    make: Callable[[], Strategy]
    refuses: Mapping[str, str] = field(default_factory=dict)
    processes: int = 2
    devices: int = 2
    draws: bool = True
    equals_plain: bool = False
    alone: Callable[[], Strategy] | None = None
    refuses_alone: bool = True
    own_weights: bool = False
    on_ray: bool = False


# Not half an hour's wait for a process that waits for the others in vain.
WAIT = timedelta(seconds=120)

OWN_WEIGHTS = {
    "AdamRestarts": "weights of their own, so a restart from the best common ones would not reach them",
    "Curriculum": "weights of their own, so images have no common score",
    "DifferentialPrivacy": "weights of their own, so epsilon would not count what they learn by themselves",
    "FullBatch": "weights of their own, so the whole set has no one loss and gradient",
}

SPLIT = dict.fromkeys(
    (
        "AdamRestarts", "AdamToSGD", "AdversarialTraining", "BatchNormRecalibration", "Curriculum",
        "DifferentialPrivacy", "EarlyStopping", "ElasticNet", "FullBatch", "GradientNoise", "Histograms",
        "L1Penalty", "L2Penalty", "MaxNorm", "NaNGuard", "PatchWhitening", "SnapshotEnsemble",
    ),
    ": PipelineParallel splits the network, ",
)  # fmt: skip

SHARED = {
    "AdamRestarts": "and only worker 0 sees the monitored value; use ddp, or one process",
    "Curriculum": "so images have no common score; give a reference or a file of scores",
    "DifferentialPrivacy": "so no step has the noise of all; use ddp",
    "FullBatch": "so their gradients are not summed to that of the whole set; use ddp",
    "PatchWhitening": "so they have no common first batch; use a data module of lightning_optreg.data",
}

SERVED = {
    "AdamRestarts": "so a restart here would not reach them; use ddp",
    "AdamToSGD": "so it can't be replaced here; use SWATS",
    "Curriculum": "so images have no common score; give a reference or a file of scores",
    "DifferentialPrivacy": "with gradients of single workers, each without enough noise; use ddp",
    "FullBatch": "each with one worker's share of the images",
    "L1Penalty": "so weights that are shrunk here do not reach them; set proximal=False",
    "MaxNorm": "so what is projected here does not reach them; use weight decay",
    "PatchWhitening": "so a bias that is not trained here would still move; use ddp",
}

PULLED = {
    **OWN_WEIGHTS,
    "PatchWhitening": "weights of their own, so a bias that is not trained here would be pulled on; use ddp",
}

NESTEROV = partial(torch.optim.SGD, lr=0.7, momentum=0.9, nesterov=True)

STRATEGIES: dict[str, StrategyRow] = {
    "ElasticAveraging": StrategyRow(
        lambda: ElasticAveraging(period=2, process_group_backend="gloo", timeout=WAIT),
        refuses=OWN_WEIGHTS,
    ),
    "LocalSGD": StrategyRow(
        lambda: LocalSGD(period=3, process_group_backend="gloo", timeout=WAIT),
        refuses=OWN_WEIGHTS,
    ),
    "DiLoCo": StrategyRow(
        lambda: LocalSGD(period=2, outer_optimizer=NESTEROV, process_group_backend="gloo", timeout=WAIT),
        refuses=OWN_WEIGHTS,
    ),
    "PipelineParallel": StrategyRow(
        lambda: PipelineParallel(microbatches=1, timeout=WAIT),
        refuses=SPLIT,
        draws=False,
        equals_plain=True,
    ),
    "Hogwild": StrategyRow(
        lambda: Hogwild(timeout=300.0),
        refuses=SHARED,
        processes=1,
        alone=Hogwild,
        refuses_alone=False,
    ),
    "Downpour": StrategyRow(
        lambda: Downpour(timeout=300.0),
        refuses=SERVED,
        processes=1,
        alone=Downpour,
        on_ray=True,
    ),
    "AsyncElasticAveraging": StrategyRow(
        lambda: AsyncElasticAveraging(period=2, timeout=300.0),
        refuses=PULLED,
        processes=1,
        alone=lambda: AsyncElasticAveraging(period=2, beta=0.0),
        own_weights=True,
        on_ray=True,
    ),
}
"""All rows, by name."""

STARTED = [name for name, row in STRATEGIES.items() if row.processes > 1]
"""Those whose processes are started for them, and march together."""

STARTING = [name for name in STRATEGIES if name not in STARTED]
"""Those that start workers of their own, which do not wait for each other."""
