"""Elastic averaging SGD, synchronous: springs between each worker's weights and a centre."""

from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from lightning_optreg._checks import check_range
from lightning_optreg.optimizers import NAG
from lightning_optreg.parallel.elastic import elastic_difference, move_centre, pull_worker
from lightning_optreg.strategies.own_weights._flat import FlatMean, broadcast_tensors, distance_of
from lightning_optreg.strategies.own_weights._own_weights import WAIT, Clock, OwnWeightsStrategy

__all__ = ["ElasticAveraging"]


class ElasticAveraging(OwnWeightsStrategy):
    r"""Pull each worker's weights and a centre towards each other every tau steps (EASGD, EAMSGD).

    Worker i trains weights x_i of its own, on its share of the images; the centre is x~. At its optimizer
    step t = 0, 1, ..., if t is a multiple of tau, with alpha = beta / p for p workers, and both sides from
    the values of time t:

        d_i = alpha (x_i - x~);   x_i <- x_i - eta g_i(x_i) - d_i;   x~ <- (1 - beta) x~ + beta mean_i x_i

    in this order: d_i and the all-reduce of the x_i begin, the gradient is computed and the step made at the
    old x_i, then d_i is taken off and the centre moved. Other steps are local. So the weights travel while
    the gradient is computed, and one all-reduce every tau steps is all that is sent. Optimizer states,
    gradient clipping, AMP's scaler and schedules are each worker's own; a worker whose scaler skips a step
    is pulled all the same. With beta = 0 workers are independent, bit for bit; with beta = 1 and period=1 the
    new centre is the mean of the workers' old weights. A smaller alpha lets workers explore further from the
    centre.

    The springs hold the workers back too. Where all p gradients are one constant g, a worker settles at the
    distance d from the centre, at exchanges, with (alpha + beta) d = eta g tau, and the centre moves by beta
    d in tau steps: at beta / (alpha + beta) = p / (p + 1) of the speed of plain training, for any beta > 0
    and tau. So two workers behave like 2/3 of the learning rate, and one like 1/2: take a larger rate.

    EAMSGD is elastic averaging with Nesterov's momentum: v <- delta v; x <- x + v; then the gradient there.
    With this package's `NAG` it is the paper's, exactly: x_i is then theta, not the look-ahead point where
    the parameters are between steps. `torch.optim.SGD(nesterov=True)` does not tell x_i from the look-ahead
    point, so the springs act on the latter. The paper's code has delta = 0.99 with a learning rate of 1e-2,
    against 1e-1 without momentum.

    What is validated, saved, exported and left in the module at the end of a fit: the centre. Every worker
    trains with its own running statistics of batch normalisation; the centre gets their mean (integer buffers
    from process 0; those that are not saved are left alone). For exact ones use `BatchNormRecalibration`, or
    `sync_batchnorm`.

    A checkpoint is an ordinary one, with the optimizer state of process 0, and in addition, under `workers`,
    everything that is each worker's own: it is larger by about weights, optimizer states and buffers x
    processes. A run resumed with as many processes equals one that never stopped; with another number all
    start from the centre, with a warning. An exception in one process ends all, and no checkpoint is saved
    then, with a warning that names the one to continue from: it would need every worker's weights, and the
    others may be gone or elsewhere. SIGTERM under `ExactResume` is no such exception. After an exception the
    module has the centre.

    Weights that no optimizer trains, such as a mean teacher that a hook moves, are never exchanged: each
    worker trains, validates and ends with its own, and those of process 0 are saved as the common ones.
    Schedules that follow a metric, and early stopping, need one that is logged with `sync_dist=True`:
    otherwise each worker's rate follows its own numbers.

    Steps are counted for each optimizer by itself; with manual optimization all processes must make equally
    many steps of each. Parameters that are unfrozen during a run take part from their first step on. Besides
    the weights a process keeps the centre, and at an exchange two copies more. It works with gloo and NCCL.
    It logs `optreg/elastic_averaging/distance`, |x_i - x~|_2 of process 0 at the last exchange, and `bytes`,
    what process 0 has handed to all-reduces so far.

    TensorFlow's ElasticAverageOptimizer differs: it divides the moving rate by tau too, and pulls a second
    time by a term in the loss.

    Reference: Zhang, Choromanska and LeCun 2015, "Deep learning with Elastic Averaging SGD"
    (arXiv:1412.6651).

    Args:
        period: tau, the communication period: optimizer steps between two exchanges, at least 1. Default: 10.
        beta: p alpha, in [0, 1]. Default: 0.9, as in the paper.
        moving_rate: alpha, in [0, 1]; p alpha takes the place of beta and must be at most 1. None: beta / p.
        process_group_backend: "gloo" or "nccl", as in Lightning's DDPStrategy. None: by the device.
        timeout: How long a process waits for the others before it ends with an error. Default: 30 minutes. A
            process that dies is noticed at once.
        start_method: How the processes of this machine are started, as in DDPStrategy. Default: popen.

    Raises:
        ValueError: If a value is out of its range.
        MisconfigurationException: Before the first step, if p alpha is above 1; with lazy layers, with
            optimizers of parameters that are not the module's, and with Lightning's WeightAveraging,
            StochasticWeightAveraging or ModelPruning; callbacks of this package refuse by themselves.

    Warns:
        UserWarning: On a resume with another number of processes, or of another strategy, and where a
            checkpoint would be saved after an exception.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(
        ...     strategy=ElasticAveraging(period=4), accelerator="cpu", devices=1, logger=False
        ... )
    """

    log_name = "elastic_averaging"

    def __init__(
        self,
        period: int = 10,
        beta: float = 0.9,
        moving_rate: float | None = None,
        *,
        process_group_backend: str | None = None,
        timeout: timedelta | None = WAIT,
        start_method: Literal["popen", "spawn", "fork", "forkserver"] = "popen",
    ) -> None:
        check_range("ElasticAveraging", "[0, 1]", beta=beta)
        if moving_rate is not None:
            check_range("ElasticAveraging", "[0, 1]", moving_rate=moving_rate)
        super().__init__(
            period,
            process_group_backend=process_group_backend,
            timeout=timeout,
            start_method=start_method,
        )
        self.beta, self.moving_rate = beta, moving_rate
        self._centre: dict[nn.Parameter, Tensor] = {}

    @override
    def check(self, trainer: Trainer) -> None:
        if self.moving_rate is not None and not self.moving_rate * self.world_size <= 1.0:
            raise MisconfigurationException(
                f"ElasticAveraging: moving_rate must be <= 1 / {self.world_size}, the number of workers, so "
                f"that the centre is not moved beyond their mean, got {self.moving_rate}"
            )

    @override
    def join(self, clock: Clock, parameters: list[nn.Parameter]) -> None:
        centre = [parameter.detach().clone() for parameter in parameters]
        broadcast_tensors(centre)
        self._centre |= zip(parameters, centre, strict=True)

    @override
    def make_step(
        self, clock: Clock, optimizer: Optimizer, trained: list[nn.Parameter], step: Callable[[], Any]
    ) -> Any:
        if clock.steps % self.period:
            return step()
        if self.moving_rate is None:
            alpha, beta = self.beta / self.world_size, self.beta
        else:
            alpha, beta = self.moving_rate, self.moving_rate * self.world_size
        centre = [self._centre[parameter] for parameter in trained]
        with optimizer.at_theta() if isinstance(optimizer, NAG) else nullcontext():
            sent = FlatMean(trained)
            difference = elastic_difference(trained, centre, 1.0)
        self.bytes += sent.bytes
        self.distance = distance_of(difference)
        torch._foreach_mul_(difference, alpha)
        output = step()
        pull_worker(trained, difference)
        move_centre(centre, sent.wait(), beta)
        return output

    @property
    @override
    def is_local(self) -> bool:
        return True

    @override
    def common(self, parameters: list[nn.Parameter]) -> list[Tensor]:
        return [self._centre[parameter] for parameter in parameters]
