"""SWATS: Adam that turns itself into SGD, when the learning rate that SGD would need has settled.

Keskar and Socher 2017, "Improving generalization performance by switching from Adam to SGD"
(arXiv:1712.07628).
"""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import override

from lightning_optreg._checks import check_range
from lightning_optreg.optimizers._blocks import in_blocks
from lightning_optreg.optimizers._moments import Moments
from lightning_optreg.optimizers.rate_estimate import RateEstimate, inner_product
from lightning_optreg.optimizers.rates import add_scaled_, rate_of
from lightning_optreg.optimizers.update_rule import Group, State, States, Tensors, zeros

__all__ = ["SWATS"]


class SWATS(Moments):
    """Adam until the rate that SGD would need settles, then SGD with momentum at that rate.

    While phi = Adam, with g = grad J(theta) and k the number of steps:

        m = beta1 m + (1 - beta1) g,   a = beta2 a + (1 - beta2) g^2
        p = -alpha sqrt(1 - beta2^j) / (1 - beta1^j) m / (sqrt(a) + eps),   theta = theta + p
        gamma = p.p / -(p.g),   lambda = beta2 lambda + (1 - beta2) gamma,   Lambda = lambda / (1 - beta2^k)
        if k > 1, |Lambda - gamma| < switch_eps and Lambda > 0:  phi = SGD, v = 0

    and while phi = SGD:

        v = beta1 v + g,   theta = theta - (1 - beta1) Lambda v

    j is k, but for a parameter whose first gradient comes later, as of a layer that was frozen: it counts
    from there. The products p.p and p.g are over all parameters of all groups: there is one switch. Groups
    keep the ratios of their rates, before the switch and after it: with r the group's `lr` as a multiple of
    the largest, its part of p.g has the factor r, and its SGD has the rate r Lambda; with one `lr` that is
    the paper's. Schedules continue: SGD's rate changes by the same factors as `lr`. Until the switch, each
    step reads numbers back from the device to decide. Weight decay is coupled: lambda * theta is added
    to g, in both phases, before everything else. Under DDP all ranks decide alike, as their gradients are
    equal; with sharded parameters (FSDP) the products would be of the shards: use it without.

    Differences from the paper: `switch_eps` is a separate setting, since the paper's 1e-9, which is also
    Adam's eps there, is below float32's resolution of a learning rate of 0.01; and Lambda has to be above 0.

    Args:
        params: Parameters, or groups of them.
        lr: Adam's learning rate alpha, at least 0. Default: 0.001.
        betas: Decays of m (and of v after the switch), and of a and lambda, each in [0, 1). Default: 0.9 and
            0.999.
        eps: Added to the root of a, at least 0. Default: 1e-9.
        switch_eps: How near the average of gamma has to come to gamma itself, on the scale of a learning
            rate, at least 0; 0 never switches. Default: 1e-5.
        weight_decay: Factor lambda of the L2 term lambda/2 |theta|^2, at least 0. Default: 0.
        maximize: Climb instead of descend. Default: False.
        foreach: Use multi-tensor operations; None: yes.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> theta = torch.tensor([1.0, -2.0], requires_grad=True)
        >>> optimizer = SWATS([theta], lr=0.1)
        >>> for _ in range(2):
        ...     optimizer.zero_grad()
        ...     theta.square().sum().backward()
        ...     optimizer.step()
        >>> optimizer.phase, theta
        ('adam', tensor([ 0.8004, -1.8002], requires_grad=True))
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-9,
        switch_eps: float = 1e-5,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "switch_eps": switch_eps,
            "weight_decay": weight_decay,
            # What all groups have in common is stored in each: a state_dict has no other place for it.
            "phase": "adam",
            "average": 0.0,
            "steps": 0,
            "sgd_per_lr": 0.0,
        }
        super().__init__(params, defaults, maximize=maximize, foreach=foreach)

    @property
    def phase(self) -> str:
        """Which of "adam" and "sgd" makes the next step."""
        phase: str = self.param_groups[0]["phase"]
        return phase

    @property
    def rate_estimate(self) -> float:
        """Lambda, the rate at which SGD would continue, or continues."""
        first = self.param_groups[0]
        return RateEstimate(first["average"], first["steps"]).rate(beta2=first["betas"][1])

    @override
    def check_group(self, group: Group) -> None:
        """Refuse settings that are out of range."""
        super().check_group(group)
        check_range("SWATS", "[0, inf)", switch_eps=group["switch_eps"])
        first = self.param_groups[0]
        for name in ("betas", "switch_eps"):
            if group[name] != first[name]:
                raise ValueError(f"SWATS: {name} must be the same in all groups, got {group[name]}")
        if group is not first:  # added later: it joins the others' phase
            group.update({name: first[name] for name in ("phase", "average", "steps", "sgd_per_lr")})

    @override
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step, and switch to SGD if the rate has settled."""
        if self.phase == "sgd":
            return super().step(closure)
        self._products: list[Tensor] = []  # of p.p and p.g, on their devices
        self._largest = max(float(group["lr"]) for group in self.param_groups)
        for group in self.param_groups:
            group["steps"] += 1
        loss = super().step(closure)
        self._consider_switch()
        return loss

    @override
    def forget(self) -> None:
        """Start over, with a new estimate of SGD's rate; SGD keeps the rate it has."""
        super().forget()
        if self.phase == "adam":
            for group in self.param_groups:
                group.update(average=0.0, steps=0)

    @override
    def start_state(self, group: Group, parameter: Tensor) -> State:
        """Begin the moments, or after the switch the velocity, at 0."""
        if group["phase"] == "sgd":
            return zeros(parameter, "momentum_buffer")
        return {"step": 0, **zeros(parameter, "exp_avg", "exp_avg_sq")}

    @override
    def update_tensor(self, group: Group, parameter: Tensor, gradient: Tensor, state: State) -> None:
        """Take Adam's step p, or after the switch theta = theta - (1 - beta1) Lambda v."""
        beta1, beta2 = group["betas"]
        if group["phase"] == "sgd":
            v = state["momentum_buffer"].mul_(beta1).add_(gradient)
            parameter.sub_((1 - beta1) * group["sgd_per_lr"] * rate_of(group) * v)
            return
        m, a = state["exp_avg"], state["exp_avg_sq"]
        t = _count(group, state)
        m.lerp_(gradient, 1 - beta1)
        a.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        if group["lr"] == 0.0:
            return
        p = (m / a.sqrt().add_(group["eps"])).mul_(-_adam_rate(group, t))
        parameter.add_(p)
        ratio = float(group["lr"]) / self._largest
        self._products.append(torch.stack((inner_product([p], [p]), ratio * inner_product([p], [gradient]))))

    @override
    def update_tensors(self, group: Group, parameters: Tensors, gradients: Tensors, states: States) -> None:
        beta1 = group["betas"][0]
        if group["phase"] == "sgd":
            v = [state["momentum_buffer"] for state in states]
            torch._foreach_mul_(v, beta1)
            torch._foreach_add_(v, gradients)
            add_scaled_(parameters, v, -(1 - beta1) * group["sgd_per_lr"] * rate_of(group))
            return
        same: dict[int, list[int]] = defaultdict(list)  # places of those that have made as many steps
        for place, state in enumerate(states):
            same[_count(group, state)].append(place)
        for t, places in same.items():
            columns = (
                parameters,
                gradients,
                *([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq")),
            )
            self._step_adam(group, t, *([column[place] for place in places] for column in columns))

    def _step_adam(
        self,
        group: Group,
        t: int,
        parameters: list[Tensor],
        gradients: list[Tensor],
        exp_avgs: list[Tensor],
        exp_avg_sqs: list[Tensor],
    ) -> None:
        beta1, beta2 = group["betas"]
        for theta, g, m, a in in_blocks(parameters, gradients, exp_avgs, exp_avg_sqs):
            torch._foreach_lerp_(m, g, 1 - beta1)
            torch._foreach_mul_(a, beta2)
            torch._foreach_addcmul_(a, g, g, value=1 - beta2)
            if group["lr"] == 0.0:
                continue
            direction = torch._foreach_sqrt(a)
            torch._foreach_add_(direction, group["eps"])
            torch._foreach_reciprocal_(direction)
            torch._foreach_mul_(direction, m)
            rate = _adam_rate(group, t)  # p = -rate * direction
            torch._foreach_add_(theta, direction, alpha=-rate)
            squared, times_gradient = inner_product(direction, direction), inner_product(direction, g)
            ratio = float(group["lr"]) / self._largest
            self._products.append(torch.stack((rate * rate * squared, -rate * ratio * times_gradient)))

    def _consider_switch(self) -> None:
        if not self._products:
            return
        first = self.param_groups[0]
        beta2 = first["betas"][1]
        device = self._products[0].device
        step_squared, step_times_gradient = (
            torch.stack([x.to(device) for x in self._products]).sum(0).tolist()
        )
        self._products.clear()
        estimate = RateEstimate(first["average"], first["steps"] - 1)
        gamma = estimate.update(step_squared, step_times_gradient, beta2=beta2)
        for group in self.param_groups:
            group["average"] = estimate.average
        if not estimate.has_settled(gamma, beta2=beta2, tolerance=first["switch_eps"]):
            return
        for group in self.param_groups:
            group["phase"] = "sgd"
            group["sgd_per_lr"] = estimate.rate(beta2=beta2) / self._largest
        self.state.clear()  # the velocity begins at 0


def _count(group: Group, state: State) -> int:
    """Count a step of Adam; a state saved without a count has made all steps of the group."""
    t: int = state.get("step", group["steps"] - 1) + 1
    state["step"] = t
    return t


def _adam_rate(group: Group, t: int) -> float:
    """Return alpha with the bias corrections of both moments in step t."""
    beta1, beta2 = group["betas"]
    rate: float = float(group["lr"]) * math.sqrt(1 - beta2**t) / (1 - beta1**t)
    return rate
