"""What a row of the table of callbacks says."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lightning.pytorch import Callback

__all__ = ["EVALUATION", "MISSING", "RUNS_SEED", "Contract", "Need", "Part"]

EVALUATION: tuple[Literal["validate", "test", "predict"], ...] = ("validate", "test", "predict")
"""All stages in which a network is evaluated."""

RUNS_SEED = "from the run's seed"
"""A setting at which a resumed run is given another seed by `seed_everything`."""

Need = Literal[
    "automatic optimization",
    "no schedule",
    "Adam",
    "list batches",
    "batch normalisation",
    "no batch normalisation",
    "residual blocks",
    "noise layers",
    "whitened layers",
    "own loader",
    "numbers",
]

MISSING: dict[Need, str] = {
    "automatic optimization": "needs automatic optimization",
    "no schedule": "has a learning-rate schedule",
    "Adam": "must be like Adam",
    "list batches": "a training batch must be a list or a dictionary",
    "batch normalisation": "has no batch normalisation",
    "no batch normalisation": "use the statistics of the batch",
    "residual blocks": "has no residual blocks",
    "noise layers": "has no noise layers to average out",
    "whitened layers": "has no WhitenedConv2d",
    "own loader": "the training loader must be a BatchLoader, as from a data module",
    "numbers": "labels must be numbers",
}
"""What callbacks may need of a module and its run, and what they say where it is missing."""

Contract = Literal["step by step", "resumes", "waits for nothing"]
"""What some callbacks are excused from.

`step by step`: at its neutral setting a run is the same as without it, and each step can be compared.
`resumes`: a run resumed from a checkpoint ends as one that never stopped.
`waits for nothing`: on a GPU no step waits for the device.
"""


@dataclass(frozen=True)
class Part:
    """A row: a callback at its usual setting, and what is not so for most callbacks.

    The callbacks in a row are patterns. `build` and the methods after it return copies, so that no run
    touches them.

    Attributes:
        usual: As a user would write it.
        neutral: At its trivial setting. None: the callback only watches, so `usual` is neutral too.
        settings: Further settings, by name, at which a resumed run has to end as one that never stopped.
        idle: Settings, "" for `usual`, at which the tables' network ends with the same weights as without
            the callback, each with the reason.
        excused: Contracts it need not keep, each with the reason. Tests of its own take their place.
        needs: What it refuses to run without.
        alone: What it says if there are two of it. None: two work together.
        second: Another one beside `usual`. None: two alike may stand side by side.
        comes_last: Whether it stands behind callbacks that change the weights at the end.
        on_images: For `tests.contracts.images`, one process or several. None: `usual`.
        on_kinds: For the tables of kinds of modules and modes of trainers. None: `usual`.
        evaluates: Where it has most to do in evaluation, of a network of one output. None: `usual`.
        network: Which network of `tests.contracts.images` it needs.
        ranks_differ: Why several processes end with other weights there than one does. None: they do not.
        wrong: Wrong arguments, each with a part of the message that must name them.
    """

    usual: Callback
    neutral: Callback | None = None
    settings: Mapping[str, Callback] = field(default_factory=dict)
    idle: Mapping[str, str] = field(default_factory=dict)
    excused: Mapping[Contract, str] = field(default_factory=dict)
    needs: frozenset[Need] | set[Need] = frozenset()
    alone: str | None = None
    second: Callback | None = None
    comes_last: bool = False
    on_images: Callback | None = None
    on_kinds: Callback | None = None
    evaluates: Callback | None = None
    network: Literal["plain", "dropout", "batch_norm", "whitened"] = "plain"
    ranks_differ: str | None = None
    wrong: tuple[tuple[dict[str, object], str], ...] = ()

    @property
    def name(self) -> str:
        """The name of its class."""
        return type(self.usual).__name__

    def build(self, setting: str = "") -> Callback:
        """A new callback at one of `settings`, or at the usual one."""
        return copy.deepcopy(self.settings[setting] if setting else self.usual)

    def build_neutral(self) -> Callback:
        """A new callback that changes nothing."""
        return copy.deepcopy(self.neutral or self.usual)

    def build_second(self) -> Callback:
        """A new callback that may stand beside that of `build_for_kinds`."""
        return copy.deepcopy(self.second or self.on_kinds or self.usual)

    def build_for_images(self) -> Callback:
        """A new callback for `tests.contracts.images`."""
        return copy.deepcopy(self.on_images or self.usual)

    def build_for_kinds(self) -> Callback:
        """A new callback for any kind of module and any mode of the trainer."""
        return copy.deepcopy(self.on_kinds or self.usual)

    def build_for_evaluation(self) -> Callback:
        """A new callback that acts in evaluation, if it can."""
        return copy.deepcopy(self.evaluates or self.usual)
