"""The rates of the paper, a snapshot at each cycle's end, and predictions that are their average."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_optreg.callbacks import SnapshotEnsemble
from lightning_optreg.callbacks.evaluation.snapshot_ensemble import cosine_factor, cycle_ends, snapshots
from tests.resume_tools import assert_identical
from tests.small_runs import quiet_trainer


def test_rates_are_the_papers_where_cycles_are_of_one_length() -> None:
    total, cycles, full = 40, 4, 0.2
    ends = cycle_ends(total, cycles)
    length = math.ceil(total / cycles)
    for t in range(1, total + 1):
        expected = full / 2 * (math.cos(math.pi * ((t - 1) % length) / length) + 1)
        assert full * cosine_factor(t - 1, ends) == pytest.approx(expected)


@pytest.mark.parametrize(("total", "cycles"), [(200, 6), (7, 7), (1, 1), (100, 3), (11, 4)])
def test_all_cycles_begin_at_the_full_rate_and_end_near_zero(total: int, cycles: int) -> None:
    ends = cycle_ends(total, cycles)
    assert len(ends) == cycles
    assert ends[-1] == total
    lengths = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
    assert max(lengths) - min(lengths) <= 1
    for begin, end in zip([0, *ends], ends, strict=False):
        assert cosine_factor(begin, ends) == 1.0
        last = 0.5 * (math.cos(math.pi * (end - begin - 1) / (end - begin)) + 1)
        assert cosine_factor(end - 1, ends) == pytest.approx(last)


class Classifier(LightningModule):
    """Two groups at different rates, batch normalisation, eight batches an epoch."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, 4))
        self.scores: list[Tensor] = []

    def train_dataloader(self) -> Any:
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(64, 3, generator=generator)
        return DataLoader(TensorDataset(x, (x.sum(1) > 0).long() + 2 * (x[:, 0] > 0).long()), batch_size=8)

    test_dataloader = val_dataloader = train_dataloader

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.body(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.body(batch[0]), batch[1]))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.scores.append(self.body(batch[0]))

    def configure_optimizers(self) -> Any:
        groups = [{"params": self.body[0].parameters()}, {"params": self.body[1:].parameters(), "lr": 0.3}]
        return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


def trainer_of(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    return quiet_trainer(callbacks=list(callbacks), default_root_dir=folder, **{"max_epochs": 2, **options})


class Watch(Callback):
    """Keeps the rates of each step, and the weights and momentum after it."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []
        self.weights: list[dict[str, Tensor]] = []
        self.momentum: list[Tensor] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.rates.append([group["lr"] for group in optimizer.param_groups])

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.weights.append({name: value.clone() for name, value in pl_module.state_dict().items()})
        state = trainer.optimizers[0].state[next(pl_module.parameters())]
        if "momentum_buffer" in state:
            self.momentum.append(state["momentum_buffer"].clone())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_group_follows_and_snapshots_are_the_weights_at_the_ends(
    accumulate: int, tmp_path: Path
) -> None:
    watch, ensemble = Watch(), SnapshotEnsemble(cycles=3)
    trainer = trainer_of(tmp_path, ensemble, watch, accumulate_grad_batches=accumulate)
    trainer.fit(Classifier())
    total = 16 // accumulate
    ends = cycle_ends(total, 3)
    factors = torch.tensor([cosine_factor(t, ends) for t in range(total)], dtype=torch.float64)
    rates = torch.tensor(watch.rates, dtype=torch.float64)
    torch.testing.assert_close(rates, torch.stack((0.1 * factors, 0.3 * factors), 1))
    paths = snapshots(tmp_path / "snapshots")
    assert [path.name for path in paths] == ["snapshot1.ckpt", "snapshot2.ckpt", "snapshot3.ckpt"]
    for path, end in zip(paths, ends, strict=True):
        member = Classifier.load_from_checkpoint(path)
        assert_identical(dict(member.state_dict()), watch.weights[end * accumulate - 1])
    # Momentum goes on over a restart.
    assert all(momentum.abs().sum() > 0.0 for momentum in watch.momentum)
    assert trainer.logged_metrics["optreg/snapshot_ensemble/members"] == 3.0


@pytest.mark.parametrize("members", [None, 2])
def test_the_prediction_is_the_mean_of_softmax(members: int | None, tmp_path: Path) -> None:
    ensemble, module = SnapshotEnsemble(cycles=3, members=members), Classifier()
    trainer = trainer_of(tmp_path, ensemble)
    trainer.fit(module)
    own = {name: value.clone() for name, value in module.state_dict().items()}
    trainer.test(module, verbose=False)
    assert_identical(own, dict(module.state_dict()))
    nets = [Classifier.load_from_checkpoint(path).eval() for path in snapshots(tmp_path / "snapshots")]
    used = nets if members is None else nets[-members:]
    for (x, _), scores in zip(module.test_dataloader(), module.scores, strict=True):
        mean = torch.stack([net.body(x).softmax(-1) for net in used]).mean(0)
        torch.testing.assert_close(scores.softmax(-1), mean)
        torch.testing.assert_close(scores, mean.log())
    assert float(trainer.logged_metrics["optreg/snapshot_ensemble/mutual_information"]) > 0.0
    module.train()
    module.training_step(next(iter(module.train_dataloader())), 0).backward()  # weights can be trained on
    # A new process knows nothing but the folder.
    other = Classifier()
    trainer_of(tmp_path, SnapshotEnsemble(cycles=3, members=members)).test(other, verbose=False)
    assert torch.equal(other.scores[0], module.scores[0])


def test_validation_in_a_fit_averages_what_there_is(tmp_path: Path) -> None:
    module = Classifier()
    trainer = trainer_of(tmp_path, SnapshotEnsemble(cycles=4, stages=["validate"]), max_epochs=2)
    trainer.fit(module)
    members = [Classifier.load_from_checkpoint(path).eval() for path in snapshots(tmp_path / "snapshots")]
    losses = []
    for x, y in module.val_dataloader():
        mean = torch.stack([net.body(x).softmax(-1) for net in members]).mean(0)
        losses.append(nn.functional.nll_loss(mean.log(), y))
    assert float(trainer.callback_metrics["val_loss"]) == pytest.approx(torch.stack(losses).mean().item())


def test_a_resumed_run_completes_the_same_ensemble(tmp_path: Path) -> None:
    straight = Classifier()
    trainer_of(tmp_path / "one", SnapshotEnsemble(cycles=3), max_epochs=3).fit(straight)

    class Stop(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch == 1:
                trainer.save_checkpoint(tmp_path / "middle.ckpt")
                trainer.should_stop = True

    trainer_of(tmp_path / "two", SnapshotEnsemble(cycles=3), Stop(), max_epochs=3).fit(Classifier())
    resumed = Classifier()
    trainer = trainer_of(tmp_path / "two", SnapshotEnsemble(cycles=3), max_epochs=3)
    trainer.fit(resumed, ckpt_path=tmp_path / "middle.ckpt")
    assert_identical(dict(straight.state_dict()), dict(resumed.state_dict()))
    for one, other in zip(
        snapshots(tmp_path / "one/snapshots"), snapshots(tmp_path / "two/snapshots"), strict=True
    ):
        states = [torch.load(path, weights_only=True)["state_dict"] for path in (one, other)]
        assert_identical(dict(states[0]), dict(states[1]))


class Scheduled(Classifier):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="has a learning-rate schedule; remove it"):
        trainer_of(tmp_path, SnapshotEnsemble()).fit(Scheduled())
    with pytest.raises(MisconfigurationException, match="cycles must be <= the run's steps, 16, got 17"):
        trainer_of(tmp_path, SnapshotEnsemble(17)).fit(Classifier())
    with pytest.raises(MisconfigurationException, match="cycles must be <= the run's steps, inf"):
        trainer_of(tmp_path, SnapshotEnsemble(), max_epochs=-1).fit(Classifier())
    with pytest.raises(
        MisconfigurationException, match=r"found 0 snapshots in .*, need at least 1; pass folder="
    ):
        trainer_of(tmp_path, SnapshotEnsemble()).test(Classifier(), verbose=False)
    trainer_of(tmp_path, SnapshotEnsemble(2, schedule=False)).fit(Scheduled())
    with pytest.raises(MisconfigurationException, match="has snapshots of another run"):
        trainer_of(tmp_path, SnapshotEnsemble(2)).fit(Classifier())
    with pytest.raises(
        MisconfigurationException, match=r"found 2 snapshots in .*, need at least 3; pass folder="
    ):
        trainer_of(tmp_path, SnapshotEnsemble(members=3)).test(Classifier(), verbose=False)
