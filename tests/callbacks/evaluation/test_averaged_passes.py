"""Callbacks that average one network make the passes of their product, in any order, or are refused."""

from collections.abc import Callable
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_optreg.callbacks import (
    BatchNormRecalibration,
    NoiseMarginalization,
    NoisyEnsemble,
    SnapshotEnsemble,
    TestTimeAugmentation,
)
from lightning_optreg.callbacks.evaluation.snapshot_ensemble import snapshots
from lightning_optreg.data import Flips, RandomCrop, RandomHorizontalFlip, RandomViews, TenCrop
from lightning_optreg.layers.averages import average_outputs
from tests.resume_tools import assert_identical
from tests.small_runs import quiet_trainer


class BasicBlock(nn.Module):
    """A residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(x)


class Classifier(LightningModule):
    """Somebody's module: dropout, a residual block, and outputs (N, K), (N, 1) or (N,)."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16, 8),
            nn.BatchNorm1d(8),
            nn.Tanh(),
            nn.Dropout(0.5),
            BasicBlock(),
            nn.Linear(8, max(outputs, 1)),
        )
        if outputs == 0:
            self.net.append(nn.Flatten(0))
        self.calls = 0
        self.net[1].register_forward_hook(self.count)
        self.outputs: list[Tensor] = []

    def count(self, layer: nn.Module, args: Any, output: Tensor) -> None:
        self.calls += 1

    def train_dataloader(self) -> Any:
        x = torch.randn(12, 1, 4, 4, generator=torch.Generator().manual_seed(1))
        return DataLoader(TensorDataset(x, torch.arange(12) % 3), batch_size=6)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.outputs.append(self.net(batch[0]))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.outputs.append(self.net(batch[0]))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.net(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer_of(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    return quiet_trainer(callbacks=list(callbacks), default_root_dir=folder, max_epochs=3, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With three snapshots of the classifier, and of the regressions by their numbers of outputs."""
    root = tmp_path_factory.mktemp("runs")
    for outputs in (3, 1, 0):
        trainer_of(root / str(outputs), SnapshotEnsemble(3)).fit(Classifier(outputs))
    return root


Make = Callable[..., Any]
PASSES = {"snapshots": 3, "views": 2, "noise": 5, "blocks": 4}
EXACT = ("snapshots", "views", "noise")  # of which a reference can draw the same numbers
MAKE: dict[str, Make] = {
    "snapshots": lambda **o: SnapshotEnsemble(**o),
    "views": lambda **o: TestTimeAugmentation(Flips(), **o),
    "noise": lambda **o: NoiseMarginalization(5, seed=2, **o),
    "blocks": lambda **o: NoisyEnsemble(0.3, samples=4, seed=3, **o),
}


def outcome(folder: Path, *names: str, **options: Any) -> tuple[Classifier, dict[str, float]]:
    module = Classifier()
    trainer = trainer_of(folder / "3", *(MAKE[name](**options) for name in names))
    trainer.test(module, verbose=False)
    return module, {name: value.item() for name, value in trainer.callback_metrics.items()}


def reference(folder: Path, names: set[str], average: Any) -> list[Tensor]:
    """One pass after the other, by hand: views, then snapshots, then samples of dropout."""
    module = Classifier()
    networks = [module]
    if "snapshots" in names:
        networks = []
        for path in snapshots(folder / "3" / "snapshots"):
            networks.append(Classifier())
            networks[-1].load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    result = []
    batches = list(module.test_dataloader())
    torch.manual_seed(2)
    for x, _ in batches:
        state = torch.get_rng_state()
        passes = []
        for view in (x, x.flip(-1)) if "views" in names else (x,):
            for network in networks:
                network.eval()
                network.net[4].train("noise" in names)
                passes += [network.net(view) for _ in range(5 if "noise" in names else 1)]
        assert "noise" not in names or not torch.equal(state, torch.get_rng_state())
        result.append(average_outputs(torch.stack(passes), average))
    return result


@pytest.mark.parametrize("average", ["probabilities", "outputs"])
@pytest.mark.parametrize(
    "names",
    [*combinations(["snapshots", "views", "noise"], 2), ("snapshots", "views", "noise")],
    ids="-".join,
)
def test_the_mean_is_over_the_product(names: tuple[str, ...], average: Any, folder: Path) -> None:
    with torch.no_grad():
        expected = reference(folder, set(names), average)
    for order in permutations(names):
        module, _ = outcome(folder, *order, average=average)
        torch.testing.assert_close(module.outputs, expected)


@pytest.mark.parametrize("names", list(combinations(PASSES, 2)), ids="-".join)
def test_any_two_make_the_passes_of_both_in_either_order(names: tuple[str, str], folder: Path) -> None:
    first, logged = outcome(folder, *names)
    second, again = outcome(folder, *names[::-1])
    assert_identical(first.outputs, second.outputs)
    assert logged == again
    assert first.calls == second.calls == 2 * PASSES[names[0]] * PASSES[names[1]]


def test_each_logs_what_its_own_passes_do(folder: Path) -> None:
    """Two views of a network that does not mind them agree, however noisy it is."""
    module = Classifier()
    module.net.insert(0, nn.AdaptiveAvgPool2d((4, 1)))
    module.net.insert(1, nn.Upsample(scale_factor=(1, 4)))
    trainer = trainer_of(folder, TestTimeAugmentation(Flips()), NoiseMarginalization(200))
    trainer.test(module, verbose=False)
    logged = trainer.callback_metrics
    assert logged["optreg/test_time_augmentation/agreement"] > 0.9
    alone = trainer_of(folder, NoiseMarginalization(400))
    alone.test(module, verbose=False)
    name = "optreg/noise_marginalization/mutual_information"
    assert logged[name].item() == pytest.approx(alone.callback_metrics[name].item() / 2, rel=0.2)


def test_random_views_are_the_same_for_all_snapshots(folder: Path) -> None:
    views = RandomViews([RandomCrop(padding=2), RandomHorizontalFlip()], samples=3)
    module = Classifier()
    seen: list[Tensor] = []
    module.net.register_forward_pre_hook(lambda net, args: seen.append(args[0]))
    trainer_of(folder / "3", SnapshotEnsemble(), TestTimeAugmentation(views)).test(module, verbose=False)
    assert len(seen) == 2 * 3 * 3
    for view in range(6):
        assert torch.equal(seen[3 * view], seen[3 * view + 1])
        assert torch.equal(seen[3 * view], seen[3 * view + 2])
    assert not torch.equal(seen[0], seen[3])


def test_what_cannot_be_combined_is_refused_before_the_first_batch(folder: Path) -> None:
    def refused(match: str, *callbacks: Callback) -> None:
        for order in (callbacks, callbacks[::-1]):
            module = Classifier()
            with pytest.raises(MisconfigurationException, match=match) as error:
                trainer_of(folder / "3", *order).test(module, verbose=False)
            assert module.calls == 0
            assert "\n" not in str(error.value)

    refused(
        "average is '.*', but that of .* is '.*' for the same network",
        NoiseMarginalization(),
        TestTimeAugmentation(Flips(), average="outputs"),
    )
    refused("averages its part Linear|two of them", NoiseMarginalization(), TestTimeAugmentation(net="net.6"))
    refused("two of them average", TestTimeAugmentation(Flips()), TestTimeAugmentation(TenCrop(padding=1)))
    refused("two of them average", NoiseMarginalization(2), NoiseMarginalization(3))


def test_two_in_different_stages_or_of_different_networks(folder: Path) -> None:
    class Two(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(16, 3))

        def test_step(self, batch: Any, batch_idx: int) -> None:
            super().test_step(batch, batch_idx)
            self.other(batch[0])

    trainer = trainer_of(
        folder, NoiseMarginalization(2, net="net"), NoiseMarginalization(3, net="other", average="outputs")
    )
    trainer.test(Two(), verbose=False)
    assert "optreg/noise_marginalization/mutual_information" in trainer.callback_metrics
    assert "optreg/noise_marginalization-1/std" in trainer.callback_metrics
    module = Classifier()
    callbacks = [NoiseMarginalization(2, stages=["validate"]), NoiseMarginalization(3, stages=["test"])]
    trainer = trainer_of(folder, *callbacks)
    trainer.validate(module, verbose=False)
    trainer.test(module, verbose=False)
    assert module.calls == 2 * 2 + 2 * 3


@pytest.mark.parametrize("first", [True, False])
def test_an_average_of_weights_and_snapshots_leave_each_other_alone(first: bool, tmp_path: Path) -> None:
    """Validation with one of them swaps weights, and the other one's come back."""

    def trained(*callbacks: Callback) -> dict[str, Tensor]:
        module = Classifier()
        trainer_of(tmp_path / str(len(callbacks)), *callbacks).fit(module)
        return dict(module.state_dict())

    snapshot = SnapshotEnsemble(3, schedule=False, stages=["validate"])
    both = [EMAWeightAveraging(decay=0.5), snapshot]
    assert_identical(trained(EMAWeightAveraging(decay=0.5)), trained(*(both if first else both[::-1])))


@pytest.mark.parametrize("first", [True, False])
def test_recalibration_sees_the_network_as_it_is(first: bool, tmp_path: Path) -> None:
    def tested_with(*callbacks: Callback) -> list[Tensor]:
        module = Classifier()
        trainer_of(tmp_path, *callbacks).test(module, verbose=False)
        return [module.net[2].running_mean, module.net[2].running_var]

    both = [BatchNormRecalibration(stages=["test"]), NoiseMarginalization(3)]
    alone = tested_with(BatchNormRecalibration(stages=["test"]))
    assert_identical(alone, tested_with(*(both if first else both[::-1])))
    assert not torch.equal(alone[0], torch.zeros(8))


def test_other_hooks_and_arguments_belong_to_every_pass(folder: Path) -> None:
    class Shifted(nn.Sequential):
        def forward(self, x: Tensor, shift: float = 0.0) -> Tensor:
            scores: Tensor = super().forward(x)
            return scores + shift * torch.arange(3.0)

    class WithHooks(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.net = Shifted(*self.net)
            self.net.register_forward_pre_hook(lambda net, args: (2.0 * args[0],))
            self.net.register_forward_hook(lambda net, args, output: output.tanh())

        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.outputs.append(self.net(batch[0], shift=0.5))

    module = WithHooks()
    trainer_of(folder, TestTimeAugmentation(Flips(), average="outputs")).test(module, verbose=False)
    module.eval()
    for (x, _), output in zip(module.test_dataloader(), module.outputs, strict=True):
        mean = (module.net(x, shift=0.5) + module.net(x.flip(-1), shift=0.5)) / 2
        torch.testing.assert_close(output, mean)


@pytest.mark.parametrize("outputs", [0, 1], ids=["(N,)", "(N, 1)"])
@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize(
    "stage", ["test", *(pytest.param(stage, marks=pytest.mark.slow) for stage in ("validate", "predict"))]
)
def test_regression_is_averaged_or_refused(name: str, outputs: int, stage: Any, folder: Path) -> None:
    module = Classifier(outputs)
    root = folder / str(outputs)
    with pytest.raises(MisconfigurationException, match=r"K >= 2 classes, got .*; set average='outputs'"):
        getattr(trainer_of(root, MAKE[name](stages=[stage])), stage)(module)
    module.outputs.clear()
    module.calls = 0
    trainer = trainer_of(root, MAKE[name](stages=[stage], average="outputs"))
    given = getattr(trainer, stage)(module)
    means = torch.cat(given if stage == "predict" else module.outputs)
    assert means.shape == ((12,) if outputs == 0 else (12, 1))
    assert means.abs().min() > 0.0
    assert module.calls == 2 * PASSES[name]
    logged = [key for key in trainer.callback_metrics if key.startswith("optreg/")]
    assert stage == "predict" or [key.rpartition("/")[2] for key in logged] == ["std"]


def test_the_mean_over_snapshots_of_a_regression(folder: Path) -> None:
    module = Classifier(1)
    trainer_of(folder / "1", SnapshotEnsemble(members=2, average="outputs")).test(module, verbose=False)
    members = [Classifier(1).eval() for _ in range(2)]
    for member, path in zip(members, snapshots(folder / "1" / "snapshots")[1:], strict=True):
        member.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    for (x, _), output in zip(module.test_dataloader(), module.outputs, strict=True):
        torch.testing.assert_close(output, torch.stack([member.net(x) for member in members]).mean(0))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1), (2, 3, 4, 5)])
def test_probabilities_of_what_are_no_scores_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"average_outputs: outputs must be scores .*; set average='outputs'"
    ):
        average_outputs(torch.zeros(shape), "probabilities")
    assert average_outputs(torch.ones(shape), "outputs").shape == shape[1:]
