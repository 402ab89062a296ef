"""The settings of rules with momentum."""

from torch.optim.optimizer import ParamsT
from typing_extensions import override

from lightning_optreg._checks import check_range
from lightning_optreg.optimizers.update_rule import Group, UpdateRule

__all__ = ["Momentum"]


class Momentum(UpdateRule):
    """A rule with a momentum in [0, 1)."""

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults, maximize=maximize, foreach=foreach, differentiable=differentiable)

    @override
    def check_group(self, group: Group) -> None:
        """Refuse a momentum that is out of range."""
        check_range(type(self).__name__, "[0, 1)", momentum=group["momentum"])
