"""The parts of Hogwild: shared tensors, sparse steps, delays, and what it converges to."""

import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_optreg.optimizers import AdaDelay, AdaptiveRevision
from lightning_optreg.randomness.processes import share_of
from lightning_optreg.strategies import Hogwild
from lightning_optreg.strategies.shared_memory import _crew
from lightning_optreg.strategies.shared_memory._board import Board
from lightning_optreg.strategies.shared_memory._delays import Delays
from lightning_optreg.strategies.shared_memory._launcher import _work, usable_start_method
from lightning_optreg.strategies.shared_memory._mate import Mate
from lightning_optreg.strategies.shared_memory._memory import Memory, move_in, move_out, plan_for
from tests.strategies.shared_memory.hogwild_tools import OurLoader, hogwild, trainer_of

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks a process")


def test_tensors_keep_their_ties_in_shared_memory_and_after() -> None:
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).to(memory_format=torch.channels_last)
    weight = module[0].weight
    module.view = nn.Parameter(weight.data.permute(0, 2, 3, 1).view(-1)[5:9])  # type: ignore[assignment]
    tensors = [*module.parameters(), *module.buffers()]
    before = [tensor.clone() for tensor in tensors]
    plan = plan_for(tensors)
    memory = Memory(plan.size)
    move_in(tensors, plan, memory, copy=True)
    other = [torch.empty_like(tensor) for tensor in tensors]
    move_in(other, plan, memory, copy=False)
    assert all(map(torch.equal, tensors, before))
    assert weight.is_contiguous(memory_format=torch.channels_last)
    at = next(number for number, tensor in enumerate(tensors) if tensor is weight)
    with torch.no_grad():
        other[at].add_(1)
    assert torch.equal(weight, before[at] + 1)
    move_out(tensors)
    with torch.no_grad():
        other[at].add_(1)
        module.view.fill_(7)
    assert (weight.permute(0, 2, 3, 1).reshape(-1)[5:9] == 7).all()
    assert not torch.equal(weight, other[at])


def test_other_shapes_and_sparse_tensors_are_refused() -> None:
    plan = plan_for([torch.zeros(2)])
    with pytest.raises(ValueError, match="other parameters or buffers"):
        move_in([torch.zeros(3)], plan, Memory(plan.size), copy=False)
    with pytest.raises(ValueError, match="only dense tensors"):
        plan_for([torch.eye(2).to_sparse()])
    with pytest.raises(ValueError, match="no shape yet"):
        plan_for([nn.LazyLinear(3).weight])


def test_nothing_is_forked_after_cuda_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_start_method("Hogwild", None) == ("fork" if hasattr(os, "fork") else "spawn")
    assert usable_start_method("Hogwild", "spawn") == "spawn"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert usable_start_method("Hogwild", None) == usable_start_method("Hogwild", "spawn") == "spawn"
    trainer = Trainer(strategy=Hogwild(start_method="fork"), accelerator="cpu", devices=2, logger=False)
    with pytest.raises(MisconfigurationException, match=r"^Hogwild: CUDA has started in this process, and"):
        trainer.fit(LightningModule())


def test_nothing_is_forked_where_an_earlier_fit_has_left_a_process_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    assert usable_start_method("Hogwild", None) == "spawn"
    with pytest.raises(MisconfigurationException, match=r"^Hogwild: torch\.distributed has started"):
        usable_start_method("Hogwild", "fork")


class Lazy(OurLoader):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.LazyLinear(1))


def test_lazy_layers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match=r"^Hogwild: the module has lazy layers"):
        trainer_of(tmp_path).fit(Lazy())
    assert multiprocessing.active_children() == []


def test_last_steps_are_reserved_once() -> None:
    board = Board(2, multiprocessing.get_context("fork"))
    assert board.claim(0, 2, lambda: None)
    assert board.claim(0, 2, lambda: None)  # the same one
    assert board.claim(1, 2, lambda: None)
    board.steps[0] = 1
    assert not board.claim(0, 2, lambda: None)
    board.give_back(1, lambda: None)
    assert board.claim(0, 2, lambda: None)


SPARSE: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.5),
    "SparseAdam": lambda p: torch.optim.SparseAdam(p, lr=0.1),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "AdaDelay": lambda p: AdaDelay(p, lr=0.1),
    "AdaDelay sgd": lambda p: AdaDelay(p, lr=0.1, variant="sgd"),
    "AdaptiveRevision": lambda p: AdaptiveRevision(p, lr=0.1),
}


@needs_fork
@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")
@pytest.mark.parametrize("name", SPARSE)
def test_sparse_steps_leave_the_other_rows_to_the_others(name: str) -> None:
    # Another process counts in the other rows meanwhile; whoever writes them back loses counts.
    table = nn.Embedding(200, 8, sparse=True)
    nn.init.zeros_(table.weight)
    plan = plan_for([table.weight])
    move_in([table.weight], plan, Memory(plan.size), copy=True)
    optimizer = SPARSE[name]([table.weight])
    rows = table.weight.detach().numpy()
    ended = multiprocessing.get_context("fork").RawValue("i", 0)
    process = multiprocessing.get_context("fork").Process(target=_count, args=(rows, ended))
    process.start()
    steps = 0
    while process.is_alive() or steps < 5:
        optimizer.zero_grad()
        table(torch.tensor([3, 5, 3])).sum().backward()
        optimizer.step()
        steps += 1
    process.join()
    assert ended.value == 1
    assert np.array_equal(rows[100:], np.full((100, 8), 100.0, dtype=np.float32))
    assert (rows[[3, 5]] != 0).all()
    assert (rows[6:100] == 0).all()


def _count(rows: Any, ended: Any) -> None:
    for _ in range(100):
        for row in range(100, 200):
            rows[row] += 1
    ended.value = 1


def test_delays_are_the_steps_since_the_read() -> None:
    updates = [5]
    theta = torch.tensor([1.0], requires_grad=True)
    optimizer = AdaDelay([theta], lr=1.0, variant="sgd")
    delays = Delays([optimizer], lambda: updates[0])

    def closure() -> Tensor:
        theta.grad = torch.tensor([1.0])
        updates[0] = 9  # others have stepped meanwhile
        return theta.detach()

    delays.note_reads()
    optimizer.step(closure)
    # t = 9 + 1 steps of all, tau = 4
    assert theta.item() == pytest.approx(1 - 1 / (1 + 14**0.5), abs=1e-7)
    delays.remove()
    optimizer.step()  # t = 11, tau = 0
    assert theta.item() == pytest.approx(1 - 1 / (1 + 14**0.5) - 1 / (1 + 11**0.5), abs=1e-7)


def test_revision_compares_with_the_gradients_at_the_read() -> None:
    theta, alone = (torch.tensor([0.0], requires_grad=True) for _ in range(2))
    ours, by_hand = (AdaptiveRevision([p], lr=1.0) for p in (theta, alone))
    delays = Delays([ours], lambda: 0)
    delays.note_reads()
    read = by_hand.snapshot()
    for step, p in ((ours.step, theta), (lambda: by_hand.step(gbar_old=read), alone)):
        p.grad = torch.tensor([1.0])
        step()
    other = torch.tensor([0.5])
    for optimizer, p in ((ours, theta), (by_hand, alone)):
        delays.note_reads()
        read = by_hand.snapshot() if optimizer is by_hand else read
        optimizer.state[p]["gbar"].add_(other)  # another worker's gradient
        p.grad = torch.tensor([2.0])
        ours.step() if optimizer is ours else by_hand.step(gbar_old=read)
    assert torch.equal(theta, alone)


class _Batches:
    """A worker's batches of a fixed problem: 40 weights, 5 non-zeros an example."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self.x, self.y = _problem()

    def __len__(self) -> int:
        return len(self.y) // 4 // self.world_size

    def __iter__(self) -> Any:
        for k in range(len(self)):
            begin = (k * self.world_size + self.rank) * 4
            yield self.x[begin : begin + 4], self.y[begin : begin + 4]


def _problem() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(40, generator=generator)
    x = torch.randint(40, (800, 5), generator=generator)
    return x, (torch.rand(800, generator=generator) < true[x].sum(1).sigmoid()).float()


class _Logistic(LightningModule):
    def __init__(self, optimizer: Callable[[Any], Optimizer]) -> None:
        super().__init__()
        self.w = nn.EmbeddingBag(40, 1, mode="sum", sparse=True)
        nn.init.zeros_(self.w.weight)
        self.optimizer = optimizer

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(self.w(batch[0]).squeeze(1), batch[1])

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.6)]  # the paper's factor

    def train_dataloader(self) -> Any:
        return _Batches(*share_of(self.trainer))


def _loss(w: Tensor) -> float:
    x, y = _problem()
    return float(nn.functional.binary_cross_entropy_with_logits(w.double()[x].sum(1), y.double()))


def _optimum() -> float:
    """The least loss, by Newton's method in float64."""
    x, y = _problem()
    design = torch.zeros(800, 40, dtype=torch.float64)
    design.index_put_(
        (torch.arange(800)[:, None].expand_as(x), x), torch.ones(800, 5).double(), accumulate=True
    )
    w = torch.zeros(40, dtype=torch.float64)
    for _ in range(30):
        p = (design @ w).sigmoid()
        curvature = design.T @ (design * (p * (1 - p))[:, None])
        w -= torch.linalg.solve(curvature, design.T @ (p - y))
    assert float((design.T @ ((design @ w).sigmoid() - y)).norm()) < 1e-9
    return _loss(w)


@pytest.mark.parametrize(
    ("optimizer", "strategy"),
    [
        (SPARSE["SGD"], {}),
        pytest.param(lambda p: AdaDelay(p, lr=0.5), {}, marks=pytest.mark.slow),
        (lambda p: AdaptiveRevision(p, lr=0.5), {"shared_state": True}),
    ],
    ids=["SGD", "AdaDelay", "AdaptiveRevision"],
)
def test_two_workers_reach_the_known_optimum(
    tmp_path: Path, optimizer: Callable[[Any], Optimizer], strategy: dict[str, Any]
) -> None:
    module = _Logistic(optimizer)
    trainer = trainer_of(tmp_path, strategy=hogwild(**strategy), max_epochs=6)
    trainer.fit(module)
    assert trainer.global_step == 6 * 200
    start, best = _loss(torch.zeros(40)), _optimum()
    reached = _loss(module.w.weight.detach().squeeze(1))
    # What is left of the way is the noise of the last steps, at a rate of 8 % of the first.
    assert reached - best < 0.05 * (start - best)


def stands_still(board: Board) -> None:
    board.steps[1] = 1
    time.sleep(60)


@needs_fork
def test_a_late_worker_says_where_it_stands(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_crew, "_ENDING", 0.5)
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    mate = Mate(1, Board(2, context), theirs)
    process = context.Process(
        target=_work,
        args=(os.getpid(), mate, [mine], lambda *args: None, None, stands_still),
        kwargs={"args": (mate.board,), "kwargs": {}},
    )
    process.start()
    while not mate.board.steps[1]:
        time.sleep(0.01)
    crew = _crew.Crew("Hogwild", mate.board, [process], [mine], timeout=60.0)
    with pytest.warns(UserWarning, match=rf"\[{process.pid}\] did not end in 0.5 s and were killed"):
        crew.end()
    assert process.exitcode == -signal.SIGKILL
    assert re.search(r"in stands_still", capfd.readouterr().err)
