"""The passes of a network that callbacks request in evaluation, and the average over them.

Several callbacks may vary a network: its input, its weights, its noise. The passes are all combinations of
what they vary, whatever the order of the callbacks.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_optreg.layers.averages import Average, average_outputs
from lightning_optreg.randomness.kept_generators import Generators, same_states

__all__ = ["Passes"]


class Part(Protocol):
    """A callback that varies a network; see `AveragedForward`."""

    @property
    def place(self) -> int: ...
    @property
    def average(self) -> Average: ...
    @property
    def seed(self) -> int: ...

    def inputs(self, images: Tensor) -> Iterator[Tensor]: ...
    def plain(self, images: Tensor) -> Tensor: ...
    def keep(self, outputs: Tensor) -> None: ...
    def begin(self, network: nn.Module) -> None: ...
    def end(self) -> None: ...
    def switch(self, on: bool) -> None: ...
    def own_noise(self) -> Sequence[nn.Module]: ...


class Passes:
    """Replaces each call of a network by the average over the passes of all parts.

    Random numbers of the passes come from separately seeded states of the generators. After a call the
    generators are in the state that a plain call leaves: if the network also draws without the parts, it is
    called once more without them.

    Args:
        network: The network that is called.
        module: The LightningModule, whose layers may have generators of their own.
        parts: The callbacks that vary the network, all with the same average, in any order.
        rank: Rank of this process, added to the seed.
    """

    def __init__(self, network: nn.Module, module: LightningModule, parts: Sequence[Part], rank: int) -> None:
        self.network = network
        self.parts = sorted(parts, key=lambda part: (part.place, type(part).__name__))
        self.name = " and ".join(type(part).__name__ for part in self.parts)
        self._generators = Generators(module.device, module=module)
        self._inner = self._generators.seeded(sum(part.seed for part in self.parts) + rank)
        self._outer: list[Any] | None = None  # set while the generators have the passes' states
        self._mark: list[Any] = []  # their states after the last draw of a layer in `own_noise`
        self._handles: list[RemovableHandle] = []
        self._doing: Literal["nothing", "first pass", "more passes"] = "nothing"
        self._call: tuple[tuple[Any, ...], dict[str, Any]] = (), {}
        self._rest: Iterator[Tensor] = iter(())
        self._counts: list[int] = []
        self._draws_otherwise = False

    def start(self) -> None:
        """Register the hooks."""
        for part in self.parts:
            part.begin(self.network)
            part.switch(False)
        # A compiled network may call them. (torch 2.14 gives `disable` no types.)
        off: Any = torch.compiler.disable
        self._handles = [
            # First before and last after the call: other hooks run in each pass.
            self.network.register_forward_pre_hook(off(self._first), prepend=True, with_kwargs=True),
            self.network.register_forward_hook(off(self._average)),
        ]
        for layer in {id(layer): layer for part in self.parts for layer in part.own_noise()}.values():
            self._handles.append(layer.register_forward_pre_hook(off(self._before_noise), prepend=True))
            self._handles.append(layer.register_forward_hook(off(self._after_noise)))

    def stop(self) -> None:
        """Remove them, also in the middle of a call, after an exception."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._rest, self._doing = [], iter(()), "nothing"
        self._back()
        for part in self.parts:
            part.end()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Give calls of the network the same random numbers again afterwards."""
        inner = self._inner
        yield
        self._inner = inner

    def _back(self) -> None:
        """Restore the states that generators and network had before the passes."""
        if self._outer is None:
            return
        for part in self.parts:
            part.switch(False)
        self._generators.write(self._outer)
        self._outer = None

    def _vary(self, images: Tensor, depth: int = 0) -> Iterator[Tensor]:
        if depth == len(self.parts):
            yield images
            return
        count = 0
        for varied in self.parts[depth].inputs(images):
            count += 1
            yield from self._vary(varied, depth + 1)
        self._counts[depth] = count

    def _first(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._doing != "nothing":
            return None
        if not args or not isinstance(args[0], Tensor):
            raise MisconfigurationException(
                f"{self.name}: the network must get the images as its first positional argument"
            )
        self._call, self._counts = (args, kwargs), [0] * len(self.parts)
        self._outer = self._generators.read()
        self._generators.write(self._inner)
        for part in self.parts:
            part.switch(True)
        self._rest = self._vary(args[0])
        images = next(self._rest)
        self._mark, self._doing = self._generators.read(), "first pass"
        self._draws_otherwise = False
        return (images, *args[1:]), kwargs

    def _before_noise(self, layer: nn.Module, args: Any) -> None:
        if self._doing == "first pass" and not self._draws_otherwise:
            self._draws_otherwise = not same_states(self._mark, self._generators.read())

    def _after_noise(self, layer: nn.Module, args: Any, output: Any) -> None:
        if self._doing == "first pass":
            self._mark = self._generators.read()

    def _average(self, network: nn.Module, args: Any, output: Any) -> Any:
        if self._doing != "first pass":
            return None
        self._before_noise(network, args)
        self._doing = "more passes"
        self._check(output)
        args, kwargs = self._call
        outputs = [output]
        for images in self._rest:
            outputs.append(network(images, *args[1:], **kwargs))
        self._inner = self._generators.read()
        self._back()
        if self._draws_otherwise:
            images = args[0]
            for part in self.parts:
                images = part.plain(images)
            network(images, *args[1:], **kwargs)
        self._doing = "nothing"
        return self._collect(torch.stack(outputs))

    def _check(self, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise MisconfigurationException(
                f"{self.name}: the network's output must be a tensor, got {type(output).__name__}"
            )
        if self.parts[0].average == "probabilities" and (output.dim() != 2 or output.shape[1] < 2):
            raise MisconfigurationException(
                f"{self.name}: to average probabilities the network must return scores (N, K) of K >= 2 "
                f"classes, got {tuple(output.shape)}; set average='outputs'"
            )

    def _collect(self, outputs: Tensor) -> Tensor:
        """Average all passes, after each part has described its own, averaged over those of the others."""
        average = self.parts[0].average
        for number, part in enumerate(self.parts):
            count = self._counts[number]
            inner = math.prod(self._counts[number + 1 :])
            mine = (
                outputs.reshape(-1, count, inner, *outputs.shape[1:]).movedim(1, 0).flatten(1, 2)
            )  # (S, others, N, ...)
            if len(self.parts) == 1:
                part.keep(outputs)
            else:
                part.keep(torch.stack([average_outputs(others, average) for others in mine]))
        return average_outputs(outputs, average)
