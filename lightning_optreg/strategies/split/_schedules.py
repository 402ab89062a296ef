"""Run batches through the stages of a network, one stage a process, with the schedules of torch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from lightning_optreg.layers.modes import evaluating
from lightning_optreg.randomness.draws import mix
from lightning_optreg.randomness.kept_generators import kept_generators
from lightning_optreg.strategies.split._stages import Stages

__all__ = ["Pipe", "microbatch_sizes"]


class Meta(NamedTuple):
    """What a stage sends for one micro-batch: a tensor's shape, dtype, and whether it needs a gradient."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    needs_gradient: bool

    def tensor(self, device: torch.device | str) -> Tensor:
        return torch.zeros(self.shape, dtype=self.dtype, device=device).requires_grad_(self.needs_gradient)


class Run(NamedTuple):
    """A schedule for micro-batches of one shape.

    Attributes:
        schedule: torch's schedule.
        output: What the last stage returns for a micro-batch.
    """

    schedule: Schedule1F1B | ScheduleGPipe
    output: Meta


def microbatch_sizes(images: int, microbatches: int) -> list[tuple[int, int]]:
    """Divide a batch into micro-batches whose sizes differ by at most one, larger ones first.

    Args:
        images: Images in the batch.
        microbatches: Number of micro-batches; as many as images, if these are fewer.

    Returns:
        Pairs (number of micro-batches, images in each), all of a size together.

    Example:
        >>> microbatch_sizes(64, 4), microbatch_sizes(62, 4), microbatch_sizes(3, 4)
        ([(4, 16)], [(2, 16), (2, 15)], [(3, 1)])
    """
    count = min(images, microbatches)
    size, larger = divmod(images, count)
    return [(n, each) for n, each in ((larger, size + 1), (count - larger, size)) if n]


class Pipe:
    """The stages of a network as one function, which all processes call together with batches alike.

    Args:
        stages: The stages; process number k holds stage k.
        device: This process's device.
        schedule: `1F1B` or `GPipe`.
        microbatches: Number of micro-batches of a batch.
        context: Makes the context in which layers run, as with mixed precision.
    """

    def __init__(
        self,
        stages: Stages,
        device: torch.device,
        schedule: str,
        microbatches: int,
        context: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._device, self._context, self._microbatches = device, context, microbatches
        self._schedule = Schedule1F1B if schedule == "1F1B" else ScheduleGPipe
        self._rank, self._last = dist.get_rank(), dist.get_world_size() - 1
        modes = {True: stages.training, False: stages.evaluation}
        self._parts = {mode: _InContext(parts[self._rank], context) for mode, parts in modes.items()}
        self._runs: dict[Any, Run] = {}
        self._loss: Callable[[Tensor, Tensor], Tensor] | None = None
        self._weight = 1.0

    def forward(self, x: Tensor, *, training: bool, noisy: bool) -> Tensor:
        """Return the network's output for a batch, on all processes, without gradients.

        Args:
            x: The batch; that of the first process counts, others only need one of the same shape.
            training: Whether the network is in training mode.
            noisy: Whether layers may draw random numbers.
        """
        with torch.no_grad(), self._own_noise(noisy=noisy):
            return self._batch(x, None, training=training)[0]

    def forward_and_backward(
        self, x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor], scale: float
    ) -> tuple[Tensor, Tensor]:
        """Run a batch forward and backward, and add the gradients to those of the stage's parameters.

        Args:
            x: Inputs, as for `forward`.
            y: Targets, of which the last process's count.
            loss: Maps outputs and targets of a micro-batch to their mean loss.
            scale: Factor of the loss.

        Returns:
            Outputs of all micro-batches, and their mean loss, on all processes.
        """
        self._loss = loss
        try:
            with self._own_noise(noisy=True):
                outputs, total = self._batch(x, y, training=True, scale=scale)
        finally:
            self._loss = None
        return outputs, total / scale

    def _batch(
        self, x: Tensor, y: Tensor | None, *, training: bool, scale: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        outputs = []
        total = torch.zeros((), device=self._device)
        begin = 0
        for count, size in microbatch_sizes(len(x), self._microbatches):
            end = begin + count * size
            self._weight = scale * size / len(x)
            target = None if y is None else y[begin:end]
            scores, losses = self._group(x[begin:end], target, count, training=training)
            outputs.append(scores)
            for loss in losses:
                total += loss.detach()
            begin = end
        if y is not None:
            dist.broadcast(total, src=self._last)
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)), total

    def _group(
        self, x: Tensor, y: Tensor | None, count: int, *, training: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Run micro-batches of one size."""
        run = self._run_for(x, count, training=training, backward=y is not None)
        losses: list[Tensor] = []
        inputs = (x,) if self._rank == 0 else ()
        # What the stage computes enters its own context; a backward pass must not run in it.
        with torch.autocast(self._device.type, enabled=False):
            if y is None:
                outputs = run.schedule.step(*inputs)
            elif self._rank == self._last:
                outputs = run.schedule.step(*inputs, target=y, losses=losses)
            else:
                outputs = run.schedule.step(*inputs)
        if outputs is None:
            shape = (count * run.output.shape[0], *run.output.shape[1:])
            outputs = torch.empty(shape, dtype=run.output.dtype, device=self._device)
        outputs = outputs.detach().contiguous()
        dist.broadcast(outputs, src=self._last)
        return outputs, losses

    def _run_for(self, x: Tensor, count: int, *, training: bool, backward: bool) -> Run:
        """Return a schedule for micro-batches of this shape, made when it is first needed."""
        shape = (len(x) // count, *x.shape[1:])
        key = (count, shape, x.dtype, training, backward)
        if key not in self._runs:
            self._runs[key] = self._make_run(Meta(shape, x.dtype, False), count, training, backward)
        return self._runs[key]

    def _make_run(self, x: Meta, count: int, training: bool, backward: bool) -> Run:
        module = self._parts[training]
        inputs, outputs = self._agree_on_shapes(x, module, backward)
        stage = PipelineStage(
            module,
            self._rank,
            self._last + 1,
            self._device,
            input_args=tuple(each.tensor("meta") for each in inputs),
            output_args=tuple(each.tensor("meta") for each in outputs),
        )
        # With fewer micro-batches than stages there is no steady state, and torch's 1F1B refuses.
        kind = self._schedule if count > self._last else ScheduleGPipe
        loss = self._weighted_loss if backward else None
        results = [list(outputs)]
        dist.broadcast_object_list(results, src=self._last)
        if len(results[0]) != 1:
            raise MisconfigurationException(
                f"PipelineParallel: the network must return one tensor, it returns {len(results[0])}; turn "
                "auxiliary heads off"
            )
        # Weighted by `_weighted_loss` instead, since sizes may differ.
        return Run(kind(stage, count, loss_fn=loss, scale_grads=False), results[0][0])

    def _agree_on_shapes(self, x: Meta, module: nn.Module, backward: bool) -> tuple[list[Meta], list[Meta]]:
        """Run the stages one after the other with zeros, and return what this one takes and returns.

        torch can find this out too, but then layers in training mode change their buffers and draw numbers.
        """
        received: list[Any] = [[x]]
        if self._rank > 0:
            dist.recv_object_list(received, src=self._rank - 1, device=self._device)
        inputs: list[Meta] = received[0]
        with kept_generators(self._device), evaluating(module), torch.set_grad_enabled(backward):
            result = module(*(each.tensor(self._device) for each in inputs))
        tensors: Sequence[Tensor] = result if isinstance(result, tuple) else (result,)
        outputs = [Meta(tuple(each.shape), each.dtype, each.requires_grad) for each in tensors]
        if self._rank < self._last:
            dist.send_object_list([outputs], dst=self._rank + 1, device=self._device)
        return inputs, outputs

    def _weighted_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        assert self._loss is not None
        with self._context():
            return self._loss(outputs, targets) * self._weight

    @contextmanager
    def _own_noise(self, *, noisy: bool) -> Iterator[None]:
        """Let the layers of a stage draw numbers that other stages do not, from a seed that all share.

        The default generators go on alike in all processes, so that callbacks draw the same everywhere.
        """
        state = torch.get_rng_state()
        seed = int(torch.randint(2**62, ()))
        if not noisy:
            torch.set_rng_state(state)
        devices = [] if self._device.type == "cpu" else [self._device]
        with torch.random.fork_rng(devices, device_type=self._device.type if devices else "cuda"):
            torch.manual_seed(mix(seed, self._rank) % 2**63)
            yield


class _InContext(nn.Module):
    """A stage whose layers run in a context."""

    def __init__(self, stage: nn.Module, context: Callable[[], AbstractContextManager[Any]]) -> None:
        super().__init__()
        self.stage, self._context = stage, context

    def forward(self, *args: Tensor) -> Any:
        with self._context():
            return self.stage(*args)
