"""Snapshot ensembles: a run with a cyclic rate visits several minima, whose predictions are averaged.

Huang, Li, Pleiss, Liu, Hopcroft, Weinberger 2017, "Snapshot ensembles: train 1, get M for free"
(arXiv:1704.00109).
"""

import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from lightning_optreg.callbacks._kept_weights import in_form_of
from lightning_optreg.callbacks._network import find_network
from lightning_optreg.callbacks.evaluation.averaged_forward import AveragedForward, Stage
from lightning_optreg.layers.averages import Average
from lightning_optreg.optimizers.rates import set_rate
from lightning_optreg.places import Place, place_of
from lightning_optreg.schedulers.cosine_cycles import cosine_factor, cycle_ends
from lightning_optreg.schedulers.factor_schedule import full_rates
from lightning_optreg.trainer.queries import callbacks_of, is_logging_step
from lightning_optreg.trainer.refusals import refuse_manual_optimization, refuse_sharding
from lightning_optreg.trainer.run_length import run_length
from lightning_optreg.trust.torch_files import read_plain

__all__ = ["SnapshotEnsemble", "cosine_factor", "cycle_ends", "snapshots"]


def snapshots(folder: str | Place) -> list[Place]:
    """List the snapshots in a folder, in the order of the cycles.

    Each is a Lightning checkpoint without optimizer: `MyModule.load_from_checkpoint(path)` loads it.

    Args:
        folder: The folder, such as `runs/mine/version_0/snapshots`.

    Example:
        >>> snapshots("no_such_folder")
        []
    """
    files = place_of(folder).glob("*.ckpt")
    found = {int(name[1]): path for path in files if (name := _NAME.match(path.name))}
    return [found[number] for number in sorted(found)]


_NAME = re.compile(r"snapshot(\d+)\.ckpt$")


class SnapshotEnsemble(AveragedForward):
    """Train with a cyclic cosine rate, keep each cycle's last weights, and average their predictions.

    In step t the rate is alpha(t) = alpha_0 / 2 (cos(pi s / C) + 1), s steps into a cycle of C steps, with
    the optimizer's rate alpha_0. The steps of the run are divided into M cycles, whose lengths differ by at
    most one step. Momentum and other states of the optimizer are not reset, as in the authors' code. At the
    end of each cycle the module, including statistics of batch normalisation (with DDP those of rank 0), is
    written to `folder/snapshot<k>.ckpt`.

    In evaluation the module's network returns log p, where p is the mean of its softmax probabilities over
    the last m snapshots, or with `average="outputs"` the mean of its outputs: the module's own loss, accuracy
    and probabilities are those of the ensemble. All m networks are kept in memory. It logs
    `optreg/snapshot_ensemble/predictive_entropy`, `expected_entropy` and `mutual_information`, which measure
    their disagreement (see `lightning_optreg.functional.spread`), or `std`, the standard deviation of
    outputs, and in training `optreg/snapshot_ensemble/members`.

    It works with any module with automatic optimization and without a schedule; a run is resumed in the same
    folder. A new run refuses a folder with snapshots of another run.

    Args:
        cycles: M, at least 1. Default: 5.
        members: m, the number of last snapshots that are averaged, at least 1. None: all.
        schedule: Whether to set the rate. False: the module sets it; snapshots are taken at the same steps.
        folder: Folder of the snapshots. None: `snapshots` in the trainer's `default_root_dir`, which is the
            run's folder on the command line.
        stages: Stages that average snapshots: some of `validate`, `test`, `predict`. In a fit, validation
            averages those taken so far. Default: test and predict.
        net: Name of the network in the LightningModule. None: see `find_network`.
        average: `probabilities`, for networks that return scores, as in the paper; `outputs`, the plain mean,
            for regression and for networks that return probabilities. Default: probabilities.

    Raises:
        ValueError: If a value is out of its range.
        TypeError: If schedule is not a bool.
        MisconfigurationException: Before the first step, if optimization is manual, the strategy shards
            parameters, the module or `StochasticWeightAveraging` has a schedule, the run has no end or fewer
            steps than cycles, the folder has snapshots of another run, the network is not found, or another
            callback can't be combined with this one; at test, if there are too few snapshots, the step does
            not call the network, or its output can't be averaged.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> ensemble = SnapshotEnsemble(cycles=5, members=3)
        >>> trainer = Trainer(max_epochs=50, callbacks=[ensemble], accelerator="cpu", logger=False)
    """

    only_one = "as each sets the learning rate"
    place: ClassVar[int] = 1

    def __init__(
        self,
        cycles: int = 5,
        members: int | None = None,
        schedule: bool = True,
        folder: str | None = None,
        stages: Sequence[Stage] = ("test", "predict"),
        net: str | None = None,
        average: Average = "probabilities",
    ) -> None:
        super().__init__(stages, average, net, seed=0)
        for name, count in (("cycles", cycles), ("members", members)):
            if count is not None and not (isinstance(count, int) and count >= 1):
                raise ValueError(f"SnapshotEnsemble: {name} must be a whole number >= 1, got {count}")
        if not isinstance(schedule, bool):
            raise TypeError(f"SnapshotEnsemble: schedule must be true or false, got {schedule!r}")
        self.cycles, self.members, self.schedule, self.folder = cycles, members, schedule, folder
        self._log_name = "snapshot_ensemble"
        self._ends: list[int] = []
        self._taken = 0  # snapshots of this run
        self._fitting = self._resumed = False
        self._full_rates: list[list[float]] = []
        self._factor: float | None = None  # of the last step
        self._seen: list[Optimizer] = []
        self._prefix = ""
        self._where: Place = Path()
        self._states: list[dict[str, Tensor]] = []
        self._own: dict[str, Tensor] = {}

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find network and folder, and forget an earlier run; a checkpoint is loaded after this."""
        super().setup(trainer, pl_module, stage)
        self._where = place_of(self.folder or str(place_of(trainer.default_root_dir) / "snapshots"))
        self._fitting = stage == "fit"
        if self._fitting:
            self._taken, self._resumed = 0, False
            self._full_rates, self._seen, self._factor = [], [], None

    @override
    def look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the network and its name."""
        super().look(trainer, pl_module)
        network = find_network(pl_module, self.net, "SnapshotEnsemble")
        name = next(name for name, module in pl_module.named_modules() if module is network)
        self._prefix = f"{name}." if name else ""

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse unsupported setups."""
        super().on_fit_start(trainer, pl_module)
        refuse_manual_optimization(
            pl_module, "SnapshotEnsemble", "since its cycles count the trainer's steps"
        )
        refuse_sharding(trainer, "SnapshotEnsemble", "so no process could load a snapshot")
        if self.schedule and trainer.lr_scheduler_configs:
            raise MisconfigurationException(
                "SnapshotEnsemble: the module has a learning-rate schedule; remove it, or set schedule=False"
            )
        callbacks = callbacks_of(trainer)
        if self.schedule and any(isinstance(each, StochasticWeightAveraging) for each in callbacks):
            raise MisconfigurationException(
                "SnapshotEnsemble: StochasticWeightAveraging sets the learning rate too; remove one of the "
                "two, or set schedule=False"
            )
        # The first process looks: a worker that begins later would find snapshots of this run.
        stale = trainer.strategy.broadcast(trainer.is_global_zero and bool(snapshots(self._where)))
        if stale and not self._resumed:
            raise MisconfigurationException(
                f"SnapshotEnsemble: {self._where} has snapshots of another run; remove them, or pass another "
                "folder"
            )

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Divide the run's steps into cycles."""
        total = run_length(trainer, "step", 1).times
        if not self.cycles <= total < math.inf:
            raise MisconfigurationException(
                f"SnapshotEnsemble: cycles must be <= the run's steps, {total}, got {self.cycles}"
            )
        self._ends = cycle_ends(int(total), self.cycles)

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the rates of the step."""
        if not self.schedule:
            return
        optimizers = list(trainer.optimizers)
        if self._seen != optimizers:
            # At first the rates from a checkpoint; an optimizer that replaces another has its own.
            if self._seen or not self._full_rates:
                self._full_rates = [[float(g["lr"]) for g in o.param_groups] for o in optimizers]
                self._factor = None
            self._seen = optimizers
        factor = cosine_factor(trainer.global_step, self._ends)
        if self._factor is not None:  # groups or rates may have changed since
            self._full_rates = [
                [float(rate) for rate in full_rates(optimizer, rates, self._factor, rises=True)]
                for optimizer, rates in zip(optimizers, self._full_rates, strict=True)
            ]
        self._factor = factor
        for optimizer, rates in zip(optimizers, self._full_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                set_rate(group, rate * factor)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take a snapshot at a cycle's end."""
        done = bisect_right(self._ends, trainer.global_step)
        if done > self._taken:
            self._taken = done
            trainer.save_checkpoint(str(self._where / f"snapshot{done}.ckpt"), weights_only=True)
        if is_logging_step(trainer):
            pl_module.log("optreg/snapshot_ensemble/members", float(self._taken), batch_size=1)

    @override
    def inputs(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the same images in every pass, with the weights of the next snapshot."""
        if self._network is None or not self._states:  # in a fit's validation, before the first snapshot
            yield images
            return
        for state in self._states:
            _put(self._network, state)
            yield images

    @override
    def begin(self, network: nn.Module) -> None:
        """Load the snapshots."""
        paths = snapshots(self._where)
        if self._fitting:  # those taken so far; the folder may have more if the run was resumed
            paths = paths[: self._taken]
        wanted = 1 if self.members is None else self.members
        if len(paths) < wanted and not self._fitting:
            raise MisconfigurationException(
                f"SnapshotEnsemble: found {len(paths)} snapshots in {self._where}, need at least {wanted}; "
                "pass folder=..."
            )
        paths = paths if self.members is None else paths[-self.members :]
        self._states = [in_form_of(network.state_dict(), self._load(path)) for path in paths]
        self._own = _tensors(network)

    def _load(self, path: Place) -> dict[str, Tensor]:
        # Trainers evaluate in inference mode, whose tensors can't be parameters afterwards.
        with torch.inference_mode(False):
            saved = read_plain(path, what="SnapshotEnsemble", map_location=self._device)["state_dict"]
        start = len(self._prefix)
        return {name[start:]: value for name, value in saved.items() if name.startswith(self._prefix)}

    @override
    def switch(self, on: bool) -> None:
        """Restore the network's own weights after the passes: others may read or change them."""
        if not on and self._network is not None and self._own:
            _put(self._network, self._own)

    @override
    def end(self) -> None:
        """Forget the snapshots."""
        self.switch(False)
        self._states, self._own = [], {}

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the full rates and the number of snapshots."""
        full_rates = [list(rates) for rates in self._full_rates]
        return {"taken": self._taken, "full_rates": full_rates, "factor": self._factor}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self._taken, self._resumed = state_dict["taken"], True
        self._full_rates = [list(rates) for rates in state_dict["full_rates"]]
        self._factor = state_dict.get("factor")


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of parameters and buffers, by their names in the state dict."""
    kept = network.state_dict(keep_vars=True)
    return {name: value.data for name, value in kept.items() if isinstance(value, Tensor)}


def _put(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Replace the tensors of parameters and buffers, without copying."""
    with torch.inference_mode(False):
        for name, value in network.state_dict(keep_vars=True).items():
            if isinstance(value, Tensor):
                value.data = tensors[name]
