"""Any parts of the tables together in one run of three steps, and what comes of it."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from hypothesis import strategies as st
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.optim import lr_scheduler

from lightning_optreg import ImageClassifier, optimizers
from lightning_optreg.callbacks import ExactResume
from lightning_optreg.data import BatchTransform, ImageDataModule, ImageSet, Source
from lightning_optreg.layers import WhitenedConv2d
from lightning_optreg.nets import MLP, SoftmaxRegression
from lightning_optreg.schedulers import Warmup
from tests.contracts.layers import LAYERS, SHAPE
from tests.contracts.optimizers import RULES, make
from tests.contracts.parts import CALLBACKS
from tests.contracts.runs import checkpoint_every_step
from tests.data.test_transforms_contracts import ACTIVE
from tests.resume_tools import assert_identical, callback_states, final_state, spoil_random_state
from tests.schedulers.test_schedulers import OURS
from tests.small_runs import quiet_trainer

__all__ = ["Combination", "combinations", "run_combination"]

REFUSALS = (ValueError, TypeError, MisconfigurationException)
IMAGE = (3, *SHAPE[1:])
STEPS = 3


class Pictures(ImageDataModule):
    """40 colour images of three classes, 8 of them for validation."""

    class_names = ("a", "b", "c")
    image_shape = IMAGE

    def locate(self, *, download: bool) -> Source:
        draw = torch.Generator().manual_seed(0)
        labels = torch.arange(40) % 3
        pictures = torch.randint(0, 256, (3, *IMAGE), generator=draw)
        noise = torch.randint(0, 256, (40, *IMAGE), generator=draw)
        images = (0.6 * pictures[labels] + 0.4 * noise).to(torch.uint8)
        return Source("pictures", {"train": []}, lambda part: ImageSet(images, labels))


class Block(nn.Module):
    """A residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.linear(x))


class Small(nn.Module):
    """A layer of the table between others that some callbacks need."""

    def __init__(self, kind: str, layer: str) -> None:
        super().__init__()
        first = WhitenedConv2d(3) if kind == "whitened" else nn.Conv2d(3, SHAPE[0], 1)
        lead = nn.Conv2d(24, SHAPE[0], 1) if kind == "whitened" else nn.Identity()
        resized = nn.AdaptiveAvgPool2d(SHAPE[1:])
        middle = LAYERS[layer].build() if layer != "none" else nn.Identity()
        with torch.no_grad():
            inputs = middle(torch.zeros(2, *SHAPE)).flatten(1).shape[1]
        norm = nn.BatchNorm1d(8) if kind == "batch_norm" else nn.Identity()
        self.net = nn.Sequential(
            nn.Sequential(first, lead, resized),
            middle,
            nn.Flatten(),
            nn.Linear(inputs, 8),
            norm,
            nn.Dropout() if kind == "dropout" else nn.Identity(),
            Block(),
            nn.Linear(8, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.net(x)
        return scores


NETS: dict[str, Callable[[str], nn.Module]] = {
    **{kind: partial(Small, kind) for kind in ("plain", "dropout", "batch_norm", "whitened")},
    "MLP": lambda layer: MLP(num_classes=3, input_shape=IMAGE, hidden=[8]),
    "SoftmaxRegression": lambda layer: SoftmaxRegression(num_classes=3, input_shape=IMAGE),
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    **{name: partial(make, name) for name in RULES},
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
    "LBFGS": lambda p: torch.optim.LBFGS(p, max_iter=3),
    "BFGS": lambda p: optimizers.BFGS(p, iterations=2),
    "Newton": lambda p: optimizers.Newton(p, hessian="free"),
}
SCHEDULES: dict[str, Callable[[Any], Any] | None] = {
    "none": None,
    **{name: made for name, made in OURS.items() if "snapshot" not in name},
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 3),
    "one_cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=3, cycle_momentum=False),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "warmup_and_plateau": lambda o: Warmup(o, lr_scheduler.ReduceLROnPlateau, warmup=1),
    "step": lambda o: lr_scheduler.StepLR(o, 1, 0.5),
}
# ResetOptimizer's purpose is to change what a resume restores; ExactResume is always there.
CHOICES = [name for name in CALLBACKS if name not in ("ResetOptimizer", "ExactResume")]


@dataclass(frozen=True)
class Combination:
    """What is run together, by the names of the tables."""

    net: str
    layer: str
    optimizer: str
    schedule: str
    interval: Literal["epoch", "step"]
    transforms: tuple[str, ...]
    callbacks: tuple[str, ...]
    precision: Literal["32-true", "bf16-mixed", "bf16-true"]
    accumulate: int
    clip: float | None

    @property
    def parts(self) -> set[str]:
        """Names that a refusal may begin with or hold."""
        transforms = {type(ACTIVE[name]()).__name__ for name in self.transforms}
        layer = self.layer.partition("-")[0]
        given = {*self.callbacks, *transforms, layer, self.optimizer, self.net, "ImageClassifier", "Pipeline"}
        return given | {"Pictures", "lr_scheduler", "ExactResume", self.schedule.partition("_")[0]}


def combinations() -> st.SearchStrategy[Combination]:
    """All that can be put together."""
    return st.builds(
        Combination,
        net=st.sampled_from(sorted(NETS)),
        layer=st.sampled_from(["none", *LAYERS]),
        optimizer=st.sampled_from(sorted(OPTIMIZERS)),
        schedule=st.sampled_from(sorted(SCHEDULES)),
        interval=st.sampled_from(["epoch", "step"]),
        transforms=st.lists(st.sampled_from(sorted(ACTIVE)), max_size=2, unique=True).map(tuple),
        callbacks=st.lists(st.sampled_from(CHOICES), max_size=4, unique=True).map(tuple),
        precision=st.sampled_from(["32-true", "bf16-mixed", "bf16-true"]),
        accumulate=st.sampled_from([1, 2]),
        clip=st.sampled_from([None, 0.5]),
    )


class Steps(Callback):
    """Counts the steps that came to their end."""

    def __init__(self) -> None:
        self.done = 0

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self.done = trainer.global_step


def run_combination(it: Combination, folder: Path) -> str:
    """Train three steps, and go on from the second in new objects, which must end the same to the bit.

    Returns:
        The sentence that refused it before the first step; empty if it was not.
    """
    try:
        straight = _fit(it, folder)
    except _RefusedError as refused:
        text = str(refused)
        assert "\n" not in text, f"{it}: {text}"
        assert any(name in text for name in it.parts), f"{it}: which part is it? {text}"
        return text
    spoil_random_state()
    resumed = _fit(it, folder, folder / "step=2.ckpt")
    assert_identical(straight, resumed, f"{it}: ")
    return ""


class _RefusedError(Exception):
    """The combination was refused before its first step."""


def _fit(it: Combination, folder: Path, ckpt_path: Path | None = None) -> dict[str, Any]:
    seed_everything(1, verbose=False)
    steps = Steps()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on what is slow or unusual
            module = ImageClassifier(
                NETS[it.net](it.layer),
                optimizer=OPTIMIZERS[it.optimizer],
                lr_scheduler=SCHEDULES[it.schedule],
                lr_interval=it.interval,
                num_classes=3,
            )
            data = Pictures(
                batch_size=8,
                val_fraction=0.2,
                augment=_transforms(it),
                cache_dir=str(folder / "cache"),
            )
            parts = [CALLBACKS[name].build_for_images() for name in it.callbacks]
            trainer = quiet_trainer(
                max_steps=STEPS,
                max_epochs=4,
                logger=TensorBoardLogger(folder),
                callbacks=[ExactResume(), *parts, steps, checkpoint_every_step(folder)],
                enable_checkpointing=True,
                default_root_dir=folder,
                num_sanity_val_steps=0,
                precision=it.precision,
                accumulate_grad_batches=it.accumulate,
                gradient_clip_val=it.clip,
            )
            trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    except REFUSALS as error:
        if steps.done > 0 or ckpt_path is not None:
            raise
        raise _RefusedError(str(error)) from error
    return copy.deepcopy({**final_state(trainer, module), "callbacks": callback_states(trainer)})


def _transforms(it: Combination) -> list[BatchTransform]:
    return [ACTIVE[name]() for name in it.transforms]
