"""Asynchronous elastic averaging on Ray: a server has the centre, workers call on it each at its own time."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lightning_optreg._checks import check_range
from lightning_optreg.parallel.elastic import pull_worker
from lightning_optreg.parallel.ledger import Report
from lightning_optreg.parallel.shards import ElasticShard, Shard
from lightning_optreg.strategies.servers._server_strategy import ServerStrategy
from lightning_optreg.trainer.roles import OwnWeights

__all__ = ["AsyncElasticAveraging"]


class AsyncElasticAveraging(OwnWeights, ServerStrategy):
    """Pull each worker's weights and a centre towards each other, without waiting for other workers (EASGD).

    Worker i trains weights x_i of its own, with an optimizer of its own; a server has the centre x~. In its
    optimizer step t_i = 0, 1, ..., if t_i is a multiple of tau, with alpha = beta / p for p workers:

        d = alpha (x_i - x~);   x~ <- x~ + d;   x_i <- x_i - eta g_i(x_i) - d

    in this order: x_i is sent, and the gradient computed and the optimizer's step made at the old x_i while
    the server moves x~ and answers with d, which is then taken off. Other steps are local. The server
    computes d and moves x~ at once, so no other worker comes in between; the authors' program reads and moves
    in two messages. With torch's or our momentum the springs act on the parameters as they are between steps.
    `ElasticAveraging` is the synchronous rule.

    The centre is what is validated, saved, exported, and left in the module at the end of a fit. Workers,
    places in the data, faults, and who decides when the run ends are as in `Downpour`; at its end worker 0
    waits until all shares are done. A worker that is started again begins from the centre with a new
    optimizer state. A checkpoint has the centre under the usual names, the state of worker 0's optimizer,
    worker 0's weights, and each worker's place in the data: with one worker the resumed run is the same bit
    for bit, with several the others begin from the centre. Learning rates of all are those of worker 0's
    schedule, which the others learn when they call. Averages of batch norm are worker 0's.

    Logs under `optreg/async_elastic_averaging/`, when Lightning logs steps: `bytes`, of all parameters sent;
    `updates`, the number of calls; `delay_mean`, `delay_max` and `delay_share/...`, the histogram of the
    number of calls of others between two of the same worker, as the first server counts them.

    Reference: Zhang, Choromanska and LeCun 2015, "Deep learning with Elastic Averaging SGD"
    (arXiv:1412.6651), algorithm 1, and the authors' program (sixin-zh/mpiT).

    Args:
        period: tau, the communication period: optimizer steps of a worker between two calls, at least 1.
            Default: 10.
        beta: p alpha, in [0, 1]. Default: 0.9, as in the paper.
        shards: See `Downpour`.
        workers: See `Downpour`.
        address: See `Downpour`.
        timeout: See `Downpour`.
        checkpoint_io: See `Downpour`.

    Raises:
        ValueError: If an argument is out of range.
        MisconfigurationException: In a fit, if Ray is missing, or something can't be sent to the workers.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(
        ...     strategy=AsyncElasticAveraging(period=4), devices=2, accelerator="cpu", logger=False
        ... )
        >>> trainer.strategy.workers
        2
    """

    log_name = "async_elastic_averaging"
    key = "optreg_async_elastic_averaging"

    def __init__(
        self,
        period: int = 10,
        beta: float = 0.9,
        *,
        shards: int = 1,
        workers: int | None = None,
        address: str | None = None,
        timeout: float = 600.0,
        checkpoint_io: CheckpointIO | None = None,
    ) -> None:
        check_range("AsyncElasticAveraging", ">= 1", period=period)
        check_range("AsyncElasticAveraging", "[0, 1]", beta=beta)
        super().__init__(
            shards=shards, workers=workers, address=address, timeout=timeout, checkpoint_io=checkpoint_io
        )
        self.period, self.beta = period, beta
        self._clock = 0
        self._mine: list[Tensor] | None = None  # while the module has the centre

    @override
    def server(self) -> tuple[type[Shard], tuple[Any, ...]]:
        return ElasticShard, (self.beta / self.workers,)

    @override
    def part(self, optimizer: Optimizer, positions: Sequence[int]) -> list[Tensor]:
        return [self.parameters[position].detach().cpu() for position in positions]

    @override
    def begin(self, saved: dict[str, Any]) -> None:
        self._clock, self._mine = 0, None
        own = saved.get("worker") if self.number == 0 else None
        if own is not None:
            self._clock = own["clock"]
            self._load(own["parameters"])
        elif self.number > 0:
            self._load(self._centre(self.report(moved=False)))
        else:
            self.flush(moved=False)

    @override
    def step(self, optimizer: Optimizer, closure: Any, **kwargs: Any) -> Any:
        calls = []
        if self._clock % self.period == 0:
            report = self.report(in_step=True)
            for server, packing, positions in zip(self.servers, self.packings, self.positions, strict=True):
                content = self.sent(packing.write([self.parameters[i] for i in positions]))
                calls.append(server.exchange.remote(report, content))
        self._clock += 1
        loss = optimizer.step(**kwargs) if closure is None else optimizer.step(closure, **kwargs)
        if calls:
            answers = self.ask_all(calls)
            self.note(answers[0][1])
            difference = self._unpacked([content for content, _ in answers])
            pull_worker(self.parameters, difference)
        return loss

    @override
    def flush(self, *, moved: bool = True) -> None:
        report = self.report(moved=moved)
        answers = self.ask_all([server.talk.remote(report) for server in self.servers])
        self.note(answers[0])

    def _centre(self, report: Report) -> list[Tensor]:
        answers = self.ask_all([server.fetch.remote(report) for server in self.servers])
        self.note(answers[0][1])
        return self._unpacked([content for content, _ in answers])

    def _unpacked(self, contents: list[Any]) -> list[Tensor]:
        """Return what came from the servers, in the order of the parameters and on their device."""
        values = list(self.parameters)
        for packing, positions, content in zip(self.packings, self.positions, contents, strict=True):
            for position, value in zip(positions, packing.read(self.sent(content)), strict=True):
                values[position] = value.to(self.parameters[position].device)
        return values

    @torch.no_grad()
    def _load(self, values: Sequence[Tensor]) -> None:
        torch._foreach_copy_(self.parameters, list(values))

    # ---- the centre in worker 0's module -------------------------------------------------------------------

    def _take_centre(self) -> None:
        """Put the centre into the module, and note all that a checkpoint of this moment needs."""
        if self._mine is not None:
            return
        self.flush(moved=False)
        answers = self.ask_all([server.snapshot.remote() for server in self.servers])
        self._mine = [parameter.detach().clone() for parameter in self.parameters]
        own = {"clock": self._clock, "parameters": [mine.cpu() for mine in self._mine]}
        self.record = {**answers[0][1], "workers": self.workers, "worker": own}
        self._load(self._unpacked([content for content, _, _ in answers]))

    def _give_back(self) -> None:
        if self._mine is not None:
            self._load(self._mine)
            self._mine = None

    @override
    def validate_now(self) -> None:
        self._take_centre()

    @override
    def on_validation_end(self) -> None:
        super().on_validation_end()
        if self.begun and not self.home:
            self._give_back()

    @override
    def come_home(self) -> None:
        self._take_centre()

    @override
    def lightning_module_state_dict(self) -> dict[str, Any]:
        taken = self.home or self.lost or self._mine is not None
        if self.number > 0 or not self.begun or taken:
            return super().lightning_module_state_dict()
        self._take_centre()
        state = {
            name: value.clone() if isinstance(value, Tensor) else value
            for name, value in super().lightning_module_state_dict().items()
        }
        self._give_back()
        return state
