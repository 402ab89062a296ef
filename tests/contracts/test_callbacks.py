"""Every callback is neutral, resumable, at home in anyone's module, composable and configurable."""

import copy
import inspect
import pickle
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, seed_everything
from lightning.pytorch.demos.boring_classes import BoringModel, ManualOptimBoringModel
from torch import nn

import lightning_optreg.callbacks
from lightning_optreg.callbacks import EarlyStopping, ExactResume, GradientNoise
from lightning_optreg.randomness.run_seed import RunSeed
from tests.contracts.part import MISSING, RUNS_SEED, Need
from tests.contracts.parts import CALLBACKS, STEPWISE
from tests.contracts.runs import checkpoint_every_step, fit, regression, without
from tests.processes import WriteAtEnd, needs_fork, needs_gloo, written
from tests.resume_tools import assert_identical, spoil_random_state

pytestmark = [
    pytest.mark.filterwarnings("ignore:Encountered `nan` values in tensor"),
    pytest.mark.filterwarnings("ignore:AdamToSGD.* end before at_step"),  # runs of a few steps
    pytest.mark.filterwarnings("ignore:NaNGuard. .*skipped:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:DifferentialPrivacy. epsilon is computed for Poisson"),
]

every_callback = pytest.mark.parametrize("name", CALLBACKS)
# Without NoiseFree, which refuses to stand beside noise.
TOGETHER = [part for name, part in STEPWISE.items() if name != "NoiseFree"]
TOGETHER.sort(key=lambda part: part.comes_last)
every_stepwise_callback = pytest.mark.parametrize("name", STEPWISE)


def test_every_public_callback_has_a_row() -> None:
    assert set(lightning_optreg.callbacks.__all__) == set(CALLBACKS)


@every_callback
def test_documented(name: str) -> None:
    cls = getattr(lightning_optreg.callbacks, name)
    text = inspect.getdoc(cls) or ""
    assert "Example" in text
    parameters = [p for p in inspect.signature(cls).parameters if p != "self"]
    for parameter in parameters:
        assert f"    {parameter}: " in text, f"{name} does not say what {parameter} is"


@every_stepwise_callback
def test_neutral(name: str, tmp_path: Path) -> None:
    part = CALLBACKS[name]
    seed_everything(1, verbose=False)
    neutral = fit(tmp_path, [part.build_neutral()])
    assert_trained_alike(without(part), neutral)


def assert_trained_alike(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Compare what runs with different callbacks ended with."""
    assert_identical({**a, "callbacks": {}}, {**b, "callbacks": {}})


SETTINGS = {
    f"{name}{': ' if of else ''}{of}": (part, of)
    for name, part in STEPWISE.items()
    if "resumes" not in part.excused
    for of in ("", *part.settings)
}


@every_callback
def test_can_be_sent_to_a_spawned_process(name: str) -> None:
    built = CALLBACKS[name].build()
    assert type(pickle.loads(pickle.dumps(built))) is type(built)


every_setting = pytest.mark.parametrize("setting", SETTINGS)


def resumes_exactly(setting: str, folder: Path, steps: range, *, asks: bool = False) -> None:
    """Compare runs that go on from checkpoints with the one that wrote them, and is made anew for each."""
    part, of = SETTINGS[setting]
    first = [] if part.name == "ExactResume" else [ExactResume()]
    seed_everything(1, verbose=False)
    saver = checkpoint_every_step(folder / "all", steps.step)
    module = partial(regression, part, asks=asks)
    straight = fit(folder, [*first, part.build(of), saver], module(), enable_checkpointing=True)
    for step in steps:
        path = folder / "all" / f"step={step}.ckpt"
        if not path.exists():  # the run ended before, as some callbacks have it
            assert step > 6
            continue
        torch.load(path, weights_only=True)
        spoil_random_state()
        resumed = fit(folder, [*first, part.build(of)], module(), ckpt_path=path)
        assert_identical(straight, resumed, f"step {step}")


asked = pytest.mark.parametrize("asks", [False, True], ids=["", "size asked for"])


@pytest.mark.parametrize(
    "asks", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["", "size asked for"]
)
@pytest.mark.parametrize("setting", [key for key, (_, of) in SETTINGS.items() if not of])
def test_resumes_in_the_middle_of_an_epoch(setting: str, asks: bool, tmp_path: Path) -> None:
    resumes_exactly(setting, tmp_path, range(4, 5, 4), asks=asks)


@pytest.mark.parametrize("setting", ["AdamRestarts", "EarlyStopping", "SnapshotEnsemble"])
def test_resumes_at_the_end_of_an_epoch(setting: str, tmp_path: Path) -> None:
    """Those that act there; slow tests resume with all callbacks at every step."""
    resumes_exactly(setting, tmp_path, range(6, 7, 6))


@pytest.mark.slow
@asked
@every_setting
def test_resumes_at_every_step(setting: str, asks: bool, tmp_path: Path) -> None:
    resumes_exactly(setting, tmp_path, range(1, 13), asks=asks)


@pytest.mark.parametrize("name", [name for name, part in STEPWISE.items() if RUNS_SEED in part.settings])
def test_another_seed_that_is_given_is_taken_and_named(name: str, tmp_path: Path) -> None:
    part = CALLBACKS[name]
    seed_everything(1, verbose=False)
    fit(tmp_path, [part.build(RUNS_SEED), checkpoint_every_step(tmp_path)], enable_checkpointing=True)
    given, path = part.build(RUNS_SEED), tmp_path / "step=6.ckpt"
    given.run_seed = RunSeed(7)  # type: ignore[attr-defined]  # as its constructor's `seed` does
    with pytest.warns(UserWarning, match=f"{name}: it draws from seed 7, as given; .* drew from 1"):
        fit(tmp_path, [given], ckpt_path=path)
    assert torch.load(path, weights_only=True)["lightning_optreg_seeds"] == {f"{name}-0": 1}


def test_two_of_a_kind_go_on_with_a_seed_each(tmp_path: Path) -> None:
    def build() -> list[Callback]:
        return [ExactResume(), GradientNoise(0.01), GradientNoise(0.01, seed=2)]

    seed_everything(1, verbose=False)
    straight = fit(tmp_path, [*build(), checkpoint_every_step(tmp_path)], enable_checkpointing=True)
    spoil_random_state()
    assert_identical(straight, fit(tmp_path, build(), ckpt_path=tmp_path / "step=4.ckpt"))


def test_a_new_fit_takes_the_seed_of_the_day(tmp_path: Path) -> None:
    """A callback that went on with a checkpoint's seed does not carry it on to another run."""
    callback = GradientNoise(0.01)
    seed_everything(1, verbose=False)
    fit(tmp_path, [callback, checkpoint_every_step(tmp_path)], enable_checkpointing=True)
    seed_everything(5, verbose=False)
    fit(tmp_path, [callback], ckpt_path=tmp_path / "step=6.ckpt")
    assert callback.run_seed.value == 1
    fit(tmp_path, [callback])
    assert callback.run_seed.value == 5


@pytest.mark.parametrize("setting", [key for key, (part, of) in SETTINGS.items() if of not in part.idle])
def test_settings_act(setting: str, tmp_path: Path) -> None:
    """A part that does nothing resumes exactly, whatever is wrong with it."""
    part, of = SETTINGS[setting]
    seed_everything(1, verbose=False)
    acting = fit(tmp_path, [part.build(of)])
    with pytest.raises(AssertionError, match="weights"):
        assert_trained_alike(without(part), acting)


class TwoOptimizers(BoringModel):
    """Manual optimization with two optimizers, as a GAN has them."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.other = nn.Linear(2, 2)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.other(self.layer(batch)).square().mean())
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.01) for part in (self.layer, self.other)]


class Torchvision(LightningModule):
    """Somebody else's network under a module of their own."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import resnet18

        self.net = resnet18(num_classes=3)

    def train_dataloader(self) -> Any:
        generator = torch.Generator().manual_seed(0)
        x, y = torch.randn(8, 3, 32, 32, generator=generator), torch.randint(3, (8,), generator=generator)
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters())


HAS_BORING = ("automatic optimization", "no batch normalisation")
BORING: tuple[Need, ...] = tuple(need for need in get_args(Need) if need not in HAS_BORING)
LACKS: dict[type[LightningModule], tuple[Need, ...]] = {
    BoringModel: BORING,
    ManualOptimBoringModel: ("automatic optimization", *BORING),
    TwoOptimizers: ("automatic optimization", *(need for need in BORING if need != "no schedule")),
    Torchvision: (
        "no batch normalisation",
        "noise layers",
        "whitened layers",
        "own loader",
        "numbers",
    ),
}
"""What callbacks may miss in these modules and their runs, what they say first before the rest."""


def fit_or_refuse(name: str, folder: Path, module: LightningModule, **options: Any) -> None:
    """Fit, or see a module that the callback can't work on refused before the first step."""
    part = CALLBACKS[name]
    missing = [need for need in LACKS[type(module)] if need in part.needs]
    if not missing:
        fit(folder, [part.build()], module, **options)
        return
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(MisconfigurationException, match=f"^{name}: .*{MISSING[missing[0]]}"):
        fit(folder, [part.build()], module, **options)
    assert_identical(dict(before), dict(module.state_dict()))


@every_callback
def test_boring_model(name: str, tmp_path: Path) -> None:
    fit_or_refuse(name, tmp_path, BoringModel(), max_steps=3, max_epochs=-1)


@every_callback
@pytest.mark.parametrize(
    "module", [TwoOptimizers, pytest.param(ManualOptimBoringModel, marks=pytest.mark.slow)]
)
def test_manual_optimization(name: str, module: type[LightningModule], tmp_path: Path) -> None:
    fit_or_refuse(name, tmp_path, module(), limit_train_batches=3, limit_val_batches=0, max_epochs=1)


@pytest.mark.slow
@every_callback
def test_torchvision_network(name: str, tmp_path: Path) -> None:
    fit_or_refuse(name, tmp_path, Torchvision(), max_epochs=1)


@pytest.mark.slow
@every_stepwise_callback
@pytest.mark.parametrize(
    "options",
    [
        {"accumulate_grad_batches": 4},
        {"gradient_clip_val": 0.1},
        {"precision": "bf16-mixed"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_composes_with(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    part = CALLBACKS[name]
    seed_everything(1, verbose=False)
    neutral = fit(tmp_path, [part.build_neutral()], **options)
    assert_trained_alike(without(part, **options), neutral)


@pytest.mark.filterwarnings(
    "ignore:AdversarialTraining. the training step does not call"
)  # others change images
def test_all_together(tmp_path: Path) -> None:
    fit(tmp_path, [part.build() for part in TOGETHER])


@needs_fork
@needs_gloo
def test_two_processes(tmp_path: Path) -> None:
    """All callbacks at once: each alone would cost the start of two processes."""
    callbacks = [part.build() for part in TOGETHER if part.needs.isdisjoint(LACKS[Torchvision])]
    fit(
        tmp_path,
        [*callbacks, WriteAtEnd(tmp_path)],
        Torchvision(),
        accelerator="cpu",
        strategy="ddp_fork",
        devices=2,
        max_epochs=2,
    )
    first, second = written(tmp_path)
    assert_identical(first["weights"], second["weights"])


@every_callback
def test_built_from_yaml_by_its_short_name(name: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    # as in the command line, which prefers this package's class of the two with that name
    parser.add_argument("--callback", type=EarlyStopping | Callback)
    built = parser.instantiate(parser.parse_args([f"--callback={name}"])).callback
    assert type(built) is getattr(lightning_optreg.callbacks, name)


WRONG = [(name, arguments, text) for name, part in CALLBACKS.items() for arguments, text in part.wrong]


@pytest.mark.parametrize(("name", "arguments", "text"), WRONG)
def test_wrong_values_are_refused_at_construction(name: str, arguments: dict[str, Any], text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"{name}: {text} must be") as error:
        getattr(lightning_optreg.callbacks, name)(**arguments)
    assert "\n" not in str(error.value)
