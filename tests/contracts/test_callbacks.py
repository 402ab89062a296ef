"""Every callback is neutral, resumable, at home in anyone's module, composable and configurable."""

import copy
import inspect
import pickle
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.demos.boring_classes import BoringModel, ManualOptimBoringModel
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

import lightning_optreg.callbacks
from lightning_optreg.callbacks import EarlyStopping, ExactResume, GradientNoise
from lightning_optreg.randomness.run_seed import RunSeed
from tests.contracts.parts import CALLBACKS, RUNS_SEED, Part, checkpoint_every_step
from tests.resume_tools import (
    Regression,
    StatefulLoader,
    assert_identical,
    callback_states,
    final_state,
    spoil_random_state,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:Encountered `nan` values in tensor"),
    pytest.mark.filterwarnings("ignore:AdamToSGD.* end before at_step"),  # runs of a few steps
    pytest.mark.filterwarnings("ignore:NaNGuard. .*skipped:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning"),
]

every_callback = pytest.mark.parametrize("name", CALLBACKS)
STEPWISE = {name: part for name, part in CALLBACKS.items() if not (part.whole_epochs or part.own_loader)}
# Without NoiseFree, which refuses to stand beside noise.
TOGETHER = [part for name, part in STEPWISE.items() if name != "NoiseFree"]
TOGETHER.sort(key=lambda part: part.comes_last)
every_stepwise_callback = pytest.mark.parametrize("name", STEPWISE)


def regression(*parts: Part | None, asks: bool = False) -> Regression:
    """A module in which these parts find what they need."""
    schedule = "none" if any(part and part.no_schedule for part in parts) else "cosine_step"
    return Regression(schedule, adam=any(part is not None and part.adam for part in parts), asks=asks)


def fit(
    folder: Path,
    callbacks: list[Callback],
    module: LightningModule | None = None,
    ckpt_path: Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    module = module or regression(*(CALLBACKS.get(type(callback).__name__) for callback in callbacks))
    loaders = (
        [StatefulLoader(images=True), StatefulLoader(2, images=True)]
        if isinstance(module, Regression)
        else []
    )
    trainer = Trainer(
        accelerator="cpu",
        logger=TensorBoardLogger(folder),
        callbacks=callbacks,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **{"max_epochs": 2, "enable_checkpointing": False, **options},
    )
    trainer.fit(module, *loaders, ckpt_path=ckpt_path)
    return {**final_state(trainer, module), "callbacks": callback_states(trainer)}


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
    without = fit(tmp_path / "without", [], regression(part))
    seed_everything(1, verbose=False)
    neutral = fit(tmp_path / "with", [(part.neutral or part.build)(tmp_path)])
    assert_trained_alike(without, neutral)


def assert_trained_alike(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Compare what runs with different callbacks ended with."""
    assert_identical({**a, "callbacks": {}}, {**b, "callbacks": {}})


SETTINGS = {
    f"{name}{': ' if of else ''}{of}": (name, build)
    for name, part in STEPWISE.items()
    if part.resumes
    for of, build in {"": part.build, **part.settings}.items()
}


@every_callback
def test_can_be_sent_to_a_spawned_process(name: str, tmp_path: Path) -> None:
    built = CALLBACKS[name].build(tmp_path)
    assert type(pickle.loads(pickle.dumps(built))) is type(built)


every_setting = pytest.mark.parametrize("setting", SETTINGS)


def resumes_exactly(setting: str, folder: Path, steps: Iterable[int], *, asks: bool = False) -> None:
    """Compare runs that go on from checkpoints with the one that wrote them, and is made anew for each."""
    name, build = SETTINGS[setting]
    first = [] if name == "ExactResume" else [ExactResume()]
    seed_everything(1, verbose=False)
    saver = checkpoint_every_step(folder / "all")
    module = partial(regression, CALLBACKS[name], asks=asks)
    straight = fit(folder, [*first, build(folder), saver], module(), enable_checkpointing=True)
    for step in steps:
        path = folder / "all" / f"step={step}.ckpt"
        if not path.exists():  # the run ended before, as some callbacks have it
            assert step > 6
            continue
        torch.load(path, weights_only=True)
        spoil_random_state()
        resumed = fit(folder, [*first, build(folder)], module(), ckpt_path=path)
        assert_identical(straight, resumed, f"step {step}")


asked = pytest.mark.parametrize("asks", [False, True], ids=["", "size asked for"])


@pytest.mark.parametrize(
    "asks", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["", "size asked for"]
)
@pytest.mark.parametrize("setting", [key for key, (name, _) in SETTINGS.items() if key == name])
def test_resumes_in_the_middle_and_at_the_end_of_an_epoch(setting: str, asks: bool, tmp_path: Path) -> None:
    resumes_exactly(setting, tmp_path, (4, 6), asks=asks)


@pytest.mark.slow
@asked
@every_setting
def test_resumes_at_every_step(setting: str, asks: bool, tmp_path: Path) -> None:
    resumes_exactly(setting, tmp_path, range(1, 13), asks=asks)


@pytest.mark.parametrize("name", [name for name, part in STEPWISE.items() if RUNS_SEED in part.settings])
def test_another_seed_that_is_given_is_taken_and_named(name: str, tmp_path: Path) -> None:
    build = CALLBACKS[name].settings[RUNS_SEED]
    seed_everything(1, verbose=False)
    fit(tmp_path, [build(tmp_path), checkpoint_every_step(tmp_path)], enable_checkpointing=True)
    given, path = build(tmp_path), tmp_path / "step=6.ckpt"
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


ACTING = [
    key
    for key, (name, _) in SETTINGS.items()
    if CALLBACKS[name].acts and key.removeprefix(name).removeprefix(": ") not in CALLBACKS[name].idle
]


@pytest.mark.parametrize("setting", ACTING)
def test_settings_act(setting: str, tmp_path: Path) -> None:
    """A part that does nothing resumes exactly, whatever is wrong with it."""
    name, build = SETTINGS[setting]
    seed_everything(1, verbose=False)
    without = fit(tmp_path / "without", [], regression(CALLBACKS[name]))
    seed_everything(1, verbose=False)
    acting = fit(tmp_path / "with", [build(tmp_path)])
    with pytest.raises(AssertionError, match="weights"):
        assert_trained_alike(without, acting)


def fit_or_refuse(name: str, folder: Path, module: LightningModule, **options: Any) -> None:
    """Fit, or see a module that the callback can't work on refused before the first step."""
    part = CALLBACKS[name]
    refuses = "must be like Adam" if part.adam and not isinstance(module, Torchvision) else part.refuses
    if part.no_schedule and isinstance(module, BoringModel) and not isinstance(module, TwoOptimizers):
        refuses = "has a learning-rate schedule"
    if part.boring is not None and isinstance(module, BoringModel):
        refuses = part.boring
    elif not module.automatic_optimization:
        refuses = part.refuses_manual or refuses
    if refuses is None:
        fit(folder, [part.build(folder)], module, **options)
        return
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(MisconfigurationException, match=f"^{name}: .*{refuses}"):
        fit(folder, [part.build(folder)], module, **options)
    assert_identical(dict(before), dict(module.state_dict()))


@every_callback
def test_boring_model(name: str, tmp_path: Path) -> None:
    fit_or_refuse(name, tmp_path, BoringModel(), max_steps=3, max_epochs=-1)


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


@every_callback
@pytest.mark.parametrize("module", [ManualOptimBoringModel, TwoOptimizers])
def test_manual_optimization(name: str, module: type[LightningModule], tmp_path: Path) -> None:
    fit_or_refuse(name, tmp_path, module(), limit_train_batches=3, limit_val_batches=0, max_epochs=1)


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
    without = fit(tmp_path / "without", [], regression(part), **options)
    seed_everything(1, verbose=False)
    neutral = fit(tmp_path / "with", [(part.neutral or part.build)(tmp_path)], **options)
    assert_trained_alike(without, neutral)


def test_all_together(tmp_path: Path) -> None:
    fit(tmp_path, [part.build(tmp_path) for part in TOGETHER])


class RanksAgree(Callback):
    """Compare the weights of all processes at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        weights = torch.cat([p.detach().flatten() for p in pl_module.parameters()])
        everyone = [torch.empty_like(weights) for _ in range(trainer.world_size)]
        torch.distributed.all_gather(everyone, weights)
        assert all(torch.equal(other, weights) for other in everyone)
        (self.folder / f"rank{trainer.global_rank}").touch()


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this build of torch has no gloo")
def test_two_processes(tmp_path: Path) -> None:
    """All callbacks at once: each alone would cost the start of two processes."""
    callbacks = [part.build(tmp_path) for part in TOGETHER if part.refuses is None]
    fit(
        tmp_path,
        [*callbacks, RanksAgree(tmp_path)],
        Torchvision(),
        strategy="ddp_fork",
        devices=2,
        max_epochs=2,
    )
    assert {path.name for path in tmp_path.glob("rank*")} == {"rank0", "rank1"}


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
