"""The inputs with which torch tests its own optimizers, run on ours."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_optreg import optimizers
from tests.contracts.optimizers import FIRST_ORDER

# Not public, and not in every installation: it needs the package expecttest, which the dev extra brings.
common = pytest.importorskip(
    "torch.testing._internal.common_optimizers",
    reason="torch.testing._internal.common_optimizers does not import here",
    exc_type=ImportError,
)
# Its import forbids the whole process to set the flags of torch.backends, as Trainer(benchmark=True) does.
torch.backends.flags_frozen.__globals__["__allow_nonbracketed_mutation_flag"] = True

THEIRS = ("SGD", "Adam", "Adagrad", "RMSprop", "Adadelta", "Adamax", "NAdam")


def inputs() -> list[Any]:
    """Our optimizers with each setting of torch's tests that they have too."""
    cases = {}
    for info in common.optim_db:
        if info.optim_cls.__name__ not in THEIRS:
            continue
        for given in info.optim_inputs_func(device="cpu"):
            for name in FIRST_ORDER:
                known = inspect.signature(getattr(optimizers, name)).parameters
                if given.kwargs and given.kwargs.keys() <= known.keys():
                    settings = sorted(given.kwargs.items())
                    cases[f"{name}-{settings}"] = pytest.param(name, given.kwargs, id=f"{name}-{settings}")
    return list(cases.values())


def train(name: str, settings: dict[str, Any], **more: Any) -> list[Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    x, y = torch.randn(16, 4).double(), torch.randn(16, 2).double()
    optimizer = getattr(optimizers, name)(
        net.parameters(), **{**FIRST_ORDER[name].arguments, **settings, **more}
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(x), y)
        loss.backward()
        return loss

    for _ in range(10):
        optimizer.step(closure)
    return [parameter.detach() for parameter in net.parameters()]


@pytest.mark.parametrize(("name", "settings"), inputs())
def test_settings(name: str, settings: dict[str, Any]) -> None:
    """Both paths take them, agree, and move every parameter."""
    plain, lists = train(name, settings, foreach=False), train(name, settings, foreach=True)
    torch.testing.assert_close(plain, lists, rtol=1e-12, atol=1e-12)
    torch.manual_seed(0)
    start = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    assert all(not torch.equal(a, b) for a, b in zip(plain, start.parameters(), strict=True))
    assert all(parameter.isfinite().all() for parameter in plain)


def test_some_settings_are_run() -> None:
    assert len(inputs()) >= 3 * len(FIRST_ORDER)


ERRORS = common.get_error_inputs_for_all_optims("cpu", torch.float32)


@pytest.mark.parametrize("name", FIRST_ORDER)
@pytest.mark.parametrize("case", ERRORS, ids=lambda case: case.optimizer_error_input.desc)
def test_errors(name: str, case: Any) -> None:
    given = case.optimizer_error_input
    make = getattr(optimizers, name)
    known = inspect.signature(make).parameters
    settings = {key: value for key, value in given.kwargs.items() if key in known}
    params = [nn.Parameter(torch.ones(1))] if given.params is None else given.params
    if isinstance(params, list):  # an optimizer writes its defaults into groups, which all cases share
        params = [dict(part) if isinstance(part, dict) else part for part in params]
    if issubclass(case.error_type, Warning):
        with pytest.warns(case.error_type, match=case.error_regex):
            make(params, **settings)
    else:
        with pytest.raises(case.error_type, match=case.error_regex):
            make(params, **settings)
