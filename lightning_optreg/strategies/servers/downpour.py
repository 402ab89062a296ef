"""Downpour SGD on Ray: a server has the parameters and the optimizer, workers push gradients and fetch.

Dean et al. 2012, "Large Scale Distributed Deep Networks", NIPS.
"""

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lightning_optreg._checks import check_range
from lightning_optreg.optimizers.swats import SWATS
from lightning_optreg.parallel.dealing import load_parts, part_of
from lightning_optreg.parallel.downpour import DownpourWorker
from lightning_optreg.parallel.ledger import Report
from lightning_optreg.parallel.shards import DownpourShard, Shard
from lightning_optreg.strategies.servers._pushing import let_schedules_begin
from lightning_optreg.strategies.servers._server_strategy import ServerStrategy
from lightning_optreg.trainer.noise_left import compares_losses
from lightning_optreg.trainer.refusals import refuse_fused_under_scaler
from lightning_optreg.trainer.roles import StepsElsewhere

__all__ = ["Downpour"]

_LAG = 2  # pushes without a fetch that may be under way


class Downpour(StepsElsewhere, ServerStrategy):
    """Asynchronous training with a parameter server on Ray: workers push gradients and fetch parameters.

    A server has the parameters theta and the optimizer: the one that the module configures, any of torch's or
    ours that needs no closure; the paper uses Adagrad. A worker with parameters w, which counts its steps
    s = 1, 2, ..., does in each of them:

    1. g = gradient at w (accumulated, clipped and changed by callbacks as usual); a = a + g
    2. if n_push divides s: push a, with which the server makes a step of its optimizer; a = 0
    3. if n_fetch divides s: fetch, w = theta; otherwise a local step w = w - eta g, eta its learning rate

    `AdaDelay` and `AdaptiveRevision` get the delay that each push really had. With one worker and
    n_push = n_fetch = 1 this is plain training with the optimizer, bit for bit.

    **Workers.** `Trainer(devices=N)` trains with N workers (`workers=N` if Ray has them on several machines).
    The process that you start is worker 0: it validates, logs, saves, and decides when the run ends. The
    others are Ray tasks that make the same fit without that; callbacks that change batches or gradients act
    in each. Each trains on its own share of the images in each epoch, and no worker waits for another, but
    for the last validation and the end, when worker 0 waits until all shares are done. `global_step`,
    `max_steps` and schedules by steps count the steps of all; at `max_steps`, early stopping and other early
    ends the others end after the step that they are in. Learning rates are those of worker 0's schedule.
    Buffers such as averages of batch norm are worker 0's in validation and checkpoints, as under DDP.

    **Faults.** A worker that dies is started again, and goes on after the last batch whose gradient it had
    pushed; what it had not pushed is lost. If a server dies, the run ends with an error. If worker 0 dies,
    all end. Then continue from a checkpoint: it has the server's parameters and optimizer under the usual
    names, and each worker's place in the data. With one worker the resumed run is the same bit for bit (with
    n_push or n_fetch above 1: the same as the run that went on after saving, since what is accrued is
    pushed before). With several, it goes on from the same parameters and places, but the order in which
    gradients arrive is another in each run. A checkpoint can also be continued without this strategy.

    Logs under `optreg/downpour/`, when Lightning logs steps: `bytes`, of all parameters and gradients sent;
    `updates`; `delay_mean`, `delay_max` and `delay_share/...`, the histogram of delays (number of updates
    since the worker's last fetch), as the first server counts them.

    Args:
        n_push: Push after so many steps, at least 1. Default: 1.
        n_fetch: Fetch after so many steps, at least 1. Default: 1.
        warm_start_steps: The other workers begin after so many optimizer steps of worker 0 alone, at least 0.
            Default: 0.
        shards: Number of servers, at least 1; parameter tensors are dealt out to them whole. Default: 1.
        workers: Number of workers, worker 0 included, at least 1. None: the trainer's `devices`.
        address: Address of a Ray cluster, such as "auto". None: the environment variable RAY_ADDRESS, or else
            Ray starts on this machine for this run.
        timeout: Longest wait for an answer of a server or for other workers' next step, in seconds, above 0.
            Default: 600.
        checkpoint_io: Lightning's plugin that reads and writes checkpoints.

    Raises:
        ValueError: If an argument is out of range.
        MisconfigurationException: In a fit, if Ray is missing, something can't be sent to the workers, or the
            optimizer can't work on a server.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(strategy=Downpour(n_push=2), devices=2, accelerator="cpu", logger=False)
        >>> trainer.strategy.workers
        2
    """

    log_name = "downpour"
    key = "optreg_downpour"

    def __init__(
        self,
        n_push: int = 1,
        n_fetch: int = 1,
        *,
        warm_start_steps: int = 0,
        shards: int = 1,
        workers: int | None = None,
        address: str | None = None,
        timeout: float = 600.0,
        checkpoint_io: CheckpointIO | None = None,
    ) -> None:
        check_range("Downpour", ">= 1", n_push=n_push, n_fetch=n_fetch)
        check_range("Downpour", ">= 0", warm_start_steps=warm_start_steps)
        super().__init__(
            shards=shards, workers=workers, address=address, timeout=timeout, checkpoint_io=checkpoint_io
        )
        self.n_push, self.n_fetch, self.warm_start_steps = n_push, n_fetch, warm_start_steps
        self._worker: DownpourWorker
        self._under_way: deque[list[Any]] = deque()
        self._fresh = False

    @override
    def server(self) -> tuple[type[Shard], tuple[Any, ...]]:
        return DownpourShard, ()

    @override
    def part(self, optimizer: Optimizer, positions: Sequence[int]) -> Optimizer:
        return part_of(optimizer, positions)

    @override
    def check_optimizer(self, trainer: Trainer, optimizer: Optimizer) -> None:
        refuse_fused_under_scaler(trainer, "Downpour", "push")
        name = type(optimizer).__name__
        if compares_losses(optimizer):
            raise MisconfigurationException(
                f"Downpour: {name} evaluates the loss several times in a step, and servers have no loss: "
                "use a first-order optimizer"
            )
        restart = optimizer.param_groups[0].get("restart")
        if restart == "function":
            raise MisconfigurationException(
                f"Downpour: {name} starts over by the loss, and servers have none: set restart to gradient"
            )
        if self.shards > 1 and (restart is not None or isinstance(optimizer, SWATS)):
            raise MisconfigurationException(
                f"Downpour: {name} decides over all parameters together, and {self.shards} servers have a "
                "part each: set shards=1"
            )

    @override
    def begin(self, saved: dict[str, Any]) -> None:
        optimizer = self.optimizers[0]
        if self.number == 0 and self.lr_scheduler_configs:
            let_schedules_begin(optimizer)
        self._worker = DownpourWorker(self.parameters, self.n_push, self.n_fetch)
        self._under_way.clear()
        if self.number > 0:
            report = Report(self.number)
            while self.ask(self.servers[0].talk.remote(report)).steps < self.warm_start_steps:
                time.sleep(0.1)
        self._exchange(None, fetch=True, report=self.report(moved=False))

    @override
    def step(self, optimizer: Optimizer, closure: Any, **kwargs: Any) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = [parameter.grad for parameter in self.parameters]
        if any(gradient is not None and gradient.is_sparse for gradient in gradients):
            raise MisconfigurationException(
                "Downpour: sends dense gradients; set Embedding(sparse=False), or use Hogwild on one machine"
            )
        rates = [group["lr"] for group in optimizer.param_groups for _ in group["params"]]
        pushed, fetch = self._worker.step(gradients, rates)
        if pushed is not None or fetch:
            self._exchange(pushed, fetch=fetch, report=self.report(in_step=True, moved=pushed is not None))
        return loss

    @override
    def flush(self, *, moved: bool = True) -> None:
        self._exchange(self._worker.flush(), fetch=True, report=self.report(moved=moved))

    def _exchange(self, pushed: list[Tensor | None] | None, *, fetch: bool, report: Report) -> None:
        calls = []
        for server, packing, positions in zip(self.servers, self.packings, self.positions, strict=True):
            content, absent = None, []
            if pushed is not None:
                mine = [pushed[position] for position in positions]
                content = self.sent(packing.write(mine))
                absent = [i for i, gradient in enumerate(mine) if gradient is None]
            calls.append(server.exchange.remote(report, content, absent, fetch))
        self._under_way.append(calls)
        self._fresh = False
        while len(self._under_way) > (0 if fetch else _LAG):
            answers = self.ask_all(self._under_way.popleft())
            self.note(answers[0][1])
        if fetch:
            self._load([content for content, _ in answers])

    @torch.no_grad()
    def _load(self, contents: list[Any]) -> None:
        for packing, positions, content in zip(self.packings, self.positions, contents, strict=True):
            values = packing.read(self.sent(content))
            torch._foreach_copy_([self.parameters[i] for i in positions], values)

    @override
    def validate_now(self) -> None:
        self._refresh()

    @override
    def come_home(self) -> None:
        self._refresh()

    def _refresh(self) -> None:
        """Push what is accrued, and take parameters, optimizer state and places of the servers over."""
        if self._fresh:
            return
        self.flush()
        answers = self.ask_all([server.snapshot.remote() for server in self.servers])
        self._load([content for content, _, _ in answers])
        load_parts(self.optimizers[0], self.positions, [state for _, _, state in answers])
        self.record = {**answers[0][1], "workers": self.workers}
        self._fresh = True

    @override
    def lightning_module_state_dict(self) -> dict[str, Any]:
        # Others save nothing, and what they take would count as worker 0's fetch.
        if self.number == 0 and self.begun and not self.home and not self.lost:
            self._refresh()
        return super().lightning_module_state_dict()
