"""Local SGD and DiLoCo: workers make steps of their own and meet every tau steps."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from lightning_optreg.parallel.local_sgd import outer_gradient, outer_step
from lightning_optreg.strategies.own_weights._flat import FlatMean, broadcast_tensors, distance_of
from lightning_optreg.strategies.own_weights._own_weights import WAIT, Clock, OwnWeightsStrategy

__all__ = ["LocalSGD"]


class LocalSGD(OwnWeightsStrategy):
    r"""Take the mean of the workers' weights every tau steps; with an outer optimizer, DiLoCo.

    Worker i makes tau optimizer steps on x_i by itself, on its share of the images. Then

        \bar x = mean_i x_i;   x_i <- \bar x                                             (local SGD)
        Delta = x~ - \bar x;   x~ <- OuterOptimizer(x~, Delta);   x_i <- x~                (DiLoCo)

    in this order: the inner step t, for t = 1, 2, ..., then the exchange if t is a multiple of tau. Optimizer
    states are not exchanged; gradient clipping, AMP's scaler and schedules are each worker's own. One
    all-reduce of the trained weights is all that is sent, every tau steps instead of every step. With
    period=1 and plain SGD it equals DDP up to rounding; one process is plain training of the same batches,
    bit for bit. (Lightning deals the images of a DataLoader out by a DistributedSampler even to one process,
    so their order may be another one than without a strategy.)

    DiLoCo has AdamW as the module's optimizer, `period=500` and, as outer optimizer, SGD with lr=0.7,
    momentum=0.9 and nesterov=True; see the example. It keeps x~ beside the weights.

    What is validated, saved, exported and left in the module at the end of a fit: the mean of the workers'
    present weights, or, with an outer optimizer, x~ of the last exchange, so make the run's steps a multiple
    of tau. Every worker trains with its own running statistics of batch normalisation; the common weights get
    their mean (integer buffers from process 0; those that are not saved are left alone). For exact ones use
    `BatchNormRecalibration`, or `sync_batchnorm`.

    A checkpoint is an ordinary one, with the optimizer state of process 0, and in addition, under `workers`,
    everything that is each worker's own: it is larger by about weights, optimizer states and buffers x
    processes. A run resumed with as many processes equals one that never stopped; with another number all
    start from the common weights, with a warning. An exception in one process ends all, and no checkpoint is
    saved then, with a warning that names the one to continue from: it would need every worker's weights, and
    the others may be gone or elsewhere. SIGTERM under `ExactResume` is no such exception. After an exception
    the module has x~, or without an outer optimizer each process its own weights, as nothing can be exchanged
    with processes that may be gone.

    Weights that no optimizer trains, such as a mean teacher that a hook moves, are never exchanged: each
    worker trains, validates and ends with its own, and those of process 0 are saved as the common ones.
    Schedules that follow a metric, and early stopping, need one that is logged with `sync_dist=True`:
    otherwise each worker's rate follows its own numbers.

    Steps are counted for each optimizer by itself; with manual optimization all processes must make equally
    many steps of each. Parameters that are unfrozen during a run take part from their first step on. It works
    with gloo and NCCL. It logs `optreg/local_sgd/distance`, |x_i - \bar x|_2 of process 0 before the last
    exchange, and `bytes`, what process 0 has handed to all-reduces so far.

    Differences from the papers: Stich averages without momentum, whose state here is each worker's own. The
    paper on DiLoCo gives every worker the same number of steps, as here, and its islands own shards of data;
    here the loader deals the images anew in each epoch.

    References: Stich 2018, "Local SGD converges fast and communicates little" (arXiv:1805.09767); Douillard
    et al. 2023, "DiLoCo: Distributed low-communication training of language models" (arXiv:2311.08105).

    Args:
        period: tau (H in both papers), optimizer steps between two exchanges, at least 1. Default: 10.
        outer_optimizer: Makes the outer optimizer from a list of tensors. None: the mean is taken.
        process_group_backend: "gloo" or "nccl", as in Lightning's DDPStrategy. None: by the device.
        timeout: How long a process waits for the others before it ends with an error. Default: 30 minutes. A
            process that dies is noticed at once.
        start_method: How the processes of this machine are started, as in DDPStrategy. Default: popen.

    Raises:
        ValueError: If period is below 1.
        MisconfigurationException: Before the first step, with lazy layers, with optimizers of parameters that
            are not the module's, and with Lightning's WeightAveraging, StochasticWeightAveraging or
            ModelPruning; callbacks of this package refuse by themselves.

    Warns:
        UserWarning: On a resume with another number of processes, or of another strategy, and where a
            checkpoint would be saved after an exception.

    Example:
        >>> from functools import partial
        >>> import torch
        >>> from lightning.pytorch import Trainer
        >>> outer = partial(torch.optim.SGD, lr=0.7, momentum=0.9, nesterov=True)
        >>> diloco = LocalSGD(period=500, outer_optimizer=outer)
        >>> trainer = Trainer(strategy=diloco, accelerator="cpu", devices=1, logger=False)
    """

    log_name = "local_sgd"

    def __init__(
        self,
        period: int = 10,
        outer_optimizer: OptimizerCallable | None = None,
        *,
        process_group_backend: str | None = None,
        timeout: timedelta | None = WAIT,
        start_method: Literal["popen", "spawn", "fork", "forkserver"] = "popen",
    ) -> None:
        super().__init__(
            period,
            process_group_backend=process_group_backend,
            timeout=timeout,
            start_method=start_method,
        )
        self.outer_optimizer = outer_optimizer
        self._start: dict[nn.Parameter, Tensor] = {}  # x~, if there is an outer optimizer

    @override
    def join(self, clock: Clock, parameters: list[nn.Parameter]) -> None:
        if self.outer_optimizer is None:
            return
        start = [parameter.detach().clone() for parameter in parameters]
        broadcast_tensors(start)
        self._start |= zip(parameters, start, strict=True)
        if clock.outer is None:
            clock.outer = self.outer_optimizer(start)
        else:
            clock.outer.add_param_group({"params": start})

    @override
    def make_step(
        self, clock: Clock, optimizer: Optimizer, trained: list[nn.Parameter], step: Callable[[], Any]
    ) -> Any:
        output = step()
        if (clock.steps + 1) % self.period == 0:
            sent = FlatMean(trained)
            self.bytes += sent.bytes
            mean = sent.wait()
            self.distance = distance_of(outer_gradient(trained, mean))
            if clock.outer is None:
                outer_step(trained, mean)
            else:
                start = [self._start[parameter] for parameter in trained]
                outer_step(start, mean, clock.outer)
                outer_step(trained, start)
        return output

    @property
    @override
    def is_local(self) -> bool:
        return self.outer_optimizer is not None

    @override
    def common(self, parameters: list[nn.Parameter]) -> list[Tensor]:
        if self.outer_optimizer is None:
            return FlatMean(parameters).wait()
        return [self._start[parameter] for parameter in parameters]
