"""Run an action right after every step of the optimizers, even if they are replaced."""

from collections.abc import Callable

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

__all__ = ["StepHooks"]


class StepHooks:
    """Call an action after each step of the optimizers it is attached to.

    Lightning has no such hook. torch has one, which is not called when a gradient scaler skips a step.

    Args:
        action: Called with the optimizer that has stepped.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.tensor([0.5, 3.0]))
        >>> hooks = StepHooks(lambda optimizer: weight.data.clamp_(max=1.0))
        >>> optimizer = torch.optim.SGD([weight], lr=0.1)
        >>> hooks.attach(optimizer)
        >>> optimizer.step()
        >>> weight.data
        tensor([0.5000, 1.0000])
        >>> hooks.close()
    """

    def __init__(self, action: Callable[[Optimizer], object]) -> None:
        self._action = action
        self._handles: dict[Optimizer, RemovableHandle] = {}

    def attach(self, optimizer: Optimizer) -> None:
        """Act after this optimizer's steps, including the current one; repeated calls have no effect."""
        if optimizer not in self._handles:
            self._handles[optimizer] = optimizer.register_step_post_hook(
                lambda stepped, args, kwargs: self._act(stepped)
            )

    def _act(self, optimizer: Optimizer) -> None:
        self._action(optimizer)

    def close(self) -> None:
        """Remove the hooks from all optimizers."""
        for handle in self._handles.values():
            handle.remove()
        self._handles.clear()
