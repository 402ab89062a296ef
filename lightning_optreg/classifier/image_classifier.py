"""The LightningModule for any network that maps images to scores: its steps, its metrics, its optimizer."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from typing_extensions import override

from lightning_optreg.calibration import CalibrationError
from lightning_optreg.classifier._first_batch import checked_loss, checked_scores
from lightning_optreg.classifier.brier_score import brier_score
from lightning_optreg.losses import ScoreLoss
from lightning_optreg.nets import Network
from lightning_optreg.optimizers.param_groups import param_groups
from lightning_optreg.randomness.processes import of_all_processes
from lightning_optreg.schedulers import Warmup
from lightning_optreg.trainer.found_rate import at_rate
from lightning_optreg.trainer.noise_left import warn_of_noise
from lightning_optreg.trainer.queries import callbacks_of, is_logging_step
from lightning_optreg.trainer.roles import ResetsOptimizers, TurnsNoiseOff
from lightning_optreg.trainer.run_length import (
    RunLength,
    ends_by_time,
    run_length,
    searches_batch_size,
    trial_length,
)
from lightning_optreg.trainer.schedule_length import fitted, with_lengths
from lightning_optreg.trainer.schedule_parts import check_loaded, check_made, lengths, warn_of_unreached
from lightning_optreg.trust import VettedLoading

__all__ = ["ImageClassifier"]


def _default_optimizer(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


class ImageClassifier(VettedLoading, LightningModule):
    """Trains, tests and applies any network that maps images (N, C, H, W) to scores (N, K).

    In training it logs `train/loss` and `train/accuracy`, means over the epoch, and every `log_every_n_steps`
    steps `train/loss_step`; in validation `val/loss`, `val/accuracy` and `val/top5` (the true class is among
    the 5 with the highest scores: always 1 if K <= 5); in the test `test/loss`, `test/accuracy`, `test/top5`,
    `test/nll` (mean negative log-likelihood, in nats), `test/brier` (see `brier_score`) and
    `test/calibration_error` (see `CalibrationError`). All are means over images, over
    all processes. A prediction is the softmax of the scores.

    `ImageClassifier.load_from_checkpoint(path)` builds network, loss and optimizer too from a checkpoint that
    the command line wrote; one written in Python needs them: `load_from_checkpoint(path, net=net)`. Only
    classes of this package, torch, torchvision and torchmetrics are built from a checkpoint;
    `allow=["my_package"]` adds your own package.

    Args:
        net: The network, from this package, torchvision or your own.
        loss: Maps scores (N, K) and labels (N,) to their mean loss. None: `CrossEntropyLoss()`.
        optimizer: Makes the optimizer from the parameters. None: SGD, learning rate 0.1, momentum 0.9.
        lr_scheduler: Makes the learning-rate schedule from the optimizer. None: a constant rate. A class that
            takes its length (`OneCycleLR`, `CosineAnnealingLR`, `PolynomialLR`, `SnapshotCosine`, also
            within `Warmup`) or a `functools.partial` of one gets the run's length: leave it out. `LinearLR`
            and `ConstantLR` take the length of a warm-up, 5 by default.
        lr_interval: Whether the schedule counts "epoch"s or "step"s of the optimizer.
        lr_frequency: Number of epochs or steps between steps of the schedule, at least 1; Lightning counts
            steps from 0 in each epoch.
        lr_monitor: Value that `ReduceLROnPlateau` monitors, unless it has its own `monitor`.
        num_classes: Number of classes K, at least 2.
        no_decay: Exclude biases and the parameters of normalisation layers from weight decay. The optimizer
            determines whether the others decay by an L2 term in the gradient (SGD, Adam) or decoupled from it
            (AdamW); see `param_groups`.
        channels_last: Keep images and weights in the channels-last layout, often faster for convolutions. Not
            for strided 1x1 convolutions of fewer than 8 channels: on CPUs without AVX-512 torch 2.14 writes
            past the memory of their gradients (https://github.com/uxlfoundation/oneDNN/issues/6035).
        compile: Compile the network with `torch.compile` before training. Checkpoints stay the same.
        aux_weight: Weight of each auxiliary head's loss, at least 0. In training a network may return a
            tuple: its scores, then those of auxiliary heads (`GoogLeNet`; torchvision's GoogLeNet and
            Inception v3). The step minimises the loss of the scores plus aux_weight times that of each
            auxiliary head; only the former is logged. Default: 0.3, as in Szegedy et al. 2015
            (arXiv:1409.4842).

    Raises:
        TypeError: If `net` or `loss` is not an `nn.Module`.
        ValueError: If a value is out of its range; before the first step, if scores or labels don't fit
            `num_classes`.
        MisconfigurationException: Before the first step, if the given length of a schedule is not the run's,
            a schedule takes its length from a run without an end, a checkpoint's run had another length, or a
            `OneCycleLR` is too short to rise and fall (`fast_dev_run` accepts any length), or if `no_decay`
            is set for an optimizer without weight decay; in evaluation, if the network returns a tuple.

    Example:
        >>> from lightning_optreg.nets import LeNet5
        >>> model = ImageClassifier(LeNet5(), optimizer=torch.optim.AdamW, no_decay=True)
        >>> model(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        net: Network | nn.Module,
        loss: ScoreLoss | nn.Module | None = None,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_interval: Literal["epoch", "step"] = "epoch",
        lr_frequency: int = 1,
        lr_monitor: str = "val/loss",
        num_classes: int = 10,
        no_decay: bool = False,
        channels_last: bool = False,
        compile: bool = False,
        aux_weight: float = 0.3,
    ) -> None:
        super().__init__()
        if not isinstance(net, nn.Module):
            raise TypeError(f"ImageClassifier: net must be an nn.Module, got {type(net).__name__}")
        if loss is not None and not isinstance(loss, nn.Module):
            raise TypeError(f"ImageClassifier: loss must be an nn.Module, got {type(loss).__name__}")
        if lr_interval not in ("epoch", "step"):
            raise ValueError(f"ImageClassifier: lr_interval must be epoch or step, got {lr_interval!r}")
        if not lr_frequency >= 1:
            raise ValueError(f"ImageClassifier: lr_frequency must be >= 1, got {lr_frequency}")
        if not num_classes >= 2:
            raise ValueError(f"ImageClassifier: num_classes must be >= 2, got {num_classes}")
        if not 0.0 <= aux_weight < float("inf"):
            raise ValueError(f"ImageClassifier: aux_weight must be in [0, inf), got {aux_weight}")
        self.save_hyperparameters(ignore=["net", "loss", "optimizer", "lr_scheduler"])
        if "_instantiator" in self.hparams:
            # Lightning's command line builds the module and saves its configuration, which is plain.
            self.save_hyperparameters()
        self.net = net.to(memory_format=torch.channels_last) if channels_last else net
        self.loss = nn.CrossEntropyLoss() if loss is None else loss
        self.make_optimizer = optimizer
        self.make_lr_scheduler = lr_scheduler
        self.lr_interval, self.lr_frequency, self.lr_monitor = lr_interval, lr_frequency, lr_monitor
        self.num_classes, self.no_decay, self.channels_last = num_classes, no_decay, channels_last
        self.compile_net, self.aux_weight = compile, aux_weight
        self.lr: float | None = None
        """Set by Lightning's learning-rate finder: replaces the optimizer's rate and a schedule's max_lr."""
        self._lr_in_use: float | None = None
        self._length: int | None = None  # of the run that the schedule was made for
        self._begun = (0, 0)  # epochs and steps of the trainer before the schedule
        self._lengths: list[tuple[str, str, int]] = []  # of the schedule as it was created
        self._length_loaded: int | None = None  # of the run whose checkpoint was loaded
        self._resumed: dict[str, Any] | None = None  # of a resumed fit's checkpoint, without tensors
        self._checked_length = True
        self._searching = False  # for a batch size, which will change the run's length

        # No compute groups that share states: they are found by comparing values, which may be equal by
        # chance.
        accuracies = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(num_classes, average="micro", validate_args=False),
                "top5": MulticlassAccuracy(
                    num_classes, top_k=min(5, num_classes), average="micro", validate_args=False
                ),
            },
            compute_groups=False,
        )
        self.val_metrics = accuracies.clone(prefix="val/")
        self.test_metrics = accuracies.clone(prefix="test/")
        self.test_metrics.add_metrics({"calibration_error": CalibrationError()})
        self.val_loss, self.test_loss = MeanMetric(), MeanMetric()
        self.test_nll, self.test_brier = MeanMetric(), MeanMetric()
        # Of this process in this epoch: sum of losses and correct predictions, and the number of images. Not
        # buffers: DDP overwrites those with rank 0's before every step.
        self._sums, self._images = torch.zeros(2), 0
        self._sums_loaded: Tensor | None = None  # (processes, 3), of a checkpoint
        self._counted = -1  # the last batch included
        self._compiled = False
        self._checked = False

    @override
    def setup(self, stage: str) -> None:
        """Forget an earlier fit's checkpoint."""
        self._resumed = None
        if stage == "fit":  # above 0 if a trainer fits again; a checkpoint has its own
            self._begun = (self.trainer.current_epoch, self.trainer.global_step)
        self._searching = stage == "fit" and searches_batch_size(self.trainer)

    @override
    def configure_model(self) -> None:
        """Compile the network if configured; in place, so that the names of its parameters don't change."""
        if self.compile_net and not self._compiled:
            self.net.compile()
            self._compiled = True

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to scores (N, K); in training to whatever tuple the network returns."""
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        scores: Tensor = self.net(x)
        if not (self.training or isinstance(scores, Tensor)):
            raise MisconfigurationException(
                "ImageClassifier: in evaluation the network must return one tensor of scores, got "
                f"{type(scores).__name__}"
            )
        return scores

    @override
    def configure_optimizers(self) -> Any:
        """Create the optimizer, with its parameter groups, and the schedule."""
        groups = param_groups(self, no_decay=self.no_decay)
        make: Callable[[Any], torch.optim.Optimizer] = self.make_optimizer or _default_optimizer
        optimizer = make(groups[:1])
        # Checked before there is a second group: some optimizers without weight decay take only one.
        if self.no_decay and "weight_decay" not in optimizer.defaults:
            raise MisconfigurationException(
                f"ImageClassifier: no_decay needs an optimizer with weight_decay; "
                f"{type(optimizer).__name__} has none"
            )
        if len(groups) > 1:
            # Created again, not extended: torch 2.9's Adagrad gives no state to groups that are added later.
            optimizer = make(groups)
        if self.lr is not None:
            for group in optimizer.param_groups:
                # Not in place: the tensor may be the user's, and used for other optimizers.
                old = group["lr"]
                group["lr"] = torch.full_like(old, self.lr) if isinstance(old, Tensor) else self.lr
        self._lr_in_use = self.lr
        if self.make_lr_scheduler is None:
            return optimizer
        scheduler = self._make_schedule(self.make_lr_scheduler, optimizer)
        config: dict[str, Any] = {
            "scheduler": scheduler,
            "interval": self.lr_interval,
            "frequency": self.lr_frequency,
        }
        plateau = scheduler.schedule if isinstance(scheduler, Warmup) else scheduler
        if isinstance(plateau, ReduceLROnPlateau):
            # Lightning's class of that name, which its command line builds, may have its own monitor
            config["monitor"] = getattr(plateau, "monitor", None) or self.lr_monitor
            config["reduce_on_plateau"] = True
        return {"optimizer": optimizer, "lr_scheduler": config}

    def _make_schedule(self, make: LRSchedulerCallable, optimizer: torch.optim.Optimizer) -> Any:
        if self.lr is not None:
            make = at_rate(make, self.lr)
        run = self._run()
        if run is None:
            return make(optimizer)
        scheduler = fitted(make, run)(optimizer)
        check_made(scheduler, run)
        self._lengths = [] if run.dry else lengths(scheduler)
        self._length = int(run.asked[0]) if run.asked and run.asked[0] < float("inf") else None
        self._checked_length = run.checked
        return scheduler

    def _run(self) -> RunLength | None:
        """Return the run's length, with what it continues from; None without a trainer."""
        try:
            trainer: Any = self.trainer
        except RuntimeError:
            return None
        if not isinstance(trainer, Trainer):  # Fabric's
            return None
        if self._searching:
            return trial_length()
        run = run_length(trainer, self.lr_interval, self.lr_frequency, self._begun)
        callbacks = callbacks_of(trainer)
        if self._resumed is None or any(isinstance(each, ResetsOptimizers) for each in callbacks):
            return replace(run, loaded=self._length_loaded)
        return replace(run, loaded=self._length_loaded, **self._resumed)

    @override
    def on_fit_start(self) -> None:
        """Create optimizer and schedule again if a callback of Lightning has just found a rate or batch size.

        Lightning only sets the rate in the optimizer, where a schedule would replace it at its next step.
        """
        if self.lr != self._lr_in_use or self._searching:
            self._searching = False
            self.trainer.strategy.setup_optimizers(self.trainer)

    @override
    def on_train_start(self) -> None:
        """Restore the sums of an epoch that continues, and warn of noise and of times after the run's end."""
        self._take_up_sums()
        self._sums, self._counted = self._sums.to(self.device), -1
        callbacks = callbacks_of(self.trainer)
        if not any(isinstance(callback, TurnsNoiseOff) for callback in callbacks):  # it warns itself
            warn_of_noise(self.trainer, self)
        run = self._run()
        if self._lengths and ends_by_time(self.trainer):
            cls, name, length = self._lengths[0]
            rank_zero_info(
                f"lr_scheduler: max_time may end the run before {cls} does, whose {name} is {length}"
            )
        for config in self.trainer.lr_scheduler_configs:
            check_loaded(config.scheduler, self._lengths)
            if run is not None and self.trainer.global_step == 0:  # a resumed run has already warned
                warn_of_unreached(config.scheduler, run)

    @override
    def on_train_epoch_start(self) -> None:
        """Reset the epoch's sums; not called when an epoch continues after a resume."""
        self._sums, self._images = torch.zeros(2, device=self.device), 0
        self._counted = -1

    @override
    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """Return the mean loss of a batch (x, y); y are classes (N,), or probabilities (N, K)."""
        x, y = batch[0], batch[1]
        outputs: Tensor | tuple[Tensor | None, ...] = self._scores(x, y)
        # torchvision's named tuples have None for a head that is left out.
        heads = (outputs,) if isinstance(outputs, Tensor) else [h for h in outputs if h is not None]
        scores, *auxiliary = heads
        loss = self._loss(scores, y)
        if batch_idx > self._counted:  # optimizers such as LBFGS evaluate a batch several times
            self._counted = batch_idx
            self._count(scores, y, loss)
        for others in auxiliary:
            loss = loss + self.aux_weight * self._loss(others, y)
        return loss

    def _count(self, scores: Tensor, y: Tensor, loss: Tensor) -> None:
        classes = y if y.ndim == 1 else y.argmax(dim=1)  # the larger part of a mixture
        right = (scores.argmax(dim=1) == classes).sum()
        # 20 us per step: a torchmetrics update and two calls of self.log cost 25 times as much.
        self._sums += torch.stack((loss.detach().float() * len(y), right))
        self._images += len(y)
        if is_logging_step(self.trainer, self.trainer.global_step + 1):
            self.log("train/loss_step", loss, prog_bar=True, batch_size=len(y))

    @override
    def on_train_epoch_end(self) -> None:
        """Log the epoch's means."""
        loss, right, images = self.trainer.strategy.reduce(self._sums_here(), reduce_op="sum")
        self._sums, self._images = torch.zeros_like(self._sums), 0
        if images > 0:  # resumed at an epoch's end, Lightning runs an empty one
            self.log("train/loss", loss / images, sync_dist=True)
            self.log("train/accuracy", right / images, prog_bar=True, sync_dist=True)

    def _sums_here(self) -> Tensor:
        # A new tensor, as DDP reduces it in place; on the device, as NCCL needs it.
        return torch.cat((self._sums, self._sums.new_tensor([self._images]))).to(self.device)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the sums of an unfinished epoch, those of each process, and the schedule's length."""
        checkpoint["train_sums"] = torch.stack(of_all_processes(self._sums_here(), self.trainer)).cpu()
        if self._length and self._checked_length:
            checkpoint["schedule_length"] = self._length
            checkpoint["schedule_begun"] = list(self._begun)
        configured = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
        if "lr_scheduler" in configured:
            configured["lr_scheduler"] = with_lengths(
                configured["lr_scheduler"], self._length or 1, self.lr_monitor
            )

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the sums until training starts, when the rank of this process is known."""
        self._sums_loaded = checkpoint.get("train_sums")
        if self._searching:  # the search for a batch size restores its start
            return
        self._length_loaded = checkpoint.get("schedule_length")
        epoch, step = checkpoint.get("schedule_begun", (0, 0))
        self._begun = (epoch, step)
        saved = next(iter(checkpoint.get("lr_schedulers", ())), None)
        self._resumed = {"saved": saved, "checked": "schedule_length" in checkpoint}

    def _take_up_sums(self) -> None:
        if self._sums_loaded is None:
            return
        ranks = self._sums_loaded.reshape(-1, 3)
        if len(ranks) == self.trainer.world_size:
            sums = ranks[self.global_rank]
        else:  # rank 0 gets the sums of all
            sums = ranks.sum(0) * (self.global_rank == 0)
        self._sums, self._images, self._sums_loaded = sums[:2].clone(), int(sums[2]), None

    @override
    def on_validation_epoch_start(self) -> None:
        """Reset the metrics, in case an earlier validation was interrupted."""
        self._reset("val")

    @override
    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Count a batch (x, y)."""
        x, y = batch[0], batch[1]
        scores = self._scores(x, y)
        self.val_loss.update(self._loss(scores, y), weight=len(y))
        self.val_metrics.update(scores, y)

    @override
    def on_validation_epoch_end(self) -> None:
        """Log the validation's means."""
        self._log_and_reset("val")

    @override
    def on_test_epoch_start(self) -> None:
        """Reset the metrics, in case an earlier test was interrupted."""
        self._reset("test")

    @override
    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Count a batch (x, y)."""
        x, y = batch[0], batch[1]
        scores = self._scores(x, y).float()
        self.test_loss.update(self._loss(scores, y), weight=len(y))
        probabilities = scores.softmax(dim=1)
        self.test_metrics.update(probabilities, y)
        self.test_nll.update(F.cross_entropy(scores, y), weight=len(y))
        self.test_brier.update(brier_score(probabilities, y))

    @override
    def on_test_epoch_end(self) -> None:
        """Log the test's means."""
        self._log_and_reset("test")

    @override
    def predict_step(self, batch: Sequence[Tensor] | Tensor, batch_idx: int) -> Tensor:
        """Return the class probabilities (N, K) of a batch x or (x, ...)."""
        scores: Tensor = self(batch if isinstance(batch, Tensor) else batch[0])
        return scores.float().softmax(dim=1)

    def _metrics(self, stage: Literal["val", "test"]) -> tuple[MetricCollection, dict[str, MeanMetric]]:
        if stage == "val":
            return self.val_metrics, {"val/loss": self.val_loss}
        means = {"test/loss": self.test_loss, "test/nll": self.test_nll, "test/brier": self.test_brier}
        return self.test_metrics, means

    def _log_and_reset(self, stage: Literal["val", "test"]) -> None:
        metrics, means = self._metrics(stage)
        values = {**metrics.compute(), **{name: mean.compute() for name, mean in means.items()}}
        self.log_dict(values, prog_bar=stage == "val", sync_dist=True)
        self._reset(stage)

    def _reset(self, stage: Literal["val", "test"]) -> None:
        metrics, means = self._metrics(stage)
        metrics.reset()
        for mean in means.values():
            mean.reset()

    # For the first batch, network and loss are called with checks.

    def _scores(self, x: Tensor, labels: Tensor) -> Tensor:
        scores: Tensor = (
            self(x)
            if self._checked
            else checked_scores(self, x, labels, self.num_classes, soft=self.training)
        )
        return scores

    def _loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self.loss(scores, labels) if self._checked else checked_loss(self.loss, scores, labels)
        self._checked = True
        return loss
