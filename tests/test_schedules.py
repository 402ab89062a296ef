"""WarmupMultiStepLR against its formula and against torch's MultiStepLR."""

import pytest
import torch
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from lightning_optreg.schedules import WarmupMultiStepLR


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
