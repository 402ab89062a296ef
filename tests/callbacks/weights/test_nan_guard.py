"""Numbers that are not finite, planted in known layers at known steps: named, or the step is left out."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_optreg import optimizers
from lightning_optreg.callbacks import NaNGuard
from lightning_optreg.callbacks.weights._non_finite import all_finite
from tests.processes import WriteAtEnd, needs_gloo, written
from tests.resume_tools import assert_identical, final_state
from tests.small_runs import quiet_trainer


class Bad(torch.autograd.Function):
    """The identity, with a gradient that is not a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * float("nan")


class Plant(nn.Module):
    """Spoils what it is asked to, when it is armed."""

    def __init__(self) -> None:
        super().__init__()
        self.how = ""

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "forward":
            return x * float("inf")
        return Bad.apply(x) if self.how == "backward" else x


class Victim(LightningModule):
    """Trains on eight batches; something goes wrong in batch `at` on rank `rank`."""

    def __init__(
        self,
        how: str = "",
        at: tuple[int, ...] = (3,),
        rank: int = 0,
        leave_out: bool = False,
        optimizer: Any = None,
    ) -> None:
        super().__init__()
        self.how, self.at, self.rank, self.leave_out = how, at, rank, leave_out
        self.make_optimizer = optimizer or (lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9))
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Tanh(), Plant(), nn.Linear(8, 1)
        )

    def train_dataloader(self) -> Any:
        generator = torch.Generator().manual_seed(0)
        return DataLoader(torch.randn(48, 3, generator=generator), batch_size=6)

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> int | None:
        armed = batch_idx in self.at and self.global_rank == self.rank
        self.net[4].how = self.how if armed else ""  # type: ignore[assignment]
        return None

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor | None:
        if self.leave_out and batch_idx in self.at:
            return None
        loss = (self.net(batch) - batch.sum(1, keepdim=True)).square().mean()
        armed = batch_idx in self.at and self.global_rank == self.rank
        if armed and self.how == "loss":
            loss = loss + torch.tensor(float("inf"))
        if armed and self.how == "parameter":
            with torch.no_grad():
                self.net[5].bias.fill_(float("nan"))  # type: ignore[operator, union-attr]
        return loss

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self.parameters())


def fit(module: LightningModule, *callbacks: Callback, **options: Any) -> Trainer:
    seed_everything(1, verbose=False)
    trainer = quiet_trainer(callbacks=list(callbacks), **{"max_epochs": 1, **options})
    trainer.fit(module)
    return trainer


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("forward", "the loss is not finite; it began in net.4 (Plant), whose inputs are finite and outputs"),
        (
            "backward",
            "a gradient is not finite; it began in net.1 (BatchNorm1d), the last layer whose gradient is not "
            "finite: what follows is net.2 (Dropout), net.3 (Tanh), net.4 (Plant), net.5 (Linear)",
        ),
        ("loss", "the loss is not finite; it began in what the module computes outside of its layers"),
    ],
)
def test_step_layer_and_checkpoint_are_named(how: str, message: str, tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
    module = Victim(how)
    with pytest.raises(FloatingPointError) as error:
        fit(module, NaNGuard(), saver, enable_checkpointing=True)
    text = str(error.value)
    assert text.startswith(f"NaNGuard: step 4 (epoch 0, batch 3): {message}")
    assert text.endswith(f"; the last good checkpoint is {tmp_path / 'step=2.ckpt'}")
    assert "\n" not in text
    assert all(bool(all_finite([p.detach()])) for p in module.parameters())
    assert not module.net._forward_pre_hooks


def test_no_checkpoint_yet_and_a_spoiled_parameter() -> None:
    with pytest.raises(FloatingPointError, match=r"no checkpoint has been written yet$"):
        fit(Victim("forward", at=(0,)), NaNGuard())
    with pytest.raises(
        FloatingPointError, match=r"step 5 .* it began in the parameter net.5.bias, which is not"
    ):
        fit(Victim("parameter"), NaNGuard())


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "NAG": lambda p: optimizers.NAG(p, lr=0.01),
    "SWATS": lambda p: optimizers.SWATS(p, lr=0.01),
    "PowerSign": lambda p: optimizers.PowerSign(p, lr=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("how", ["forward", "backward", "loss"])
@pytest.mark.filterwarnings("ignore:NaNGuard:RuntimeWarning")
def test_a_skipped_step_is_as_if_the_batch_had_not_been(how: str, name: str) -> None:
    guard, module = NaNGuard("skip"), Victim(how, at=(3, 4), optimizer=OPTIMIZERS[name])
    module.net[2] = nn.Identity()  # dropout would draw for the batch
    trainer = fit(module, guard, gradient_clip_val=1.0)
    assert guard.skipped == 2
    assert trainer.logged_metrics["optreg/nan_guard/skipped"] == 2.0
    other = Victim(at=(3, 4), leave_out=True, optimizer=OPTIMIZERS[name])
    other.net[2] = nn.Identity()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning, that there is no loss
        expected = fit(other, gradient_clip_val=1.0)
    assert_identical(final_state(trainer, module), final_state(expected, other))


@pytest.mark.filterwarnings("ignore:NaNGuard:RuntimeWarning")
def test_too_many_skips_end_the_run() -> None:
    guard = NaNGuard("skip", max_skips=2)
    with pytest.raises(FloatingPointError, match=r"step 5 .*\(after 2 consecutive skips\)"):
        fit(Victim("loss", at=(0, 2, 3, 4)), guard)
    assert guard.skipped == 3
    again = NaNGuard("skip")
    again.load_state_dict(guard.state_dict())
    assert (again.skipped, again.state_dict()) == (3, guard.state_dict())


@pytest.mark.filterwarnings("ignore:NaNGuard:RuntimeWarning")
def test_accumulation_leaves_the_window_out() -> None:
    guard, module = NaNGuard("skip"), Victim("forward", at=(2,))
    trainer = fit(module, guard, accumulate_grad_batches=2)
    assert guard.skipped == 1
    assert bool(all_finite(value for value in module.state_dict().values() if value.is_floating_point()))
    assert int(module.net[1].num_batches_tracked) == 6  # type: ignore[arg-type, union-attr]
    assert trainer.global_step == 4
    with pytest.raises(FloatingPointError, match=r"step 2 .* in batch 2 of the accumulation window"):
        fit(Victim("forward", at=(2,)), NaNGuard(), accumulate_grad_batches=2)


def test_a_scaler_may_overflow() -> None:
    """At a scale of 2^16 gradients overflow now and then, which is the scaler's matter."""
    module = Victim("backward", at=(1,))
    trainer = fit(module, NaNGuard(), plugins=[half()])
    assert trainer.global_step == 8
    assert all(bool(all_finite([p.detach()])) for p in module.parameters())
    with pytest.raises(FloatingPointError, match="the loss is not finite"):
        fit(Victim("loss"), NaNGuard(), plugins=[half()])


def half() -> Any:
    from lightning.pytorch.plugins.precision import MixedPrecision

    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))


class Manual(Victim):
    """The same by manual optimization."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        loss = super().training_step(batch, batch_idx)
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


@pytest.mark.filterwarnings("ignore:NaNGuard:RuntimeWarning")
def test_manual_optimization() -> None:
    with pytest.raises(FloatingPointError, match=re.escape("it began in net.4 (Plant)")):
        fit(Manual("forward"), NaNGuard())
    guard, module = NaNGuard("skip"), Manual("backward")
    fit(module, guard)
    assert guard.skipped == 1
    assert all(bool(all_finite([p.detach()])) for p in module.parameters())


@needs_gloo
@pytest.mark.filterwarnings("ignore:NaNGuard:RuntimeWarning")
def test_all_processes_decide_alike(tmp_path: Path) -> None:
    options: dict[str, Any] = {"strategy": "ddp_fork", "devices": 2}
    # torch ends the other process as soon as one has raised, and raises what that one did
    said = "NaNGuard: step 4 .*(another process's loss is not finite|it began in what the module computes)"
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match=said):
        fit(Victim("loss", rank=1), NaNGuard(), **options)
    fit(Victim("loss", rank=1), NaNGuard("skip"), WriteAtEnd(tmp_path), **options)
    first, second = (state["weights"] for state in written(tmp_path))
    assert_identical(first, second)
    assert bool(all_finite(list(first.values())))


def test_largest_numbers_are_finite() -> None:
    largest = torch.finfo(torch.float32).max
    assert bool(all_finite([torch.full((9,), largest), torch.ones(2, dtype=torch.bfloat16)]))
    assert not bool(all_finite([torch.ones(2), torch.tensor([-float("inf")])]))
    sparse = torch.sparse_coo_tensor([[1]], [float("nan")], (3,), check_invariants=True)
    assert not bool(all_finite([sparse]))


@pytest.mark.slow
def test_the_command_line_ends_with_one_line(
    fashion_mnist_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lightning_optreg.__main__ import main

    options = ["--data.data_dir", str(fashion_mnist_dir), "--data.verify_checksum", "false"]
    options += ["--data", "FashionMNISTDataModule", "--model.net", "MLP", "--optimizer.lr", "1e30"]
    options += ["--trainer.callbacks+", "NaNGuard", "--trainer.default_root_dir", str(tmp_path)]
    options += [
        "--trainer.accelerator",
        "cpu",
        "--trainer.max_epochs",
        "3",
        "--trainer.enable_progress_bar=false",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main(["fit", *options]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(
        "error: NaNGuard: step 2 (epoch 0, batch 1): the loss is not finite; it began in net."
    )
