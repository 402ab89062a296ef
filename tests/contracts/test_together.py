"""Two callbacks of a class, and every pair of callbacks: they work together, or one refuses in a sentence."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from lightning_optreg import callbacks
from lightning_optreg.callbacks import ExactResume
from tests.contracts.cells import ignore_advice, run_cell
from tests.contracts.kinds import KINDS
from tests.contracts.part import RUNS_SEED
from tests.contracts.parts import CALLBACKS, STEPWISE
from tests.contracts.runs import checkpoint_every_step, fit, regression
from tests.resume_tools import assert_identical, spoil_random_state

pytestmark = ignore_advice


def two(name: str) -> list[Callback]:
    part = CALLBACKS[name]
    return [part.build_for_kinds(), part.build_second()]


# One that stands alone, some that log, one that writes: what the two have to keep apart.
NAMED = ["Curves", "EarlyStopping", "ExactResume", "GradientNoise", "MaxNorm", "NoisyEnsemble", "Throughput"]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in NAMED else pytest.mark.slow) for name in CALLBACKS]
)
def test_two_of_a_kind_have_names_of_their_own_or_are_refused(name: str, tmp_path: Path) -> None:
    outcome = run_cell(tmp_path, KINDS["no scheduler"], lambda: two(name))
    if (alone := CALLBACKS[name].alone) is not None:
        assert set(outcome.refusals) >= {"fit"}
        assert alone in outcome.refusals["fit"]
        return
    assert not outcome.refusals
    logged = {key for metrics in outcome.metrics.values() for key in metrics if key.startswith("optreg/")}
    for key in logged:
        part, quantity = key.removeprefix("optreg/").removesuffix("-1").split("/")
        if not part.endswith("-1"):
            assert f"optreg/{part}-1/{quantity}" in logged or CALLBACKS[name].second is not None, logged
    assert not logged or any("-1/" in key for key in logged), logged


RESUMED = [name for name, part in STEPWISE.items() if part.alone is None and "resumes" not in part.excused]
STATEFUL = ["EarlyStopping", "GradientNoise", "MaxNorm"]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in STATEFUL else pytest.mark.slow) for name in RESUMED],
)
def test_two_of_a_kind_resume_with_a_state_each(name: str, tmp_path: Path) -> None:
    part = CALLBACKS[name]

    def pair() -> list[Callback]:
        return [part.build(), part.build() if part.second is None else part.build_second()]

    module = regression(part)
    saver = checkpoint_every_step(tmp_path)
    seed_everything(1, verbose=False)
    straight = fit(tmp_path, [ExactResume(), *pair(), saver], module, enable_checkpointing=True)
    saved = torch.load(tmp_path / "step=4.ckpt", weights_only=True)["callbacks"]
    states = [key for key in saved if key.startswith(name)]
    assert len(states) == len([key for key in straight["callbacks"] if key in states])
    spoil_random_state()
    resumed = fit(
        tmp_path,
        [ExactResume(), *pair()],
        regression(part),
        ckpt_path=tmp_path / "step=4.ckpt",
    )
    assert_identical(straight, resumed)


def test_states_of_two_of_a_kind_do_not_mix(tmp_path: Path) -> None:
    def build() -> list[Callback]:
        return [callbacks.MaxNorm(0.5), callbacks.MaxNorm(0.3, types=["Linear"])]

    fit(tmp_path, [*build(), checkpoint_every_step(tmp_path)], enable_checkpointing=True)
    saved = torch.load(tmp_path / "step=4.ckpt", weights_only=True)["callbacks"]
    assert (saved["MaxNorm"]["max_norm"], saved["MaxNorm-1"]["max_norm"]) == (0.5, 0.3)
    resumed = build()
    fit(tmp_path, resumed, ckpt_path=tmp_path / "step=4.ckpt")
    assert [each.state_key for each in resumed] == ["MaxNorm", "MaxNorm-1"]


def test_two_penalties_are_logged_one_by_one(tmp_path: Path) -> None:
    outcome = run_cell(
        tmp_path,
        KINDS["no batch normalisation"],
        lambda: [callbacks.L1Penalty(0.1), callbacks.L1Penalty(0.3)],
        stages=["fit"],
    )
    first, second = (outcome.metrics["fit"][f"optreg/l1_penalty{n}/penalty"] for n in ("", "-1"))
    weights = outcome.weights["layer.weight"].abs().sum()
    assert (first, second) == pytest.approx((0.1 * float(weights), 0.3 * float(weights)))


def test_two_early_stoppings_log_their_own_bests(tmp_path: Path) -> None:
    def build() -> list[Callback]:
        return [
            callbacks.EarlyStopping("val_loss", mode="min"),
            callbacks.EarlyStopping("train_loss", mode="max"),
        ]

    outcome = run_cell(tmp_path, KINDS["no scheduler"], build, stages=["fit"])
    assert outcome.trainer is not None
    bests = [
        float(each.best_score)
        for each in outcome.trainer.callbacks  # type: ignore[attr-defined]  # a connector sets it
        if isinstance(each, callbacks.EarlyStopping)
    ]
    logged = [outcome.metrics["fit"][f"optreg/early_stopping{n}/best"] for n in ("", "-1")]
    assert logged == pytest.approx(bests)
    assert bests[0] != bests[1]


@pytest.mark.parametrize("kind", ["two optimizers", "GAN"])
def test_each_optimizer_has_its_own_switch(kind: str, tmp_path: Path) -> None:
    made: list[callbacks.AdamToSGD] = []

    def build() -> list[Callback]:
        made[:] = [callbacks.AdamToSGD(at_step=4 + 2 * i, optimizer_index=i, lr=0.01 + i) for i in (0, 1)]
        return list(made)

    outcome = run_cell(tmp_path, KINDS[kind], build)
    assert not outcome.refusals
    assert outcome.trainer is not None
    assert [type(optimizer) for optimizer in outcome.trainer.optimizers] == [torch.optim.SGD] * 2
    assert [each.switched for each in made] == [True, True]
    assert [each.param_groups[0]["lr"] for each in outcome.trainer.optimizers] == [0.01, 1.01]
    assert {"optreg/adam_to_sgd/lr", "optreg/adam_to_sgd-1/lr"} <= set(outcome.metrics["fit"])


@pytest.mark.parametrize("name", ["GradientNoise", "MixUp", "CutMix", "BatchAugmentation", "NoisyEnsemble"])
def test_two_of_a_kind_draw_other_numbers(name: str, tmp_path: Path) -> None:
    built: list[Any] = [CALLBACKS[name].build(RUNS_SEED) for _ in range(2)]
    if name == "NoisyEnsemble":
        built[1].blocks, built[1].stages = ("4",), ("test",)
    outcome = run_cell(tmp_path, KINDS["no scheduler"], lambda: built, stages=["fit"])
    assert not outcome.refusals
    assert built[0].seed_of_draws == built[0].run_seed.value == built[1].run_seed.value
    assert built[0].seed_of_draws != built[1].seed_of_draws


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (
            lambda: [callbacks.Curves(), callbacks.Curves()],
            "Curves: two of them would draw .*; use a different filename for each",
        ),
        (
            lambda: [callbacks.PredictionWriter(), callbacks.PredictionWriter()],
            "two of them would write .*; use a different path for each",
        ),
        (
            lambda: [callbacks.EarlyStopping("val_loss", mode=m, restore_best=True) for m in ("min", "max")],
            "EarlyStopping: two .* restore_best=True in only one",
        ),
        (
            lambda: [callbacks.BatchSizeGrowth([1]), GradientAccumulationScheduler({1: 2})],
            "BatchSizeGrowth: GradientAccumulationScheduler",
        ),
    ],
)
def test_two_that_cannot_be_told_apart_are_refused(build: Any, says: str, tmp_path: Path) -> None:
    outcome = run_cell(tmp_path, KINDS["no scheduler"], build, stages=["fit"])
    assert re.search(says, outcome.refusals["fit"])


PAIRS = list(itertools.permutations(CALLBACKS, 2))
SOME = [
    ("SnapshotEnsemble", "AdamToSGD"),
    ("AdamToSGD", "AdamRestarts"),
    ("FullBatch", "NaNGuard"),
    ("MixUp", "CutMix"),
    ("MaxNorm", "EarlyStopping"),
    ("Curriculum", "BatchSizeGrowth"),
    ("BatchNormRecalibration", "EarlyStopping"),
    ("GradientNoise", "NaNGuard"),
    ("NoisyEnsemble", "NoiseFree"),
]


@pytest.mark.parametrize(
    ("first", "second"),
    [pytest.param(*pair, marks=[] if pair in SOME else pytest.mark.slow) for pair in PAIRS],
)
def test_a_pair(first: str, second: str, tmp_path: Path) -> None:
    parts = [CALLBACKS[name] for name in (first, second)]
    run_cell(tmp_path, KINDS["no scheduler"], lambda: [part.build_for_kinds() for part in parts])
