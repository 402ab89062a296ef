"""The base of the update rules: what a subclass must define."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_optreg.optimizers import UpdateRule


class OneTensor(UpdateRule):
    """A rule without its formula for lists."""

    def update_tensor(self, group: Any, parameter: Tensor, gradient: Tensor, state: Any) -> None:
        parameter.sub_(gradient)


class Both(OneTensor):
    """A whole rule; one of its formulas is inherited."""

    def update_tensors(self, group: Any, parameters: Any, gradients: Any, states: Any) -> None:
        torch._foreach_sub_(parameters, gradients)


@pytest.mark.parametrize(
    ("rule", "missing"),
    [
        (
            UpdateRule,
            "update_tensor(group, parameter, gradient, state) and "
            "update_tensors(group, parameters, gradients, states)",
        ),
        (OneTensor, "update_tensors(group, parameters, gradients, states)"),
    ],
)
def test_a_rule_without_its_formulas_is_refused(rule: Any, missing: str) -> None:
    with pytest.raises(TypeError) as error:
        rule([torch.ones(1)], {"lr": 0.1})
    assert str(error.value) == f"{rule.__name__}: define {missing}"


@pytest.mark.parametrize("foreach", [False, True])
def test_inherited_formulas_count(foreach: bool) -> None:
    theta = torch.tensor([3.0], requires_grad=True)
    theta.grad = torch.ones(1)
    Both([theta], {"lr": 0.1}, foreach=foreach).step()
    assert theta.item() == 2.0
