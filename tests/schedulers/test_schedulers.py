"""The schedules against their formulas and against torch's own."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from lightning_optreg.__main__ import main
from lightning_optreg.schedulers import InverseTimeDecay, SnapshotCosine, Warmup, WarmupMultiStepLR


def rates(schedule: LRScheduler, optimizer: torch.optim.Optimizer, count: int) -> list[float]:
    seen = []
    for _ in range(count):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1)], lr=0.1)


def test_the_rates_of_resnet_110() -> None:
    optimizer = sgd()
    seen = rates(WarmupMultiStepLR(optimizer, [81, 122]), optimizer, 164)
    expected = [0.01] * 1 + [0.1] * 80 + [0.01] * 41 + [0.001] * 42
    torch.testing.assert_close(seen, expected, rtol=1e-12, atol=0)


def test_without_warmup_it_is_multi_step() -> None:
    optimizer, other = sgd(), sgd()
    mine = rates(WarmupMultiStepLR(optimizer, [2, 5], gamma=0.5, warmup=0), optimizer, 8)
    torchs = rates(MultiStepLR(other, [2, 5], gamma=0.5), other, 8)
    torch.testing.assert_close(mine, torchs, rtol=1e-12, atol=0)


def test_it_resumes() -> None:
    optimizer = sgd()
    whole = rates(WarmupMultiStepLR(optimizer, [2, 5]), optimizer, 8)
    optimizer = sgd()
    schedule = WarmupMultiStepLR(optimizer, [2, 5])
    first = rates(schedule, optimizer, 3)
    state, optimizer_state = schedule.state_dict(), optimizer.state_dict()
    optimizer = sgd()
    schedule = WarmupMultiStepLR(optimizer, [2, 5])
    optimizer.load_state_dict(optimizer_state)
    schedule.load_state_dict(state)
    assert first + rates(schedule, optimizer, 5) == whole


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"milestones": [5, 2]}, "milestones must increase"),
        ({"milestones": [0], "warmup": 1}, r"milestones must increase and be >= warmup \(1\), got \[0\]"),
        ({"gamma": 0.0}, r"gamma must be in \(0, 1\], got 0.0"),
        ({"gamma": float("nan")}, "gamma must be"),
        ({"warmup": -1}, "warmup must be >= 0, got -1"),
        ({"warmup_factor": 1.5}, r"warmup_factor must be in \(0, 1\], got 1.5"),
    ],
)
def test_wrong_values_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"WarmupMultiStepLR: {message}"):
        WarmupMultiStepLR(sgd(), **{"milestones": [2, 5], **wrong})


def test_inverse_time_decay() -> None:
    optimizer = sgd()
    seen = rates(InverseTimeDecay(optimizer, t0=10.0, power=0.75), optimizer, 50)
    assert seen == pytest.approx([0.1 / (1 + t / 10) ** 0.75 for t in range(50)], rel=1e-12)


@pytest.mark.parametrize(("total", "cycles"), [(20, 4), (7, 7), (5, 1)])
def test_snapshot_cosine_is_equation_2(total: int, cycles: int) -> None:
    optimizer = sgd()
    schedule = SnapshotCosine(optimizer, total, cycles)
    seen = rates(schedule, optimizer, total)
    length = math.ceil(total / cycles)
    wanted = [0.1 / 2 * (math.cos(math.pi * ((t - 1) % length) / length) + 1) for t in range(1, total + 1)]
    assert seen == pytest.approx(wanted, rel=1e-12)


def test_snapshot_cosine_has_as_many_cycles_as_asked_for() -> None:
    """Of all small settings: each cycle is a whole cosine, and their lengths differ by one at most."""
    for total in range(1, 25):
        for cycles in range(1, total + 1):
            optimizer = sgd()
            schedule = SnapshotCosine(optimizer, total, cycles)
            seen = [0.1 * schedule.multiple(t) for t in range(2 * total)]
            ends = [t for t in range(1, 2 * total + 1) if schedule.is_cycle_end(t)]
            assert len(ends) == 2 * cycles  # what is stepped beyond the total goes on
            lengths = [b - a for a, b in pairwise([0, *ends])]
            assert max(lengths) == schedule.cycle_steps <= min(lengths) + 1
            wanted = [
                0.1 / 2 * (math.cos(math.pi * s / length) + 1) for length in lengths for s in range(length)
            ]
            assert seen == pytest.approx(wanted, rel=1e-12)


def test_snapshot_cosine_is_torchs_warm_restarts() -> None:
    ours, torchs = sgd(), sgd()
    first = rates(SnapshotCosine(ours, 60, 5), ours, 60)
    second = rates(lr_scheduler.CosineAnnealingWarmRestarts(torchs, 12), torchs, 60)
    assert first == pytest.approx(second, abs=1e-12)


INNER: dict[str, Callable[[torch.optim.Optimizer], LRScheduler]] = {
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.8),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 20, eta_min=0.001),
    "one_cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=30, cycle_momentum=False),
    "multi_step": lambda o: MultiStepLR(o, [3, 9]),
}


@pytest.mark.parametrize("name", INNER)
def test_after_the_warmup_the_other_schedule_begins(name: str) -> None:
    alone = sgd()
    wanted = rates(INNER[name](alone), alone, 20)
    optimizer = sgd()
    seen = rates(Warmup(optimizer, INNER[name], warmup=6, factor=0.25), optimizer, 26)
    assert seen[6:] == pytest.approx(wanted, rel=1e-12)
    assert seen[:6] == pytest.approx([wanted[0] * (0.25 + 0.75 * t / 6) for t in range(6)], rel=1e-12)


def test_warmup_is_torchs_composition() -> None:
    torchs = sgd()
    composed = lr_scheduler.SequentialLR(
        torchs,
        [
            lr_scheduler.LinearLR(torchs, start_factor=0.1, total_iters=5),
            lr_scheduler.CosineAnnealingLR(torchs, 20),
        ],
        [5],
    )
    wanted = rates(composed, torchs, 24)
    optimizer = sgd()
    schedule = Warmup(optimizer, lambda o: lr_scheduler.CosineAnnealingLR(o, 20), warmup=5)
    assert rates(schedule, optimizer, 24) == pytest.approx(wanted, rel=1e-9)


def test_warmup_of_none_and_before_none() -> None:
    optimizer = sgd()
    seen = rates(Warmup(optimizer, INNER["exponential"], warmup=0), optimizer, 5)
    assert seen == pytest.approx([0.1 * 0.8**t for t in range(5)])
    optimizer = sgd()
    assert rates(Warmup(optimizer, warmup=2, factor=0.0), optimizer, 4) == pytest.approx(
        [0.0, 0.05, 0.1, 0.1]
    )


def test_warmup_before_a_plateau_schedule() -> None:
    optimizer = sgd()
    schedule = Warmup(
        optimizer, lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, factor=0.5), warmup=2, factor=0.5
    )
    seen = []
    for value in (9.0, 9.0, 3.0, 3.0, 2.0, 2.0):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step(value)
    # Two steps are the warm-up's; then 3 is the best value, 3 again halves, 2 is the best, 2 again halves.
    assert seen == pytest.approx([0.05, 0.075, 0.1, 0.1, 0.05, 0.05])
    assert schedule.get_last_lr() == pytest.approx([0.025])


def test_warmup_asks_for_the_values_of_a_plateau_schedule_at_once() -> None:
    optimizer = sgd()
    schedule = Warmup(optimizer, lr_scheduler.ReduceLROnPlateau, warmup=2)
    optimizer.step()
    with pytest.raises(ValueError, match=r"^Warmup: ReduceLROnPlateau needs .*\"reduce_on_plateau\": True"):
        schedule.step()
    schedule.step(1.0)
    assert schedule.last_epoch == 1


def test_warmup_takes_what_makes_a_schedule() -> None:
    optimizer = sgd()
    made: Any = lr_scheduler.ExponentialLR(optimizer, 0.5)
    with pytest.raises(TypeError, match=r"^Warmup: schedule must .*write lambda optimizer: ExponentialLR\("):
        Warmup(optimizer, made)


OURS: dict[str, Callable[[torch.optim.Optimizer], LRScheduler]] = {
    "warmup_multi_step": lambda o: WarmupMultiStepLR(o, [3, 7], gamma=0.5, warmup=2, warmup_factor=0.25),
    "inverse_time": lambda o: InverseTimeDecay(o, 3.0),
    "snapshot_cosine": lambda o: SnapshotCosine(o, 12, 5),
    "warmup": lambda o: Warmup(o, warmup=4, factor=0.2),
    "warmup_of_0": lambda o: Warmup(o, INNER["exponential"], warmup=0),
    "warmup_and_cosine": lambda o: Warmup(o, lambda p: lr_scheduler.CosineAnnealingLR(p, 20), warmup=3),
    "warmup_and_snapshots": lambda o: Warmup(o, lambda p: SnapshotCosine(p, 9, 4), warmup=2),
}
EXPONENTIAL = [0.8**t for t in range(12)]
both_kinds = pytest.mark.parametrize("tensor", [False, True])


def optimizer_of(tensor: bool, groups: int = 2) -> torch.optim.Optimizer:
    """SGD whose groups have rates of their own: numbers, or tensors of either shape."""
    shapes: list[Any] = [(), (1,)]
    numbers = [0.1 * (k + 1) for k in range(groups)]
    given = [
        torch.full(shapes[k % 2], x, dtype=torch.float64) if tensor else x for k, x in enumerate(numbers)
    ]
    return torch.optim.SGD([{"params": [torch.zeros(1)], "lr": lr} for lr in given])


def all_rates(schedule: LRScheduler, optimizer: torch.optim.Optimizer, count: int) -> list[list[float]]:
    seen = []
    for _ in range(count):
        seen.append([float(group["lr"]) for group in optimizer.param_groups])
        assert [float(rate) for rate in schedule.get_last_lr()] == seen[-1]
        optimizer.step()
        schedule.step()
    return seen


@both_kinds
@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("first", [False, True])
def test_chained_with_another_the_factors_multiply(name: str, first: bool, tensor: bool) -> None:
    optimizer = optimizer_of(tensor)
    alone = all_rates(OURS[name](optimizer), optimizer, 12)
    optimizer = optimizer_of(tensor)
    makes = [OURS[name], INNER["exponential"]]
    parts = [make(optimizer) for make in (makes if first else makes[::-1])]
    seen = all_rates(lr_scheduler.ChainedScheduler(parts, optimizer), optimizer, 12)
    wanted = [[rate * factor for rate in row] for row, factor in zip(alone, EXPONENTIAL, strict=True)]
    torch.testing.assert_close(torch.tensor(seen), torch.tensor(wanted), rtol=1e-9, atol=0)


def test_two_of_ours_chain() -> None:
    optimizer = sgd()
    parts = [
        InverseTimeDecay(optimizer, 2.0),
        Warmup(optimizer, warmup=3, factor=0.5),
        OURS["warmup"](optimizer),
    ]
    seen = rates(lr_scheduler.ChainedScheduler(parts, optimizer), optimizer, 8)
    wanted = [0.1 / (1 + t / 2) * min(0.5 + 0.5 * t / 3, 1.0) * min(0.2 + 0.8 * t / 4, 1.0) for t in range(8)]
    assert seen == pytest.approx(wanted, rel=1e-12)


@both_kinds
@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("before", ["exponential", "warmup", "warmup_and_cosine"])
def test_in_a_sequence_it_begins_with_the_rate_of_the_optimizer(name: str, before: str, tensor: bool) -> None:
    """Whatever schedules made before it have made of that."""
    optimizer = optimizer_of(tensor)
    alone = all_rates(OURS[name](optimizer), optimizer, 12)
    other = optimizer_of(tensor)
    earlier = {**INNER, **OURS}[before]
    start = all_rates(earlier(other), other, 5)
    optimizer = optimizer_of(tensor)
    parts = [earlier(optimizer), OURS[name](optimizer), INNER["exponential"](optimizer)]
    sequence = lr_scheduler.SequentialLR(optimizer, parts, [5, 17])
    seen = all_rates(sequence, optimizer, 17)
    torch.testing.assert_close(torch.tensor(seen), torch.tensor(start + alone), rtol=1e-9, atol=0)
    optimizer = optimizer_of(tensor)
    parts = [OURS[name](optimizer), earlier(optimizer)]
    first = all_rates(lr_scheduler.SequentialLR(optimizer, parts, [5]), optimizer, 5)
    torch.testing.assert_close(torch.tensor(first), torch.tensor(alone[:5]), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", OURS)
def test_a_rate_that_is_a_tensor_stays_that_tensor(name: str) -> None:
    """Else a compiled step is compiled again, and a CUDA graph goes on with the rate of when it was made."""
    optimizer, numbers = optimizer_of(True), optimizer_of(False)
    kept = [group["lr"] for group in optimizer.param_groups]
    seen = all_rates(OURS[name](optimizer), optimizer, 12)
    assert all(group["lr"] is rate for group, rate in zip(optimizer.param_groups, kept, strict=True))
    assert seen == all_rates(OURS[name](numbers), numbers, 12)
    schedule = OURS[name](optimizer_of(True))
    last = schedule.get_last_lr()
    assert all(isinstance(rate, torch.Tensor) for rate in last)
    last[0].fill_(7.0)  # a copy
    assert float(schedule.optimizer.param_groups[0]["lr"]) < 7.0


@pytest.mark.parametrize("name", OURS)
def test_a_rate_that_is_a_tensor_is_not_asked_for_its_value(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device would be waited for, at each step."""
    schedule = OURS[name](optimizer_of(True))
    schedule.optimizer.step()  # torch warns without one

    def ask(rate: torch.Tensor) -> float:
        raise AssertionError("the value of a tensor was asked for")

    for asking in ("__float__", "__bool__", "item", "tolist"):
        monkeypatch.setattr(torch.Tensor, asking, ask)
    for _ in range(12):
        schedule.step()


@pytest.mark.parametrize("name", OURS)
def test_what_else_lowers_the_rate_stays(name: str) -> None:
    """And a group that comes later is scheduled from the rate that it has."""
    optimizer = optimizer_of(False)
    alone = all_rates(OURS[name](optimizer), optimizer, 10)
    optimizer = optimizer_of(False, groups=1)
    schedule = OURS[name](optimizer)
    first = all_rates(schedule, optimizer, 2)
    optimizer.param_groups[0]["lr"] *= 0.5
    optimizer.add_param_group({"params": [torch.zeros(2)], "lr": 0.01})
    later = []
    for _ in range(8):
        later.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert [row[0] for row in first] == [row[0] for row in alone[:2]]
    assert [row[0] for row in later] == pytest.approx([0.5 * row[0] for row in alone[2:]], rel=1e-12)
    assert [row[1] for row in later] == pytest.approx([0.01 * row[0] / alone[2][0] for row in alone[2:]])


@both_kinds
def test_a_group_that_comes_while_the_rate_is_near_0_does_not_become_huge(tensor: bool) -> None:
    """Its rate may not have been meant as relative to that: it rises to the largest of the others at most."""
    optimizer = optimizer_of(tensor)  # 0.1 and 0.2
    schedule = SnapshotCosine(optimizer, 200, 2)
    all_rates(schedule, optimizer, 99)
    later = torch.tensor(0.01) if tensor else 0.01
    optimizer.add_param_group({"params": [torch.zeros(2)], "lr": later})
    optimizer.step()
    schedule.step()  # the second cycle begins
    assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx([0.1, 0.2, 0.2])


@pytest.mark.parametrize(
    "make",
    [
        lambda o: InverseTimeDecay(o, 3.0),
        lambda o: SnapshotCosine(o, 20, 3),
        lambda o: Warmup(o, INNER["cosine"], warmup=4),
        lambda o: Warmup(o, INNER["one_cycle"], warmup=4),
        lambda o: Warmup(o),
    ],
)
@pytest.mark.parametrize("place", [1, 4, 5, 9])
def test_states_go_on(make: Callable[[Any], LRScheduler], place: int, tmp_path: Path) -> None:
    optimizer = sgd()
    schedule = make(optimizer)
    wanted = rates(schedule, optimizer, 16)
    first = sgd()
    schedule = make(first)
    rates(schedule, first, place)
    torch.save((first.state_dict(), schedule.state_dict()), tmp_path / "state")
    states = torch.load(tmp_path / "state", weights_only=True)
    second = sgd()
    schedule = make(second)
    second.load_state_dict(states[0])
    schedule.load_state_dict(states[1])
    second.step()  # torch expects one before a schedule's
    assert rates(schedule, second, 16 - place) == wanted[place:]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: InverseTimeDecay(o, t0=0.0), "InverseTimeDecay: t0 must be > 0, got 0.0"),
        (lambda o: InverseTimeDecay(o, power=float("nan")), "InverseTimeDecay: power must be > 0, got nan"),
        (lambda o: SnapshotCosine(o, 10, 0), "SnapshotCosine: cycles must be >= 1, got 0"),
        (lambda o: SnapshotCosine(o, 3, 4), r"SnapshotCosine: total_steps must be >= cycles \(4\), got 3"),
        (lambda o: Warmup(o, warmup=-1), "Warmup: warmup must be >= 0, got -1"),
        (lambda o: Warmup(o, factor=1.5), r"Warmup: factor must be in \[0, 1\], got 1.5"),
    ],
)
def test_wrong_values(make: Callable[[Any], LRScheduler], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(sgd())


@pytest.mark.usefixtures("blank_curves")
@pytest.mark.parametrize(
    "inner", ["ExponentialLR --lr_scheduler.schedule.gamma 0.5", "torch.optim.lr_scheduler.ReduceLROnPlateau"]
)
def test_warmup_from_the_command_line(inner: str, fashion_mnist_dir: Path, tmp_path: Path) -> None:
    command = (
        f"fit --data FashionMNISTDataModule --data.data_dir {fashion_mnist_dir} --data.verify_checksum false"
    )
    command += f" --model.net SoftmaxRegression --trainer.default_root_dir {tmp_path} --trainer.max_epochs 3"
    command += " --trainer.accelerator cpu --lr_scheduler Warmup --lr_scheduler.warmup 1"
    command += f" --lr_scheduler.schedule {inner}"
    assert main(command.split()) == 0
    state = torch.load(next(tmp_path.rglob("last.ckpt")), weights_only=True)["lr_schedulers"][0]
    # A checkpoint of an epoch's end lacks that epoch's step of a plateau schedule.
    assert state["last_epoch"] == (2 if "Plateau" in inner else 3)
    assert "schedule" in state


FOLLOWING: dict[str, Callable[[torch.optim.Optimizer], LRScheduler]] = {
    "warmup_multi_step": lambda o: WarmupMultiStepLR(o, [4, 8], gamma=0.5, warmup=3),
    "inverse_time": lambda o: InverseTimeDecay(o, t0=3.0, power=0.75),
    "snapshot_cosine": lambda o: SnapshotCosine(o, 12, 2),
    "warmup": lambda o: Warmup(o, warmup=5, factor=0.2),
    "warmup_of_another": lambda o: Warmup(o, INNER["exponential"], warmup=4),
    "warmup_of_ours": lambda o: Warmup(o, lambda o: InverseTimeDecay(o, t0=3.0), warmup=2),
}


@pytest.mark.parametrize("name", FOLLOWING)
@pytest.mark.parametrize("after", [0, 1, 3, 4, 9])
def test_a_group_that_is_added_goes_the_way_of_the_others(name: str, after: int, tmp_path: Path) -> None:
    """It has a fifth of the first one's rate when it comes, and from then on."""
    alone = sgd()
    wanted = rates(FOLLOWING[name](alone), alone, 12)
    optimizer = sgd()
    schedule = FOLLOWING[name](optimizer)
    seen: list[list[float]] = []
    for step in range(12):
        if step == after:
            rate = optimizer.param_groups[0]["lr"] / 5
            optimizer.add_param_group({"params": [torch.zeros(1)], "lr": rate})
        if step == after + 1:  # a checkpoint
            torch.save([optimizer.state_dict(), schedule.state_dict()], tmp_path / "state")
            optimizer = sgd()
            schedule = FOLLOWING[name](optimizer)
            optimizer.add_param_group({"params": [torch.zeros(1)], "lr": 0.5})
            for part, state in zip(
                (optimizer, schedule), torch.load(tmp_path / "state", weights_only=True), strict=True
            ):
                part.load_state_dict(state)  # type: ignore[attr-defined]  # both have it
        seen.append([group["lr"] for group in optimizer.param_groups])
        assert schedule.get_last_lr()[0] == optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()
    assert [both[0] for both in seen] == pytest.approx(wanted, rel=1e-12)
    assert [both[1] for both in seen[after:]] == pytest.approx(
        [rate / 5 for rate in wanted[after:]], rel=1e-9
    )


@pytest.mark.parametrize("name", FOLLOWING)
def test_a_rate_that_others_set_is_gone_on_from(name: str) -> None:
    alone = sgd()
    wanted = rates(FOLLOWING[name](alone), alone, 12)
    optimizer = sgd()
    schedule = FOLLOWING[name](optimizer)
    seen = []
    for step in range(12):
        if step in (3, 7):
            optimizer.param_groups[0]["lr"] /= 2
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    halved = [rate / (1 if step < 3 else 2 if step < 7 else 4) for step, rate in enumerate(wanted)]
    assert seen == pytest.approx(halved, rel=1e-9)


@pytest.mark.parametrize("after", [1, 2, 4, 6])
def test_with_added_groups_it_is_multi_step_too(after: int) -> None:
    both = []
    for make in (
        lambda o: WarmupMultiStepLR(o, [2, 5], gamma=0.5, warmup=0),
        lambda o: MultiStepLR(o, [2, 5], gamma=0.5),
    ):
        optimizer = sgd()
        schedule = make(optimizer)
        rates(schedule, optimizer, after)
        optimizer.add_param_group({"params": [torch.zeros(1)], "lr": 0.03})
        both.append([[group["lr"] for group in optimizer.param_groups]])
        for _ in range(4):
            optimizer.step()
            schedule.step()
            both[-1].append([group["lr"] for group in optimizer.param_groups])
    for ours, torchs in zip(*both, strict=True):
        assert ours == pytest.approx(torchs, rel=1e-12)
