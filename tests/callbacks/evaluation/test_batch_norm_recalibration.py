"""Statistics against those of the data in float64, after averages of weights, alone and in two processes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, TensorDataset

from lightning_optreg.callbacks import BatchNormRecalibration, EarlyStopping
from lightning_optreg.callbacks.evaluation.batch_norm_recalibration import batch_norms, recalibrate
from tests.processes import needs_gloo
from tests.small_runs import quiet_trainer

X = torch.randn(48, 3, generator=torch.Generator().manual_seed(0)) * 3.0 + 1.0


class Net(LightningModule):
    """A linear layer, batch normalisation with odd statistics, dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 4), nn.BatchNorm1d(4)
        )

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(X), batch_size=8)

    test_dataloader = train_dataloader

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.net(batch[0]).square().mean() + (self.net[0].weight - 1.0).square().sum()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.net(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer_of(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    return quiet_trainer(callbacks=list(callbacks), default_root_dir=folder, **{"max_epochs": 2, **options})


def expected(module: Net, batches: Any = None) -> list[Tensor]:
    """Means over batches of the batch means and unbiased variances, in float64, layer by layer."""
    first, norm, relu, _, second, _ = module.net.double()
    sums: list[list[Tensor]] = [[], [], [], []]
    for x in X.double().split(8) if batches is None else batches:
        u = first(x)
        normed = (u - u.mean(0)) / (u.var(0, unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias
        v = second(relu(normed))  # without dropout
        for kept, value in zip(sums, (u.mean(0), u.var(0), v.mean(0), v.var(0)), strict=True):
            kept.append(value.detach())
    module.float()
    return [torch.stack(values).mean(0).float() for values in sums]


def statistics(module: Net) -> list[Tensor]:
    return [s.clone() for norm in batch_norms(module) for s in (norm.running_mean, norm.running_var)]


def test_statistics_are_means_over_batches() -> None:
    module = Net().train()
    wanted = expected(module)
    assert recalibrate(module.net, X.split(8)) == 6
    for got, want in zip(statistics(module), wanted, strict=True):
        torch.testing.assert_close(got, want)
    assert all(m.training for m in module.modules())
    assert [norm.momentum for norm in batch_norms(module)] == [0.1, 0.1]
    before = statistics(module)
    assert recalibrate(module.net, []) == 0
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(module), strict=True))


def test_without_dropout_it_is_torchs_update_bn() -> None:
    one, other = Net(), Net()
    for module in (one, other):
        module.net[3] = nn.Identity()
    recalibrate(one.net, X.split(8))
    update_bn([[x] for x in X.split(8)], other.net)
    for got, want in zip(statistics(one), statistics(other), strict=True):
        torch.testing.assert_close(got, want)


def test_after_an_average_of_weights_statistics_are_the_averages(tmp_path: Path) -> None:
    plain = Net()
    trainer_of(tmp_path, EMAWeightAveraging(decay=0.8)).fit(plain)
    module = Net()
    state = torch.get_rng_state()
    trainer_of(tmp_path, EMAWeightAveraging(decay=0.8), BatchNormRecalibration()).fit(module)
    torch.testing.assert_close(module.net[0].weight, plain.net[0].weight)  # the average
    for got, want in zip(statistics(module), expected(module), strict=True):
        torch.testing.assert_close(got, want)
    assert not torch.allclose(statistics(plain)[0], statistics(module)[0], atol=1e-3)
    assert not torch.equal(torch.get_rng_state(), state)  # dropout drew in training


def test_before_a_test_for_whatever_weights_there_are(tmp_path: Path) -> None:
    seed_everything(1, verbose=False)
    trainer_of(tmp_path).test(Net(), verbose=False)
    state = torch.get_rng_state()
    seed_everything(1, verbose=False)
    module = Net()
    trainer_of(tmp_path, BatchNormRecalibration(2, stages=["test"])).test(module, verbose=False)
    assert torch.equal(torch.get_rng_state(), state)
    for got, want in zip(statistics(module), expected(module, X.double().split(8)[:2]), strict=True):
        torch.testing.assert_close(got, want)
    module.train()
    module.training_step([X], 0).backward()  # can be trained on


class WriteStatistics(Callback):
    """Children of a fork can only leave files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Net)
        torch.save(
            {"statistics": statistics(pl_module), "net": pl_module.state_dict()},
            self.folder / f"rank{trainer.global_rank}.pt",
        )


@needs_gloo
def test_two_processes_have_the_statistics_of_both(tmp_path: Path) -> None:
    callbacks = [BatchNormRecalibration(), WriteStatistics(tmp_path)]
    trainer_of(tmp_path, *callbacks, strategy="ddp_fork", devices=2, max_epochs=1).fit(Net())
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(ranks[0]["statistics"], ranks[1]["statistics"], strict=True))
    module = Net()
    module.load_state_dict(ranks[0]["net"])
    # Lightning deals single images out in turn, shuffled or not, and each process had its own batches of 8.
    total = torch.stack([X[rank::2].mean(0) for rank in range(2)]).mean(0)
    torch.testing.assert_close(ranks[0]["statistics"][0], module.net[0](total).detach(), atol=1e-5, rtol=1e-5)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    module = Net()
    for index in (1, 5):
        module.net[index] = nn.Identity()
    with pytest.raises(MisconfigurationException, match="Sequential has no batch normalisation with running"):
        trainer_of(tmp_path, BatchNormRecalibration()).fit(module)
    for later in (EMAWeightAveraging(), EarlyStopping("loss", restore_best=True)):
        with pytest.raises(MisconfigurationException, match=f"it must come after {type(later).__name__}"):
            trainer_of(tmp_path, BatchNormRecalibration(), later).fit(Net())


class Halves(Net):
    """Gets its inputs twice as large, and halves them on the way to the device."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0] / 2]

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(2 * X), batch_size=8)

    test_dataloader = train_dataloader


@pytest.mark.filterwarnings("ignore:.*You are using .*precision:UserWarning")
@pytest.mark.parametrize(
    ("precision", "dtype", "tolerance"),
    [
        ("64-true", torch.float64, 1e-12),
        ("bf16-true", torch.bfloat16, 0.1),
        ("bf16-mixed", torch.float32, 0.1),
    ],
)
@pytest.mark.parametrize("cls", [Net, Halves])
@pytest.mark.parametrize("stage", ["fit", "test"])
def test_in_any_precision(
    precision: str, dtype: torch.dtype, tolerance: float, cls: type[Net], stage: str, tmp_path: Path
) -> None:
    module = cls()
    trainer = trainer_of(tmp_path, BatchNormRecalibration(stages=[stage]), precision=precision)
    if stage == "fit":
        trainer.fit(module)
    else:
        trainer.test(module, verbose=False)
    got = statistics(module)
    assert {statistic.dtype for statistic in got} == {dtype}
    first = module.net.double()[0]
    means = [first(x) for x in X.double().split(8)]
    wanted = torch.stack([u.mean(0) for u in means]).mean(0), torch.stack([u.var(0) for u in means]).mean(0)
    for found, want in zip(got, wanted, strict=False):
        torch.testing.assert_close(found.double(), want.detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("argument", "batch"), [("x", "tensors"), (1, "tensors"), (0, "names"), ("y", "names")]
)
def test_inputs_that_are_elsewhere_are_refused_before_the_first_step(
    argument: str | int, batch: str, tmp_path: Path
) -> None:
    class Named(Net):
        def train_dataloader(self) -> Any:
            return DataLoader([{"x": x} for x in X] if batch == "names" else TensorDataset(X), batch_size=8)

    module = Named()
    before = module.net[0].weight.detach().clone()
    part = BatchNormRecalibration(images=argument)
    with pytest.raises(
        MisconfigurationException, match=f"^BatchNormRecalibration: images={argument!r} is not in"
    ):
        trainer_of(tmp_path, part).fit(module)
    assert torch.equal(module.net[0].weight, before)


def test_several_loaders_are_refused_before_the_first_step(tmp_path: Path) -> None:
    module = Net()
    loader = module.train_dataloader()
    trainer = trainer_of(tmp_path, BatchNormRecalibration())
    with pytest.raises(MisconfigurationException, match="there must be one training loader, got list"):
        trainer.fit(module, [loader, loader])
    assert trainer.global_step == 0


def test_a_run_resumed_at_its_end_is_recalibrated_too(tmp_path: Path) -> None:
    """From a checkpoint of the last epoch's end Lightning does not begin to train again."""
    saver = ModelCheckpoint(tmp_path, "last", enable_version_counter=False)
    straight, resumed = Net(), Net()
    trainer_of(tmp_path, BatchNormRecalibration(), saver, max_epochs=1, enable_checkpointing=True).fit(
        straight
    )
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    trainer_of(tmp_path, BatchNormRecalibration(), max_epochs=1).fit(
        resumed, ckpt_path=tmp_path / "last.ckpt"
    )
    assert not torch.equal(saved["net.1.running_mean"], straight.state_dict()["net.1.running_mean"])
    for name, value in straight.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value)
