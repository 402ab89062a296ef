"""FilterMuon against torch's Muon, AdamW and SGD, and its iteration against singular value decompositions."""

import inspect
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import SGD, AdamW, Muon

from lightning_optreg.optimizers import FilterMuon
from lightning_optreg.optimizers.filter_muon import orthogonalized
from lightning_optreg.optimizers.param_groups import param_groups

both_paths = pytest.mark.parametrize("foreach", [False, True])


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


# ---- the iteration -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(8, 8), (5, 40), (40, 5), (3, 16, 30), (64, 576)], ids=str)
def test_singular_values_get_near_1_and_directions_stay(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    g = random(*shape)
    u, s, vh = torch.linalg.svd(g, full_matrices=False)
    s = s / s.norm(dim=-1, keepdim=True)
    matrices = u @ torch.diag_embed(s.clamp(min=2e-3)) @ vh  # as its docstring has it
    exact = u.mT @ orthogonalized(matrices.to(dtype)).double() @ vh.mT
    values = exact.diagonal(dim1=-2, dim2=-1)
    slack = {torch.float64: 0.0, torch.float32: 1e-4, torch.bfloat16: 0.15}[dtype]
    assert values.min() > 0.68 - slack
    assert values.max() < 1.21 + slack
    rest = exact - torch.diag_embed(values)
    assert rest.abs().max() < {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.2}[dtype]


def test_the_range_that_the_docstring_gives() -> None:
    """Of one singular value beside another that makes up the norm."""
    values = torch.logspace(-2.69, -0.01, 3000, dtype=torch.float64)
    others = (1 - values.square()).sqrt()
    after = torch.linalg.svdvals(orthogonalized(torch.diag_embed(torch.stack((values, others), 1))))
    assert 0.68 < after.min() < 0.685
    assert 1.2 < after.max() < 1.21


def test_scale_and_zeros() -> None:
    g = random(4, 7)
    torch.testing.assert_close(orthogonalized(1e6 * g), orthogonalized(g))
    assert not orthogonalized(torch.zeros(3, 5)).any()


# ---- the step ----------------------------------------------------------------------------------------------


def steps(theta: Tensor, optimizer: Any, count: int = 6) -> Tensor:
    for k in range(count):
        theta.grad = random(*theta.shape, seed=100 + k, dtype=theta.dtype) + 0.1 * theta.detach()
        optimizer.step()
    return theta.detach()


def pair(
    shape: tuple[int, ...], ours: dict[str, Any], theirs: Any, dtype: Any = torch.float32
) -> list[Tensor]:
    start = random(*shape, dtype=dtype)
    found = []
    for make in (partial(FilterMuon, **ours), theirs):
        theta = start.clone().requires_grad_()
        found.append(steps(theta, make([theta])))
    return found


@both_paths
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("scale", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (7, 7)], ids=str)
def test_matrices_take_the_step_of_torchs_muon(
    shape: tuple[int, int], scale: str, nesterov: bool, foreach: bool
) -> None:
    """To the roundings of bfloat16, in which torch's always computes."""
    settings = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.3, "nesterov": nesterov, "adjust_lr_fn": scale}
    muon = partial(Muon, **settings)
    ours, theirs = pair(shape, {**settings, "bfloat16": True, "foreach": foreach}, muon)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.01)
    ours, theirs = pair(shape, {**settings, "foreach": foreach}, muon)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.03)


def test_one_matrix_is_torchs_to_float32s_roundings() -> None:
    ours, theirs = pair(
        (6, 10), {"bfloat16": True, "foreach": False}, partial(Muon, lr=0.02, weight_decay=0.0)
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


@both_paths
@pytest.mark.parametrize(
    ("scale", "factor"), [("original", 2.0), ("match_rms_adamw", 0.2 * 8**0.5), ("spectral_unclamped", 2.0)]
)
def test_scale_of_the_step(scale: Any, factor: float, foreach: bool) -> None:
    theta = torch.zeros(8, 2, requires_grad=True)
    theta.grad = random(8, 2, dtype=torch.float32)
    FilterMuon([theta], lr=1.0, adjust_lr_fn=scale, foreach=foreach).step()
    torch.testing.assert_close(theta.detach(), -factor * orthogonalized(theta.grad))
    wide = torch.zeros(2, 8, requires_grad=True)
    wide.grad = theta.grad.mT
    FilterMuon([wide], lr=1.0, adjust_lr_fn=scale, foreach=foreach).step()
    factor = {"original": 1.0, "spectral_unclamped": 0.5}.get(scale, factor)
    torch.testing.assert_close(wide.detach(), -factor * orthogonalized(wide.grad))


@both_paths
@pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels last"]
)
def test_a_filter_is_a_matrix(layout: torch.memory_format, foreach: bool) -> None:
    start = random(6, 3, 2, 2)
    matrix = start.flatten(1).clone().requires_grad_()
    theta = start.to(memory_format=layout).requires_grad_()
    of_matrix = FilterMuon([matrix], weight_decay=0.1, foreach=foreach)
    of_filter = FilterMuon([theta], weight_decay=0.1, foreach=foreach)
    for k in range(4):
        matrix.grad = random(6, 12, seed=k)
        theta.grad = random(6, 12, seed=k).view(6, 3, 2, 2).to(memory_format=layout)
        of_matrix.step()
        of_filter.step()
    torch.testing.assert_close(theta.detach().flatten(1), matrix.detach(), rtol=1e-12, atol=1e-12)
    assert theta.is_contiguous(memory_format=layout)
    assert of_filter.state[theta]["momentum_buffer"].is_contiguous(memory_format=layout)


@both_paths
@pytest.mark.parametrize("group", [{"use_muon": False}, {}], ids=["a matrix left out", "a bias"])
def test_all_others_take_adamws_step(group: dict[str, Any], foreach: bool) -> None:
    shape = (4, 3) if group else (5,)
    settings = {"betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.2}
    ours = {"lr": 0.1, "others_factor": 0.3, "foreach": foreach, **settings, **group}
    torch.testing.assert_close(*pair(shape, ours, partial(AdamW, lr=0.03, **settings), torch.float64))


@both_paths
@pytest.mark.parametrize("nesterov", [False, True])
def test_or_that_of_sgd(nesterov: bool, foreach: bool) -> None:
    """Its weight decay is coupled in torch, and is left out here."""
    settings = {"momentum": 0.7, "nesterov": nesterov}
    ours = {"lr": 0.1, "others": "sgd", "others_factor": 0.5, "foreach": foreach, **settings}
    torch.testing.assert_close(*pair((5,), ours, partial(SGD, lr=0.05, **settings), torch.float64))


@both_paths
@pytest.mark.parametrize("others", ["adamw", "sgd"])
@pytest.mark.parametrize("shape", [(4, 3), (5,)], ids=str)
def test_weight_decay_is_decoupled(shape: tuple[int, ...], others: Any, foreach: bool) -> None:
    """The step is the same, from a parameter that was shrunk."""
    rate = 0.1 if len(shape) > 1 else 0.1 * 0.5
    ends = []
    for decay in (0.0, 0.4):
        theta = random(*shape).mul(1 - rate * (0.4 - decay)).requires_grad_()
        theta.grad = random(*shape, seed=1)
        FilterMuon(
            [theta], lr=0.1, weight_decay=decay, others=others, others_factor=0.5, foreach=foreach
        ).step()
        ends.append(theta.detach())
    torch.testing.assert_close(*ends)


@both_paths
def test_a_mixed_network(foreach: bool) -> None:
    """Matrices of one shape are computed together, and each keeps to its own gradient."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3, bias=False),
        nn.Conv2d(4, 4, 3, bias=False),
        nn.Flatten(),
        nn.Linear(4, 4),
    )
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = FilterMuon(param_groups(net, no_decay=True), lr=0.1, weight_decay=0.5, foreach=foreach)
    net(torch.randn(8, 3, 7, 7)).square().sum().backward()
    optimizer.step()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        if parameter.dim() > 1:
            g = parameter.grad.flatten(1)
            step = 0.1 * max(1.0, g.size(0) / g.size(1)) ** 0.5 * orthogonalized(g).view_as(parameter)
            expected = (1 - 0.1 * 0.5) * before[name] - step
            torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-4, msg=name)
        else:  # AdamW's first step is its rate in the gradient's direction
            step = (parameter.detach() - before[name]).abs().max()
            torch.testing.assert_close(step, torch.tensor(0.0015), rtol=1e-2, atol=0.0)


def test_a_step_that_a_scaler_skips_changes_nothing() -> None:
    theta = random(4, 3, dtype=torch.float32).requires_grad_()
    before = theta.detach().clone()
    optimizer = FilterMuon([theta])
    scaler = GradScaler("cpu")
    scaler.scale((theta * float("inf")).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(theta.detach(), before)
    assert not optimizer.state


def test_settings_have_torchs_names() -> None:
    ours = inspect.signature(FilterMuon).parameters
    shared = {"lr", "weight_decay", "momentum", "nesterov", "ns_steps", "adjust_lr_fn"}
    assert shared <= ours.keys() & inspect.signature(Muon).parameters.keys()
