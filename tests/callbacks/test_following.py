"""Parts follow the module: layers set free, groups added and layers made in mid-run; no optimizer at all."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning, ModelCheckpoint
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import MultiStepLR

from lightning_optreg.callbacks import (
    AdamRestarts,
    AdamToSGD,
    BatchAugmentation,
    BatchNormRecalibration,
    BatchSizeGrowth,
    Curves,
    CutMix,
    EarlyStopping,
    ElasticNet,
    ExactResume,
    FullBatch,
    GradientNoise,
    L1Penalty,
    L2Penalty,
    LabelSmoothing,
    MaxNorm,
    MixUp,
    NaNGuard,
    NoiseFree,
    NoiseMarginalization,
    NoisyEnsemble,
    ResetOptimizer,
    SnapshotEnsemble,
    TestTimeAugmentation,
)
from lightning_optreg.callbacks.evaluation.snapshot_ensemble import cosine_factor, cycle_ends
from lightning_optreg.callbacks.weights._chosen_parameters import ChosenParameters
from lightning_optreg.data import Flips, RandomHorizontalFlip
from lightning_optreg.optimizers import BFGS, Newton
from lightning_optreg.schedulers import InverseTimeDecay
from lightning_optreg.trainer.noise_left import noise_left
from tests.resume_tools import StatefulLoader, assert_identical, final_state
from tests.small_runs import quiet_trainer

pytestmark = [
    # said of layers that are in evaluation mode on purpose
    pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned `None`"),
    pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter` step flavor"),
    pytest.mark.filterwarnings("ignore:Found `dataloader_iter` argument"),
]


class Net(LightningModule):
    """A backbone and a head, trained by what `make` gives."""

    def __init__(self, make: Callable[[list[Tensor]], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.make = make
        self.backbone = nn.Sequential(nn.Linear(5, 8, bias=False), nn.Tanh())
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(8, 1, bias=False))
        self.seen: list[list[float]] = []

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.backbone(x))
        return output

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.mse_loss(self(batch[0]), batch[1]))
        self.log("worse", float(self.current_epoch))

    def on_before_zero_grad(self, optimizer: Optimizer) -> None:
        self.seen.append([float(group["lr"]) for group in optimizer.param_groups])

    def configure_optimizers(self) -> Any:
        return self.make([parameter for parameter in self.parameters() if parameter.requires_grad])


def sgd(parameters: list[Tensor]) -> Any:
    return torch.optim.SGD(parameters, lr=0.1)


def unfreezes(epoch: int = 1) -> BackboneFinetuning:
    return BackboneFinetuning(epoch, lambda _: 1.5, backbone_initial_lr=0.3, should_align=False)


class Frozen(Net):
    """The backbone is frozen at first, within the optimizer's only group."""

    def on_train_start(self) -> None:
        self.backbone.requires_grad_(False)

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            self.backbone.requires_grad_(True)


class Grows(Net):
    """Gets another layer in its second epoch."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return self.extra(y) if hasattr(self, "extra") else y

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            self.extra = nn.Linear(1, 1, bias=False)
            nn.init.constant_(self.extra.weight, 1.0)
            self.trainer.optimizers[0].add_param_group({"params": [self.extra.weight], "lr": 0.05})


def fit(
    folder: Path, module: LightningModule, *callbacks: Callback, ckpt_path: Path | None = None, **options: Any
) -> Trainer:
    trainer = quiet_trainer(
        callbacks=list(callbacks), default_root_dir=folder, **{"max_epochs": 3, **options}
    )
    trainer.fit(module, StatefulLoader(), StatefulLoader(2), ckpt_path=ckpt_path)
    return trainer


class Norms(Callback):
    """Looks at the units' norms after each step."""

    def __init__(self) -> None:
        self.largest: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.largest.append(
            {name: float(weight.detach().norm(dim=1).max()) for name, weight in pl_module.named_parameters()}
        )


@pytest.mark.parametrize("kind", ["finetuning", "same group", "another layer"])
@pytest.mark.parametrize("names", [(), ("backbone.*", "extra.*")])
def test_the_bound_holds_for_what_is_set_free_or_made(
    kind: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    module = {"finetuning": Net, "same group": Frozen, "another layer": Grows}[kind](sgd)
    free = [unfreezes()] if kind == "finetuning" else []
    nn.init.constant_(module.backbone[0].weight, 2.0)
    norms = Norms()
    before = module.backbone[0].weight.detach().clone()
    trainer = fit(tmp_path, module, *free, MaxNorm(0.2, names=names), norms)
    for step, largest in enumerate(norms.largest):
        if kind == "finetuning" and step < 6:
            assert largest["backbone.0.weight"] == float(before.norm(dim=1).max())  # frozen: left alone
        if step >= 6:
            assert largest["backbone.0.weight"] <= 0.2 * (1 + 1e-6)
        if names == ():
            assert largest["head.1.weight"] <= 0.2 * (1 + 1e-6)
        if kind == "another layer" and step >= 6:
            assert largest["extra.weight"] <= 0.2 * (1 + 1e-6)
    assert float(trainer.callback_metrics["optreg/max_norm/largest"]) <= 0.2 * (1 + 1e-6)


def test_a_choice_follows_the_module() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).requires_grad_(False)
    chosen = ChosenParameters("MaxNorm", net, names=["*weight"])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    assert chosen.now() == chosen.of(optimizer) == []
    net[1].requires_grad_(True)
    assert [each.name for each in chosen.now()] == ["1.weight"]
    net.append(nn.Linear(2, 2))
    foreign = nn.Parameter(torch.zeros(2, 2))
    optimizer.add_param_group({"params": [*net[2].parameters(), foreign]})
    assert [each.name for each in chosen.of(optimizer)] == ["1.weight", "2.weight"]
    assert len(chosen.of(torch.optim.SGD(net[2].parameters(), lr=0.1))) == 1
    nn.utils.prune.identity(net[2], "weight")
    net.append(nn.Linear(2, 2))
    optimizer.add_param_group({"params": net[3].parameters()})
    assert [each.name for each in chosen.of(optimizer)] == ["1.weight", "2.weight", "3.weight"]
    with pytest.raises(MisconfigurationException, match=r"names=.* choose none of the parameters"):
        ChosenParameters("MaxNorm", net, names=["5.*"])


@pytest.mark.parametrize("kind", ["finetuning", "same group", "another layer"])
def test_penalties_are_the_optimizers_decay_of_what_is_trained(kind: str, tmp_path: Path) -> None:
    cls = {"finetuning": Net, "same group": Frozen, "another layer": Grows}[kind]
    decayed, penalised = (
        cls(lambda parameters, decay=decay: torch.optim.SGD(parameters, lr=0.1, weight_decay=decay))
        for decay in (0.1, 0.0)
    )
    for module, parts in ((decayed, []), (penalised, [L2Penalty(0.05)])):
        seed_everything(1, verbose=False)
        fit(tmp_path, module, *([unfreezes()] if kind == "finetuning" else []), *parts)
    for name, weight in decayed.named_parameters():
        torch.testing.assert_close(dict(penalised.named_parameters())[name], weight, msg=name)


@pytest.mark.parametrize("part", [L1Penalty(0.5, proximal=True), ElasticNet(0.5, proximal=True)])
def test_proximal_maps_follow_too(part: Callback, tmp_path: Path) -> None:
    for module, free in ((Net(sgd), [unfreezes()]), (Frozen(sgd), []), (Grows(sgd), [])):
        fit(tmp_path, module, *free, part, max_epochs=2)
        for name, weight in module.named_parameters():
            assert float((weight == 0.0).float().mean()) > 0.3 or name == "extra.weight", name


def adam(schedule: Callable[[Optimizer], Any]) -> Callable[[list[Tensor]], Any]:
    def make(parameters: list[Tensor]) -> Any:
        optimizer = torch.optim.Adam(parameters, lr=0.01)
        return [optimizer], [{"scheduler": schedule(optimizer), "interval": "step"}]

    return make


SCHEDULES: dict[str, Callable[[Optimizer], Any]] = {
    "torch's": lambda optimizer: MultiStepLR(optimizer, [3, 9, 15], gamma=0.5),
    "ours": lambda optimizer: InverseTimeDecay(optimizer, t0=5.0),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("at_step", [4, 10, None])
def test_adam_to_sgd_takes_groups_that_come_before_or_after(
    schedule: str, at_step: int | None, tmp_path: Path
) -> None:
    module = Net(adam(SCHEDULES[schedule]))
    switch = AdamToSGD(at_step=at_step, tolerance=1e-12)  # None: it measures each step to the end
    trainer = fit(tmp_path, module, unfreezes(), switch)
    assert switch.switched is (at_step is not None)
    assert len(trainer.optimizers[0].param_groups) == 2
    assert isinstance(trainer.optimizers[0], torch.optim.SGD if at_step else torch.optim.Adam)
    # Within an epoch nobody but the schedule changes the rate of the backbone; it does as the head's does.
    changes = [
        [after / before for before, after in zip(*two, strict=True)]
        for two in itertools.pairwise(module.seen[12:])
    ]
    assert len(changes) == 5
    assert any(head < 0.99 for head, _ in changes)
    for head, backbone in changes:
        assert backbone == pytest.approx(head)


@pytest.mark.parametrize(
    ("at_step", "first"),
    [
        (4, False),
        (10, True),
        pytest.param(4, True, marks=pytest.mark.slow),
        pytest.param(10, False, marks=pytest.mark.slow),
    ],
)
def test_a_switch_with_added_groups_resumes_exactly(first: bool, at_step: int, tmp_path: Path) -> None:
    def parts() -> list[Callback]:
        both = [unfreezes(), AdamToSGD(at_step=at_step)]
        return [ExactResume(), *(both if first else reversed(both))]

    seed_everything(1, verbose=False)
    straight = Net(adam(SCHEDULES["ours"]))
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = fit(tmp_path, straight, *parts(), saver, enable_checkpointing=True)
    wanted = final_state(trainer, straight)
    for step in (3, 5, 8, 11, 14):
        resumed = Net(adam(SCHEDULES["ours"]))
        trainer = fit(tmp_path, resumed, *parts(), ckpt_path=tmp_path / f"step={step}.ckpt")
        assert_identical(wanted, final_state(trainer, resumed), f"step {step}")


class AddsGroup(BaseFinetuning):
    """Trains the backbone, too, from an epoch on, with a given rate."""

    def __init__(self, epoch: int, rate: float) -> None:
        super().__init__()
        self.epoch, self.rate = epoch, rate

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        self.freeze(pl_module.backbone)  # type: ignore[arg-type]  # modules are attributes

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: Optimizer) -> None:
        if epoch == self.epoch:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer, lr=self.rate)  # type: ignore[arg-type]


@pytest.mark.parametrize(("rate", "full"), [(0.01, 0.01 / cosine_factor(5, [9, 18])), (0.0999, 0.1)])
def test_snapshot_ensemble_drives_added_groups(rate: float, full: float, tmp_path: Path) -> None:
    module = Net(sgd)
    fit(tmp_path, module, AddsGroup(1, rate), SnapshotEnsemble(cycles=2))
    factors = [cosine_factor(step, cycle_ends(18, 2)) for step in range(18)]
    assert module.seen[:6] == [pytest.approx([0.1 * factor]) for factor in factors[:6]]
    assert module.seen[6:] == [pytest.approx([0.1 * factor, full * factor]) for factor in factors[6:]]


def test_best_weights_of_before_a_layer_came(tmp_path: Path) -> None:
    for part in (
        EarlyStopping("worse", restore_best=True, patience=99),
        AdamRestarts("worse", patience=2, max_restarts=0),
    ):
        module = Grows(sgd)
        with pytest.warns(UserWarning, match=r"not restored: \['extra.weight'\]"):
            fit(tmp_path, module, part)
        assert module.extra.weight.item() != 1.0


@pytest.mark.parametrize("optimizer", [BFGS, Newton])
def test_one_vector_takes_no_second_group(optimizer: Any) -> None:
    first, second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    vector = optimizer([first])
    vector.add_param_group({"params": [second]})
    with pytest.raises(ValueError, match="takes one parameter group, got 2"):
        vector.step(lambda: first.square().sum())


class FrozenDropout(Frozen):
    """Has dropout in the backbone too, in evaluation mode at first."""

    def __init__(self) -> None:
        super().__init__(sgd)
        self.backbone.append(nn.Dropout(0.5))
        self.left: list[list[str]] = []

    def on_train_start(self) -> None:
        self.backbone.eval()

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            self.backbone.train()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.left.append([noise for noise in noise_left(self.trainer, self) if "Dropout" in noise])
        return super().training_step(batch, batch_idx)


def test_noise_that_comes_later_is_turned_off_too(tmp_path: Path) -> None:
    module = FrozenDropout()
    fit(tmp_path, module, NoiseFree())
    assert module.left == [[]] * 18
    assert all(layer.training for layer in module.modules())


class Breaks(Grows):
    """Its new layer makes a loss that is not a number, and has batch normalisation."""

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if self.current_epoch == 1:
            self.norm = nn.BatchNorm1d(1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        if self.current_epoch == 2 and batch_idx == 1:
            loss = loss + self.norm(torch.full((4, 1), float("inf"))).sum()
        elif self.current_epoch == 2:
            loss = loss + self.norm(batch[0][:, :1]).sum()
        return loss


def test_nan_guard_looks_into_new_layers(tmp_path: Path) -> None:
    module = Breaks(sgd)
    with pytest.warns(RuntimeWarning, match=r"it began in (what is computed before )?norm \(BatchNorm1d\)"):
        fit(tmp_path, module, NaNGuard("skip"))
    assert module.norm.running_mean is not None
    assert module.norm.running_mean.isfinite().all()


def test_parts_say_of_a_module_without_an_optimizer_that_they_need_one(tmp_path: Path) -> None:
    for part in (AdamRestarts("val_loss"), AdamToSGD(), AdamToSGD(at_step=2)):
        module = Net(lambda parameters: None)
        with pytest.raises(
            MisconfigurationException, match=f"^{type(part).__name__}: the module must have an optimizer"
        ):
            fit(tmp_path, module, part)
        assert module.trainer.global_step == 0


def test_parts_that_need_no_optimizer_do_without(tmp_path: Path) -> None:
    curves, saver = Curves(), ModelCheckpoint(tmp_path, "last")
    fit(tmp_path, Net(lambda parameters: None), curves, saver, enable_checkpointing=True)
    assert [point.keys() - {"val_loss", "worse"} for point in curves.history] == [{"epoch"}] * 3
    fit(
        tmp_path,
        Net(lambda parameters: None),
        ResetOptimizer(),
        ckpt_path=tmp_path / "last.ckpt",
        max_epochs=4,
    )


class Iterates(Net):
    """Its training step takes the iterator."""

    def training_step(self, dataloader_iter: Any) -> Tensor:
        batch, batch_idx, _ = next(dataloader_iter)
        return super().training_step(batch, batch_idx)


TAKE_NO_BATCH: list[Callable[[Path], Callback]] = [
    lambda _: AdamRestarts("val_loss"),
    lambda _: AdamToSGD(at_step=3),
    lambda _: AdamToSGD(),
    lambda _: BatchSizeGrowth([1], factor=2),
    lambda _: EarlyStopping("val_loss", restore_best=True),
    lambda _: ElasticNet(0.01),
    lambda _: GradientNoise(),
    lambda _: L1Penalty(0.01, proximal=True),
    lambda _: MaxNorm(0.5),
    lambda _: NaNGuard("skip"),
    lambda _: NoisyEnsemble(0.1, blocks=["backbone"]),
    lambda folder: SnapshotEnsemble(cycles=2, folder=str(folder / "snapshots")),
]


@pytest.mark.parametrize("index", range(len(TAKE_NO_BATCH)))
def test_a_step_may_take_the_iterator(index: int, tmp_path: Path) -> None:
    part = TAKE_NO_BATCH[index](tmp_path)
    trainer = fit(tmp_path, Iterates(lambda p: torch.optim.Adam(p, lr=0.01)), part, max_epochs=2)
    assert trainer.global_step == (9 if isinstance(part, BatchSizeGrowth) else 12)
    if not isinstance(part, NoisyEnsemble | AdamToSGD):
        assert any(name.startswith("optreg/") for name in trainer.callback_metrics)


@pytest.mark.parametrize(
    "part", [MixUp(), CutMix(), LabelSmoothing(), BatchAugmentation([RandomHorizontalFlip()]), FullBatch()]
)
def test_what_needs_the_batch_refuses_the_iterator(part: Callback, tmp_path: Path) -> None:
    module = Iterates(sgd)
    with pytest.raises(
        MisconfigurationException,
        match=rf"^{type(part).__name__}: .* must take a batch, not dataloader_iter$",
    ):
        fit(tmp_path, module, part)
    assert module.trainer.global_step == 0


class MadeLater(LightningModule):
    """Has no layers until Lightning asks for them."""

    def make(self) -> None:
        self.net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))

    def train_dataloader(self) -> Any:
        return StatefulLoader()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]))

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.net(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class MadeInConfigureModel(MadeLater):
    def configure_model(self) -> None:
        if not hasattr(self, "net"):
            self.make()


class MadeInSetup(MadeLater):
    def setup(self, stage: str) -> None:
        if not hasattr(self, "net"):
            self.make()


LOOKING: dict[str, tuple[Callable[[Path], Callback], str]] = {
    "BatchNormRecalibration": (
        lambda _: BatchNormRecalibration(stages=["fit", "test"]),
        "has no batch normalisation",
    ),
    "NoiseMarginalization": (
        lambda _: NoiseMarginalization(2, stages=["validate", "test", "predict"], average="outputs"),
        "has no noise layers",
    ),
    "NoisyEnsemble": (
        lambda _: NoisyEnsemble(0.1, blocks=["0"], average="outputs"),
        "has no residual blocks",
    ),
    "SnapshotEnsemble": (
        lambda folder: SnapshotEnsemble(2, folder=str(folder / "snapshots"), average="outputs", net="net"),
        "net='net' is not a module",
    ),
    "TestTimeAugmentation": (
        lambda _: TestTimeAugmentation(Flips(), average="outputs", net="net"),
        "net='net' is not a module",
    ),
}


@pytest.mark.parametrize("name", LOOKING)
@pytest.mark.parametrize("cls", [MadeInConfigureModel, MadeInSetup])
def test_layers_may_be_made_later(name: str, cls: type[MadeLater], tmp_path: Path) -> None:
    part, module = LOOKING[name][0](tmp_path), cls()
    images = isinstance(part, TestTimeAugmentation)  # the others do not care
    trainer = fit(tmp_path, module, part, max_epochs=2)
    assert trainer.global_step == 12
    if not images:
        trainer.validate(module, StatefulLoader(2), verbose=False)
        trainer.test(module, StatefulLoader(2), verbose=False)
        trainer.predict(module, StatefulLoader(2))


@pytest.mark.parametrize("name", LOOKING)
@pytest.mark.parametrize("cls", [MadeInConfigureModel, MadeInSetup])
def test_what_is_not_among_layers_made_later_is_refused_before_the_first_step(
    name: str, cls: type[MadeLater], tmp_path: Path
) -> None:
    class Plain(cls):  # type: ignore[misc, valid-type]  # one of two
        def make(self) -> None:
            self.other = nn.Linear(5, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return nn.functional.mse_loss(self.other(batch[0]), batch[1])

    build, sentence = LOOKING[name]
    module = Plain()
    with pytest.raises(MisconfigurationException, match=f"^{name}: .*{sentence}"):
        fit(tmp_path, module, build(tmp_path))
    assert module.trainer.global_step == 0
