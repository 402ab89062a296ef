"""Gradients that are late because other workers have stepped since the parameters were read."""

from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer

from lightning_optreg.optimizers import AdaDelay, AdaptiveRevision
from lightning_optreg.parallel.late_step import Read, note_read

__all__ = ["Delays", "knows_delays"]


def knows_delays(optimizer: Optimizer) -> bool:
    """Return whether an optimizer's step depends on how late its gradients are."""
    return isinstance(optimizer, (AdaDelay, AdaptiveRevision))


class Delays:
    """Tells optimizers how late their gradients are.

    A worker reads the parameters when it begins the first forward pass since its last step. The delay is
    known only once the gradients are there, within the optimizer's step; hence a hook before it, which calls
    the closure.

    Args:
        optimizers: Those that know delays get a hook.
        updates: Returns how many steps all workers have made.
    """

    def __init__(self, optimizers: Sequence[Optimizer], updates: Callable[[], int]) -> None:
        self.updates = updates
        self._reads: dict[Optimizer, Read] = {}
        self._optimizers = [optimizer for optimizer in optimizers if knows_delays(optimizer)]
        self._hooks = [optimizer.register_step_pre_hook(self._before) for optimizer in self._optimizers]

    def note_reads(self) -> None:
        """Note that the worker reads the parameters now."""
        for optimizer in self._optimizers:
            if optimizer not in self._reads:
                self._reads[optimizer] = note_read(optimizer, self.updates())

    def remove(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()

    def _before(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if len(args) > 1:  # the optimizer and the closure
            args, kwargs = args[:1], {**kwargs, "closure": args[1]}
        closure = kwargs.get("closure")
        if closure is not None:
            loss = closure()
            kwargs = {**kwargs, "closure": lambda: loss}
        read = self._reads.pop(optimizer, None)
        if read is None:
            return args, kwargs
        updates = self.updates()
        if isinstance(optimizer, AdaDelay):
            for group in optimizer.param_groups:
                group["steps"] = updates  # t counts the steps of all
            return args, {**kwargs, "delay": updates - read.updates}
        return args, {**kwargs, "gbar_old": read.gbar}
