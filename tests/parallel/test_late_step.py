"""Late gradients against the formulas of AdaDelay and AdaptiveRevision, written out in float64."""

import math

import pytest
import torch

from lightning_optreg.optimizers import AdaDelay, AdaptiveRevision
from lightning_optreg.parallel import Read, late_step, note_read

# Who reads (None) or pushes a gradient: two workers, whose gradients come 0 to 2 updates late.
SCRIPT = [
    (0, None),
    (1, None),
    (0, 1.5),
    (0, None),
    (0, -0.5),
    (1, 2.0),
    (1, None),
    (1, 0.25),
    (0, None),
    (0, 1.0),
]
DELAYS = [0, 0, 2, 0, 0]


def played(optimizer: torch.optim.Optimizer, theta: torch.Tensor) -> list[int]:
    """Play the script; return the delays."""
    reads: dict[int, Read] = {}
    delays, updates = [], 0
    for worker, gradient in SCRIPT:
        if gradient is None:
            reads[worker] = note_read(optimizer, updates)
            continue
        theta.grad = torch.full_like(theta, gradient)
        late_step(optimizer, reads[worker], updates)
        delays.append(updates - reads[worker].updates)
        updates += 1
    return delays


GRADIENTS = [gradient for _, gradient in SCRIPT if gradient is not None]


@pytest.fixture
def theta() -> torch.Tensor:
    return torch.tensor([1.0], dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("variant", ["sgd", "adagrad"])
def test_ada_delay_gets_the_delay_that_each_gradient_had(theta: torch.Tensor, variant: str) -> None:
    optimizer = AdaDelay([theta], lr=0.3, beta=2.0, variant=variant)
    assert played(optimizer, theta) == DELAYS
    expected, n = 1.0, 0.0
    for t, (g, tau) in enumerate(zip(GRADIENTS, DELAYS, strict=True), start=1):
        if variant == "sgd":
            expected -= 0.3 / (2 + math.sqrt(t + tau)) * g
        else:
            n += g * g
            expected -= 0.3 / (2 + math.sqrt(n) * math.sqrt((t + tau) / t)) * g
    # A few operations in float64, made in another order.
    assert theta.item() == pytest.approx(expected, rel=1e-14)


def test_adaptive_revision_revises_what_was_applied_since_the_read(theta: torch.Tensor) -> None:
    optimizer = AdaptiveRevision([theta], lr=0.3)
    assert played(optimizer, theta) == DELAYS
    expected, gbar, z, z_max = 1.0, 0.0, 1.0, 1.0
    applied: list[float] = []
    for g, tau in zip(GRADIENTS, DELAYS, strict=True):
        gbck = sum(applied[len(applied) - tau :])
        eta_old = 0.3 / math.sqrt(z_max)
        z += g * (g + 2 * gbck)
        z_max = max(z, z_max)
        eta = 0.3 / math.sqrt(z_max)
        expected += -eta * g + (eta_old - eta) * gbck
        gbar += g
        applied.append(g)
    assert theta.item() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("kind", [AdaDelay, AdaptiveRevision, torch.optim.Adagrad, torch.optim.Adam])
def test_without_delay_it_is_the_ordinary_step(kind: type[torch.optim.Optimizer]) -> None:
    def end(late: bool) -> torch.Tensor:
        theta = torch.linspace(-1, 1, 5, requires_grad=True)
        optimizer = kind([theta], lr=0.1)
        for update in range(5):
            read = note_read(optimizer, update)
            optimizer.zero_grad()
            theta.square().sum().backward()
            if late:
                late_step(optimizer, read, update)
            else:
                optimizer.step()
        return theta.detach()

    assert torch.equal(end(late=True), end(late=False))


def test_reads_that_do_not_fit_are_refused(theta: torch.Tensor) -> None:
    theta.grad = torch.ones_like(theta)
    with pytest.raises(ValueError, match=r"updates must be at least read\.updates = 3, got 2"):
        late_step(torch.optim.SGD([theta], lr=0.1), Read(3), 2)
    with pytest.raises(ValueError, match="noted for the same optimizer, AdaptiveRevision"):
        late_step(AdaptiveRevision([theta]), Read(0), 0)
