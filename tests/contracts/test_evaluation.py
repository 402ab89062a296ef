"""Whatever callbacks there are, evaluation leaves every generator where it would be without them."""

import random
from collections.abc import Iterable
from functools import cache
from itertools import combinations, permutations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_optreg.callbacks.evaluation.averaged_forward import AveragedForward
from lightning_optreg.randomness.kept_generators import Generators, same_states
from tests.contracts.part import Part
from tests.contracts.parts import CALLBACKS, STEPWISE
from tests.resume_tools import Regression, StatefulLoader
from tests.small_runs import ACCELERATOR, quiet_trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:AdamToSGD.* end before at_step"),  # runs of a few steps
    pytest.mark.filterwarnings("ignore:NaNGuard. .*skipped:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*has no effect in validate"),
]

KINDS = ("Python", "NumPy", "torch", "CUDA", "of a loader", "of a layer", "of a layer, NumPy")


class Draws(nn.Module):
    """Draws in every forward pass, in evaluation too, from generators of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.numpy = torch.Generator(), np.random.default_rng(0)

    def forward(self, x: Tensor) -> Tensor:
        drawn = random.random() + np.random.rand() + self.numpy.random()
        own = torch.rand((), generator=self.own).to(x.device)
        return x + 0.1 * (torch.rand_like(x) + own + drawn)


class Drawing(Regression):
    """A module whose network, steps and loader draw in evaluation."""

    def __init__(self, *, flat: bool = False, draws: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.net.insert(1, Draws() if draws else nn.Identity())
        if flat:
            self.net.append(nn.Flatten(0))
        self.order = torch.Generator()

    def evaluated(self, batch: Any) -> Tensor:
        outputs: Tensor = self.net(batch[0])
        return outputs.flatten() + 0.1 * torch.rand_like(outputs.flatten())

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step([batch[0], batch[1].view_as(self.net(batch[0]))], batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.mse_loss(self.evaluated(batch), batch[1].flatten()))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", nn.functional.mse_loss(self.evaluated(batch), batch[1].flatten()))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        outputs = self.evaluated(batch)
        return torch.stack([outputs, -outputs], 1)  # scores of two classes, for those that write them

    def train_dataloader(self) -> Any:
        loader = StatefulLoader(images=True)
        return DataLoader(TensorDataset(loader.x, loader.y), batch_size=4, shuffle=True, generator=self.order)

    def val_dataloader(self) -> Any:
        loader = StatefulLoader(2, images=True)
        return DataLoader(TensorDataset(loader.x, loader.y), batch_size=4)

    test_dataloader = predict_dataloader = val_dataloader


class Sets(Callback):
    """Puts all generators into the same states when an evaluation begins; to be the first."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        generators = Generators(pl_module.device, module=pl_module)
        generators.write(generators.seeded(3))

    on_test_start = on_predict_start = on_validation_start


class Reads(Callback):
    """Keeps the states at its end; to be the last."""

    def __init__(self) -> None:
        self.states: list[Any] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.states.append(Generators(pl_module.device, module=pl_module).read())

    on_test_end = on_predict_end = on_validation_end


def states(
    folder: Path,
    parts: Iterable[Part],
    accelerator: str = ACCELERATOR,
    *,
    draws: bool = True,
    flat: bool = False,
) -> list[Any]:
    """States after two validations of a fit, a validation, a test and a prediction."""
    parts = list(parts)
    seed_everything(1, verbose=False)
    needs = {need for part in parts for need in part.needs}
    module = Drawing(adam="Adam" in needs, whitened="whitened layers" in needs, draws=draws, flat=flat)
    reads = Reads()
    trainer = quiet_trainer(
        accelerator=accelerator,
        devices=1,
        logger=TensorBoardLogger(folder),
        callbacks=[Sets(), *(part.build_for_evaluation() for part in parts), reads],
        max_epochs=2,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    trainer.fit(module)
    fitted, reads.states = reads.states[-2:], []  # a callback may validate once more
    trainer.validate(module, verbose=False)
    trainer.test(module, verbose=False)
    trainer.predict(module)
    return fitted + reads.states


@cache
def without(accelerator: str, *, draws: bool) -> list[Any]:
    with TemporaryDirectory() as folder:
        return states(Path(folder), [], accelerator, draws=draws)


def untouched(
    folder: Path, names: Iterable[str], accelerator: str = ACCELERATOR, *, draws: bool = True
) -> None:
    got = states(folder, [CALLBACKS[name] for name in names], accelerator, draws=draws)
    stages = ("fit", "fit again", "validate", "test", "predict")
    kinds = KINDS if accelerator == "cuda" else tuple(kind for kind in KINDS if kind != "CUDA")
    for stage, mine, plain in zip(stages, got, without(accelerator, draws=draws), strict=True):
        moved = [k for k, a, b in zip(kinds, mine, plain, strict=False) if not same_states(a, b)]
        assert not moved, f"{stage}: {', '.join(moved)}"


# RobustnessEvaluation refuses to test a regression; its own tests hold it to the same.
HERE = {name: part for name, part in STEPWISE.items() if name != "RobustnessEvaluation"}
AVERAGING = [name for name, part in HERE.items() if isinstance(part.usual, AveragedForward)]
IN_EVALUATION = [name for name, part in HERE.items() if part.evaluates]


def test_the_modules_draw_from_every_generator() -> None:
    """A property of generators that nothing moves could not fail."""
    module = Drawing()
    generators = Generators(torch.device("cpu"), module=module)
    plain = without("cpu", draws=True)
    assert len(plain) == 5
    for states_after in plain:
        still = [same_states(a, b) for a, b in zip(states_after, generators.seeded(3), strict=True)]
        assert still == [False, False, False, True, False, False]  # the training loader is not gone through


def test_every_callback_that_averages_is_tested() -> None:
    assert set(AVERAGING) <= set(IN_EVALUATION)
    assert len(AVERAGING) == 4


@pytest.mark.parametrize("draws", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["draws", "still"])
@pytest.mark.parametrize("name", IN_EVALUATION)
def test_generators_stand_where_they_would(name: str, draws: bool, tmp_path: Path) -> None:
    untouched(tmp_path, [name], draws=draws)


def test_generators_stand_where_they_would_with_all_together(tmp_path: Path) -> None:
    untouched(tmp_path, IN_EVALUATION[::-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in HERE if name not in IN_EVALUATION])
def test_generators_stand_where_they_would_with_what_acts_in_training(name: str, tmp_path: Path) -> None:
    untouched(tmp_path, [name])


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), list(permutations(IN_EVALUATION, 2)))
def test_generators_stand_where_they_would_with_two(first: str, second: str, tmp_path: Path) -> None:
    untouched(tmp_path, [first, second])


# Refused beside NoiseFree
NOISE = ("AdversarialTraining", "BatchAugmentation", "CutMix", "GradientNoise", "MixUp", "NoisyEnsemble")
ANY_TWO = [
    pair
    for pair in combinations(HERE, 2)
    if not set(pair) <= set(IN_EVALUATION) and not ("NoiseFree" in pair and set(pair) & set(NOISE))
]


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:AdversarialTraining. the training step does not call"
)  # others change images
@pytest.mark.parametrize(("first", "second"), ANY_TWO)
def test_generators_stand_where_they_would_with_any_two(first: str, second: str, tmp_path: Path) -> None:
    untouched(tmp_path, sorted((first, second), key=lambda name: CALLBACKS[name].comes_last))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("names", [[name] for name in IN_EVALUATION] + [IN_EVALUATION], ids="-".join)
def test_generators_of_a_gpu_stand_where_they_would(names: list[str], tmp_path: Path) -> None:
    untouched(tmp_path, names, "cuda")


@pytest.mark.slow
@pytest.mark.parametrize("name", AVERAGING)
def test_regression_with_outputs_of_one_dimension(name: str, tmp_path: Path) -> None:
    assert len(states(tmp_path, [CALLBACKS[name]], flat=True)) == 5
