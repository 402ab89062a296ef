"""Muon for networks with filters, whose momentum it makes orthogonal; what is no matrix takes another step.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"
(https://kellerjordan.github.io/posts/muon/). torch's `Muon` is for matrices only.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import override

from lightning_optreg._checks import check_choice, check_range
from lightning_optreg.optimizers._moments import Moments, by_step
from lightning_optreg.optimizers.rates import add_quotients_, add_scaled_, rate_of
from lightning_optreg.optimizers.update_rule import Group, State, States, Tensors, zeros

__all__ = ["FilterMuon", "orthogonalized"]

_A, _B, _C = 3.4445, -4.7750, 2.0315
_LEAST = 1e-7  # norm by which a gradient of zeros is divided


def orthogonalized(matrices: Tensor, steps: int = 5) -> Tensor:
    """Replace the singular values of matrices by numbers near 1, with the quintic Newton-Schulz iteration.

    X = G / |G|, then `steps` times X = a X + (b X X^T + c (X X^T)^2) X, a, b, c = 3.4445, -4.7750, 2.0315.
    For G = U S V^T it is near U V^T: with 5 steps, singular values of at least 0.2 % of the Frobenius norm
    |G| get between 0.68 and 1.21.

    Args:
        matrices: One or several, (..., m, n), of any floating type, in which is computed.
        steps: Number of steps, at least 1. Default: 5.

    Example:
        >>> orthogonalized(torch.tensor([[3.0, 0.0], [0.0, -1.0]])).diagonal().round(decimals=1)
        tensor([ 0.8000, -1.1000])
    """
    is_tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if is_tall else matrices
    x = x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=_LEAST)
    plus_product = torch.addmm if x.dim() == 2 else torch.baddbmm
    for _ in range(steps):
        gram = x @ x.mT
        x = plus_product(x, plus_product(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x.mT if is_tall else x


class FilterMuon(Moments):
    """Muon: a momentum of matrices and filters, made orthogonal; AdamW or SGD for all other parameters.

    A parameter (O, ...) with at least two dimensions, as a filter (O, I, h, w), is seen as a matrix of O rows
    and n columns. With g its gradient, beta the momentum and Newton-Schulz NS as in `orthogonalized`:

        b = beta b + (1 - beta) g,   u = (1 - beta) g + beta b   (without Nesterov: u = b)
        theta = (1 - eta lambda) theta - eta s NS(u)

    s is sqrt(max(1, O/n)) ("original"), 0.2 sqrt(max(O, n)) ("match_rms_adamw", whose steps are as long as
    AdamW's: Liu et al. 2025, "Muon is scalable for LLM training", arXiv:2502.16982) or sqrt(O/n)
    ("spectral_unclamped"), by torch's names. Biases, normalisation layers and the parameters of groups with
    `use_muon: False` take AdamW's step or that of SGD with momentum, at the rate `others_factor` eta. The
    source leaves the first and the last layer to it, for which you make such a group. Weight decay is
    decoupled in all three.

    Matrices of one shape are orthogonalised together. A network of wide layers is for a GPU: there the
    iteration computes in bfloat16, as torch's, and on a CPU, where that is often slow, in float32.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate eta of matrices, at least 0. Default: 0.02.
        momentum: beta, in [0, 1). Default: 0.95.
        nesterov: Whether the momentum is Nesterov's. Default: True.
        weight_decay: lambda, at least 0; theta shrinks by the factor 1 - eta lambda. Default: 0.
        adjust_lr_fn: How s depends on the shape. Default: "original".
        ns_steps: Steps of the iteration, at least 1. Default: 5.
        use_muon: False: all parameters of the group take the other update. Default: True.
        others: "adamw", or "sgd" for b = beta b + g, theta = theta - rate (g + beta b), without Nesterov
            theta - rate b. Default: "adamw".
        others_factor: Their rate as a multiple of eta, at least 0. Default: 0.015, for AdamW's 0.0003.
        betas: Decays of AdamW's moments, each in [0, 1). Default: 0.9 and 0.95.
        eps: Added to the root of AdamW's second moment, at least 0. Default: 1e-8.
        bfloat16: Whether the iteration computes in bfloat16. None: except on CPUs and for float64.
        maximize: Climb instead of descend. Default: False.
        foreach: Use multi-tensor operations; None: yes.

    Shapes:
        Any; a filter's gradient may be in the channels-last layout.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> theta = torch.zeros(2, 1, 1, 2, requires_grad=True)
        >>> optimizer = FilterMuon([theta], lr=0.1, momentum=0.0)
        >>> (theta.flatten() * torch.tensor([3.0, 0.0, 0.0, -1.0])).sum().backward()
        >>> optimizer.step()  # of nearly 0.1 in both directions
        >>> theta.detach().view(2, 2).diagonal().round(decimals=2)
        tensor([-0.0800,  0.1100])
    """

    decouples_weight_decay = True

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        adjust_lr_fn: Literal["original", "match_rms_adamw", "spectral_unclamped"] = "original",
        ns_steps: int = 5,
        use_muon: bool = True,
        others: Literal["adamw", "sgd"] = "adamw",
        others_factor: float = 0.015,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        bfloat16: bool | None = None,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "adjust_lr_fn": adjust_lr_fn,
            "ns_steps": ns_steps,
            "use_muon": use_muon,
            "others": others,
            "others_factor": others_factor,
            "betas": betas,
            "eps": eps,
            "bfloat16": bfloat16,
        }
        super().__init__(params, defaults, maximize=maximize, foreach=foreach)

    @override
    def check_group(self, group: Group) -> None:
        """Refuse settings that are out of range."""
        super().check_group(group)
        check_range("FilterMuon", "[0, 1)", momentum=group["momentum"])
        check_range("FilterMuon", ">= 1", ns_steps=group["ns_steps"])
        check_range("FilterMuon", "[0, inf)", others_factor=group["others_factor"])
        check_choice("FilterMuon", tuple(_SCALES), adjust_lr_fn=group["adjust_lr_fn"])
        check_choice("FilterMuon", ("adamw", "sgd"), others=group["others"])

    @override
    def start_state(self, group: Group, parameter: Tensor) -> State:
        """Begin momentum, or AdamW's moments, at 0."""
        if _is_matrix(group, parameter) or group["others"] == "sgd":
            return zeros(parameter, "momentum_buffer")
        return {"step": 0, **zeros(parameter, "exp_avg", "exp_avg_sq")}

    @override
    def update_tensor(self, group: Group, parameter: Tensor, gradient: Tensor, state: State) -> None:
        """Take one of the three steps."""
        beta, rate = group["momentum"], rate_of(group)
        is_matrix = _is_matrix(group, parameter)
        if not is_matrix:
            rate = rate * group["others_factor"]
        parameter.mul_(1 - rate * group["weight_decay"])
        if is_matrix:
            b = state["momentum_buffer"].lerp_(gradient, 1 - beta)
            u = gradient.lerp(b, beta) if group["nesterov"] else b
            matrix = orthogonalized(_computed_in(group, u.flatten(1)), group["ns_steps"])
            parameter.sub_(rate * _scale(group, matrix.shape) * matrix.view(u.shape).to(u.dtype))
        elif group["others"] == "sgd":
            b = state["momentum_buffer"].mul_(beta).add_(gradient)
            parameter.sub_(rate * (gradient + beta * b if group["nesterov"] else b))
        else:
            (beta1, beta2), m, v = group["betas"], state["exp_avg"], state["exp_avg_sq"]
            state["step"] += 1
            m.lerp_(gradient, 1 - beta1)
            v.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            divisor = (v / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
            parameter.sub_(rate / (1 - beta1 ** state["step"]) * (m / divisor))

    @override
    def update_tensors(self, group: Group, parameters: Tensors, gradients: Tensors, states: States) -> None:
        kinds = [_is_matrix(group, parameter) for parameter in parameters]
        for is_matrix in (True, False):
            theta = [
                parameter for parameter, kind in zip(parameters, kinds, strict=True) if kind is is_matrix
            ]
            g = [gradient for gradient, kind in zip(gradients, kinds, strict=True) if kind is is_matrix]
            kept = [state for state, kind in zip(states, kinds, strict=True) if kind is is_matrix]
            if not theta:
                continue
            rate = rate_of(group) if is_matrix else rate_of(group) * group["others_factor"]
            if group["weight_decay"] != 0.0:
                add_scaled_(theta, theta, -rate * group["weight_decay"])
            if is_matrix:
                _step_matrices(group, rate, theta, g, kept)
            elif group["others"] == "sgd":
                _step_sgd(group, rate, theta, g, kept)
            else:
                _step_adamw(group, rate, theta, g, kept)


def _step_matrices(
    group: Group, rate: float | Tensor, parameters: Tensors, gradients: Tensors, states: States
) -> None:
    b = [state["momentum_buffer"] for state in states]
    torch._foreach_lerp_(b, gradients, 1 - group["momentum"])
    u = torch._foreach_lerp(gradients, b, group["momentum"]) if group["nesterov"] else b
    same: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, each in enumerate(u):
        same[each.shape].append(place)
    for shape, places in same.items():
        stacked = torch.stack([u[place].flatten(1) for place in places])
        matrices = orthogonalized(_computed_in(group, stacked), group["ns_steps"]).to(stacked.dtype)
        directions = [matrix.view(shape) for matrix in matrices.unbind()]
        add_scaled_(
            [parameters[place] for place in places], directions, -rate * _scale(group, matrices.shape)
        )


def _step_sgd(
    group: Group, rate: float | Tensor, parameters: Tensors, gradients: Tensors, states: States
) -> None:
    b = [state["momentum_buffer"] for state in states]
    torch._foreach_mul_(b, group["momentum"])
    torch._foreach_add_(b, gradients)
    directions = torch._foreach_add(gradients, b, alpha=group["momentum"]) if group["nesterov"] else b
    add_scaled_(parameters, directions, -rate)


def _step_adamw(
    group: Group, rate: float | Tensor, parameters: Tensors, gradients: Tensors, states: States
) -> None:
    beta1, beta2 = group["betas"]
    for t, (theta, g, same) in by_step(parameters, gradients, states):
        m, v = [state["exp_avg"] for state in same], [state["exp_avg_sq"] for state in same]
        torch._foreach_lerp_(m, g, 1 - beta1)
        torch._foreach_mul_(v, beta2)
        torch._foreach_addcmul_(v, g, g, value=1 - beta2)
        divisors = torch._foreach_div(v, 1 - beta2**t)
        torch._foreach_sqrt_(divisors)
        torch._foreach_add_(divisors, group["eps"])
        add_quotients_(theta, m, divisors, -rate / (1 - beta1**t))


_SCALES: dict[str, Callable[[int, int], float]] = {
    "original": lambda rows, columns: math.sqrt(max(1.0, rows / columns)),
    "match_rms_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
    "spectral_unclamped": lambda rows, columns: math.sqrt(rows / columns),
}


def _scale(group: Group, shape: Sequence[int]) -> float:
    rows, columns = shape[-2:]
    return _SCALES[group["adjust_lr_fn"]](rows, columns)


def _is_matrix(group: Group, parameter: Tensor) -> bool:
    return bool(group["use_muon"]) and parameter.dim() >= 2


def _computed_in(group: Group, matrices: Tensor) -> Tensor:
    """Cast matrices to the type in which the iteration computes."""
    coarse = group["bfloat16"]
    if coarse is None:
        coarse = matrices.device.type != "cpu" and matrices.dtype != torch.float64
    if coarse:
        return matrices.bfloat16()
    return matrices if matrices.dtype == torch.float64 else matrices.float()
