"""Adam, AMSGrad and NAdam as written in the lecture; each class notes where torch's differs.

Kingma and Ba 2015, "Adam: A Method for Stochastic Optimization" (arXiv:1412.6980); Reddi, Kale and Kumar
2018, "On the Convergence of Adam and Beyond" (arXiv:1904.09237); Dozat 2016, "Incorporating Nesterov Momentum
into Adam".
"""

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import override

from lightning_optreg.optimizers._blocks import in_blocks
from lightning_optreg.optimizers._moments import Moments, by_step
from lightning_optreg.optimizers.rates import add_quotients_, rate_of
from lightning_optreg.optimizers.update_rule import Group, State, States, Tensors, zeros

__all__ = ["LectureAMSGrad", "LectureAdam", "LectureNAdam"]


class _WithTwoMoments(Moments):
    """Base of the classes below: their settings and both moments."""

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults, maximize=maximize, foreach=foreach, differentiable=differentiable)

    @override
    def start_state(self, group: Group, parameter: Tensor) -> State:
        """Begin both moments at 0."""
        return {"step": 0, **zeros(parameter, "exp_avg", "exp_avg_sq")}


def _average(m: Tensor, v: Tensor, g: Tensor, betas: tuple[float, float]) -> None:
    """Set m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2."""
    beta1, beta2 = betas
    m.lerp_(g, 1 - beta1)
    v.mul_(beta2).add_((1 - beta2) * g * g)


def _average_lists(m: Tensors, v: Tensors, g: Tensors, betas: tuple[float, float]) -> None:
    """Do the same to lists."""
    beta1, beta2 = betas
    torch._foreach_lerp_(m, g, 1 - beta1)
    torch._foreach_mul_(v, beta2)
    torch._foreach_addcmul_(v, g, g, value=1 - beta2)


class LectureAdam(_WithTwoMoments):
    """Adam with epsilon inside the root: theta = theta - eta / sqrt(v_hat + epsilon) m_hat.

    m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2, m_hat = m / (1 - beta1^t) and
    v_hat = v / (1 - beta2^t). This is the form of the lecture's table of methods. Its equation, the paper and
    `torch.optim.Adam` divide by sqrt(v_hat) + epsilon. Inside the root, epsilon bounds the divisor by
    sqrt(epsilon), 1e-4 at the default: gradients far below that make steps in proportion to them.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate eta, at least 0. Default: 0.001.
        betas: beta1 and beta2, decay rates of the moments, in [0, 1). Default: (0.9, 0.999).
        eps: epsilon, at least 0. Default: 1e-8.
        weight_decay: Factor lambda of the L2 term lambda/2 |theta|^2, at least 0 (coupled). Default: 0.
        maximize: Climb instead of descend.
        foreach: Use multi-tensor operations. None means yes, unless `differentiable`.
        differentiable: Let gradients flow through the step.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> theta = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = LectureAdam([theta], lr=0.5, eps=12.0)
        >>> theta.square().sum().backward()
        >>> optimizer.step()  # 1 - 0.5 * 2 / sqrt(4 + 12)
        >>> theta
        tensor([0.7500], requires_grad=True)
    """

    @override
    def update_tensor(self, group: Group, parameter: Tensor, gradient: Tensor, state: State) -> None:
        """Set theta = theta - eta / sqrt(v_hat + epsilon) m_hat."""
        (beta1, beta2), m, v = group["betas"], state["exp_avg"], state["exp_avg_sq"]
        state["step"] += 1
        of_m, of_v = 1 - beta1 ** state["step"], 1 - beta2 ** state["step"]
        _average(m, v, gradient, group["betas"])
        parameter.sub_(rate_of(group) * (m / of_m / (v / of_v + group["eps"]).sqrt()))

    @override
    def update_tensors(self, group: Group, parameters: Tensors, gradients: Tensors, states: States) -> None:
        (beta1, beta2), lr = group["betas"], rate_of(group)
        for t, (thetas, gs, same) in by_step(parameters, gradients, states):
            of_m, of_v = 1 - beta1**t, 1 - beta2**t
            kept = ([state[name] for state in same] for name in ("exp_avg", "exp_avg_sq"))
            for theta, g, m, v in in_blocks(thetas, gs, *kept):
                _average_lists(m, v, g, group["betas"])
                root = torch._foreach_div(v, of_v)
                torch._foreach_add_(root, group["eps"])
                torch._foreach_sqrt_(root)
                add_quotients_(theta, m, root, -lr / of_m)


class LectureAMSGrad(_WithTwoMoments):
    """AMSGrad: theta = theta - eta m / (sqrt(v_hat) + epsilon), where v_hat is the largest v so far.

    m = beta1 m + (1 - beta1) g and v = beta2 v + (1 - beta2) g^2 are not corrected for their start at 0.
    `torch.optim.Adam(amsgrad=True)` corrects both: m by 1 - beta1^t, the largest v by 1 - beta2^t of the
    step being made.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate eta, at least 0. Default: 0.001.
        betas: beta1 and beta2, decay rates of the moments, in [0, 1). Default: (0.9, 0.999).
        eps: epsilon, at least 0. Default: 1e-8.
        weight_decay: Factor lambda of the L2 term lambda/2 |theta|^2, at least 0 (coupled). Default: 0.
        maximize: Climb instead of descend.
        foreach: Use multi-tensor operations. None means yes, unless `differentiable`.
        differentiable: Let gradients flow through the step.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> theta = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = LectureAMSGrad([theta], lr=0.25, betas=(0.5, 0.75), eps=0.0)
        >>> theta.square().sum().backward()
        >>> optimizer.step()  # 1 - 0.25 * (0.5 * 2) / sqrt(0.25 * 4)
        >>> theta
        tensor([0.7500], requires_grad=True)
    """

    @override
    def start_state(self, group: Group, parameter: Tensor) -> State:
        """Begin m, v and the largest v at 0."""
        return zeros(parameter, "exp_avg", "exp_avg_sq", "max_exp_avg_sq")

    @override
    def update_tensor(self, group: Group, parameter: Tensor, gradient: Tensor, state: State) -> None:
        """Set theta = theta - eta m / (sqrt(v_hat) + epsilon)."""
        m, v, largest = (state[name] for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"))
        _average(m, v, gradient, group["betas"])
        largest.copy_(torch.where(v > largest, v, largest))
        direction = m.clone() / (largest.sqrt() + group["eps"])  # a graph keeps what it divides
        parameter.sub_(rate_of(group) * direction)

    @override
    def update_tensors(self, group: Group, parameters: Tensors, gradients: Tensors, states: States) -> None:
        names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
        kept = ([state[name] for state in states] for name in names)
        for theta, g, m, v, largest in in_blocks(parameters, gradients, *kept):
            _average_lists(m, v, g, group["betas"])
            torch._foreach_maximum_(largest, v)
            root = torch._foreach_sqrt(largest)
            torch._foreach_add_(root, group["eps"])
            add_quotients_(theta, m, root, -rate_of(group))


class LectureNAdam(_WithTwoMoments):
    """NAdam: theta = theta - eta / (sqrt(v_hat) + epsilon) (beta1 m_hat + (1 - beta1) / (1 - beta1^t) g).

    m_hat = m / (1 - beta1^t) and v_hat = v / (1 - beta2^t) are Adam's corrected moments. This is the form
    with a constant beta1, which Ruder 2016 (arXiv:1609.04747) and the lecture derive. `torch.optim.NAdam`
    has Dozat's mu_t = beta1 (1 - 0.96^(0.004 t) / 2) for it, and corrects m by the mu of the step to come.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate eta, at least 0. Default: 0.002.
        betas: beta1 and beta2, decay rates of the moments, in [0, 1). Default: (0.9, 0.999).
        eps: epsilon, at least 0. Default: 1e-8.
        weight_decay: Factor lambda of the L2 term lambda/2 |theta|^2, at least 0 (coupled). Default: 0.
        maximize: Climb instead of descend.
        foreach: Use multi-tensor operations. None means yes, unless `differentiable`.
        differentiable: Let gradients flow through the step.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> theta = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = LectureNAdam([theta], lr=0.25, betas=(0.5, 0.75), eps=0.0)
        >>> theta.square().sum().backward()
        >>> optimizer.step()  # 1 - 0.25 / 2 * (0.5 * 2 + 0.5 / 0.5 * 2)
        >>> theta
        tensor([0.6250], requires_grad=True)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.002,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            maximize=maximize,
            foreach=foreach,
            differentiable=differentiable,
        )

    @override
    def update_tensor(self, group: Group, parameter: Tensor, gradient: Tensor, state: State) -> None:
        """Set theta = theta - eta / (sqrt(v_hat) + epsilon) (beta1 m_hat + (1 - beta1) / (1 - beta1^t) g)."""
        (beta1, beta2), m, v = group["betas"], state["exp_avg"], state["exp_avg_sq"]
        state["step"] += 1
        of_m, of_v = 1 - beta1 ** state["step"], 1 - beta2 ** state["step"]
        _average(m, v, gradient, group["betas"])
        direction = beta1 * m / of_m + (1 - beta1) / of_m * gradient
        parameter.sub_(rate_of(group) * direction / ((v / of_v).sqrt() + group["eps"]))

    @override
    def update_tensors(self, group: Group, parameters: Tensors, gradients: Tensors, states: States) -> None:
        (beta1, beta2), lr = group["betas"], rate_of(group)
        for t, (thetas, gs, same) in by_step(parameters, gradients, states):
            of_m, of_v = 1 - beta1**t, 1 - beta2**t
            kept = ([state[name] for state in same] for name in ("exp_avg", "exp_avg_sq"))
            for theta, g, m, v in in_blocks(thetas, gs, *kept):
                _average_lists(m, v, g, group["betas"])
                root = torch._foreach_sqrt(v)
                torch._foreach_div_(root, of_v**0.5)
                torch._foreach_add_(root, group["eps"])
                add_quotients_(theta, m, root, -lr * beta1 / of_m)
                add_quotients_(theta, g, root, -lr * (1 - beta1) / of_m)
