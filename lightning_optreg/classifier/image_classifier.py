"""The LightningModule that wraps any network of images to scores: its steps, its metrics, its optimizer."""

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
    the command line wrote; one written in Python needs them: `load_from_checkpoint(path, net=net)`. Of what a
    checkpoint names, only networks and the like of this package, torch, torchvision and torchmetrics are
    built; `allow=["my_package"]` adds a package of yours.

    Args:
        net: The network: one of this package, torchvision's, your own.
        loss: Maps scores (N, K) and labels (N,) to their mean loss. None: `CrossEntropyLoss()`.
        optimizer: Makes the optimizer from the parameters. None: SGD, learning rate 0.1, momentum 0.9.
        lr_scheduler: Makes the learning-rate schedule from the optimizer. None: a constant rate. A class that
            takes its length (`OneCycleLR`, `CosineAnnealingLR`, `PolynomialLR`, `SnapshotCosine`, also
            within `Warmup`) or a `functools.partial` of one gets the run's: leave it out. `LinearLR` and
            `ConstantLR` take the length of a warm-up, 5 by default.
        lr_interval: Whether the schedule counts "epoch"s or "step"s of the optimizer.
        lr_frequency: Epochs or steps from one step of the schedule to the next, at least 1; Lightning counts
            steps anew in each epoch.
        lr_monitor: What `ReduceLROnPlateau` watches, unless it has a `monitor` of its own.
        num_classes: Number of classes K, at least 2.
        no_decay: Spare biases and the parameters of normalisation layers from weight decay. Whether the rest
            decays by an L2 term in the gradient (SGD, Adam) or decoupled from it (AdamW) is the optimizer's
            matter; see `param_groups`.
        channels_last: Keep images and weights in the channels-last layout, often faster for convolutions. Not
            for strided 1x1 convolutions of fewer than 8 channels: on CPUs without AVX-512 torch 2.14 writes
            past the memory of their gradients (https://github.com/uxlfoundation/oneDNN/issues/6035).
        compile: Compile the network with `torch.compile` before training. Checkpoints stay the same.
        aux_weight: Weight of each auxiliary head's loss, at least 0. In training a network may return a
            tuple, its scores first, then those of auxiliary heads (`GoogLeNet`; torchvision's GoogLeNet and
            Inception v3). The step minimises the first one's loss plus aux_weight times each other one's;
            what is logged is the first one's. The default is that of Szegedy et al. 2015 (arXiv:1409.4842).

    Raises:
        TypeError: If `net` or `loss` is not an `nn.Module`.
        ValueError: If a value is out of its range; before the first step, if scores or labels don't fit
            `num_classes`.
        MisconfigurationException: Before the first step, if a schedule is given a length that is not the
            run's, the run that it should take it from has no end, or it goes on from a checkpoint whose run
            had another length, or if a `OneCycleLR` has no room to rise and fall. `fast_dev_run` takes any.

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
            # Lightning 2.6 notes so that its command line builds the module: all of the settings are plain.
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
        self._begun = (0, 0)  # epochs and steps that the trainer had made before the schedule
        self._lengths: list[tuple[str, str, int]] = []  # that the schedule was made with
        self._length_loaded: int | None = None  # of the run whose checkpoint was loaded
        self._resumed: dict[str, Any] | None = None  # the checkpoint that a fit goes on from, without tensors
        self._checked_length = True
        self._searching = False  # for a batch size, by which the run's length will change

        # No groups that share states: they are formed by comparing values, which may be equal by chance.
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
        # Of this process in this epoch: sum of losses and right predictions, and the number of images. No
        # buffers: DDP overwrites those with the first process's before every step.
        self._sums, self._images = torch.zeros(2), 0
        self._sums_loaded: Tensor | None = None  # (processes, 3), of a checkpoint
        self._counted = -1  # the last batch that is in them
        self._compiled = False
        self._checked = False

    @override
    def setup(self, stage: str) -> None:
        """Forget an earlier fit's checkpoint."""
        self._resumed = None
        if stage == "fit":  # above 0 where a trainer fits again; a checkpoint has its own
            self._begun = (self.trainer.current_epoch, self.trainer.global_step)
        self._searching = stage == "fit" and searches_batch_size(self.trainer)

    @override
    def configure_model(self) -> None:
        """Compile the network if asked to; in place, so that the names of its parameters stay."""
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
        """Make the optimizer, with its parameter groups, and the schedule."""
        groups = param_groups(self, no_decay=self.no_decay)
        make: Callable[[Any], torch.optim.Optimizer] = self.make_optimizer or _default_optimizer
        optimizer = make(groups[:1])
        # Asked before there is a second group: some optimizers without weight decay take only one.
        if self.no_decay and "weight_decay" not in optimizer.defaults:
            raise MisconfigurationException(
                f"ImageClassifier: no_decay needs an optimizer with weight_decay; "
                f"{type(optimizer).__name__} has none"
            )
        if len(groups) > 1:
            # Made anew, not added to: torch 2.9's Adagrad gives no state to groups that come later.
            optimizer = make(groups)
        if self.lr is not None:
            for group in optimizer.param_groups:
                # Not written into a tensor, which may be the user's: other optimizers are made with it.
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
            # Lightning's class of that name, which its command line builds, may have a monitor of its own
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
        """The run's length, and what it goes on from; None without a trainer."""
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
        """Make optimizer and schedule again if Lightning's callbacks have just found a rate or a batch size.

        The rate is set in the optimizer only, where a schedule replaces it at its next step.
        """
        if self.lr != self._lr_in_use or self._searching:
            self._searching = False
            self.trainer.strategy.setup_optimizers(self.trainer)

    @override
    def on_train_start(self) -> None:
        """Bring the sums of an epoch that goes on to the device; warn of what the run will not do."""
        self._take_up_sums()
        self._sums, self._counted = self._sums.to(self.device), -1
        callbacks = callbacks_of(self.trainer)
        if not any(isinstance(callback, TurnsNoiseOff) for callback in callbacks):  # which warns itself
            warn_of_noise(self.trainer, self)
        run = self._run()
        if self._lengths and ends_by_time(self.trainer):
            cls, name, length = self._lengths[0]
            rank_zero_info(
                f"lr_scheduler: max_time may end the run before {cls} does, whose {name} is {length}"
            )
        for config in self.trainer.lr_scheduler_configs:
            check_loaded(config.scheduler, self._lengths)
            if run is not None and self.trainer.global_step == 0:  # a run that goes on has told it
                warn_of_unreached(config.scheduler, run)

    @override
    def on_train_epoch_start(self) -> None:
        """Begin the epoch's sums; not called when one goes on after a resume."""
        self._sums, self._images = torch.zeros(2, device=self.device), 0
        self._counted = -1

    @override
    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """Return the mean loss of a batch (x, y); y are classes (N,), or probabilities (N, K)."""
        x, y = batch[0], batch[1]
        outputs: Tensor | tuple[Tensor | None, ...] = self._scores(x, y)
        # Torchvision's named tuples have None in the place of a head that is left out.
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
        # 20 us a step: a torchmetrics update and two calls of self.log cost 25 times as much.
        self._sums += torch.stack((loss.detach().float() * len(y), right))
        self._images += len(y)
        if is_logging_step(self.trainer, self.trainer.global_step + 1):
            self.log("train/loss_step", loss, prog_bar=True, batch_size=len(y))

    @override
    def on_train_epoch_end(self) -> None:
        """Log the epoch's means."""
        loss, right, images = self.trainer.strategy.reduce(self._sums_here(), reduce_op="sum")
        self._sums, self._images = torch.zeros_like(self._sums), 0
        if images > 0:  # resumed at an epoch's end, Lightning goes through an empty one
            self.log("train/loss", loss / images, sync_dist=True)
            self.log("train/accuracy", right / images, prog_bar=True, sync_dist=True)

    def _sums_here(self) -> Tensor:
        # A new tensor, since under DDP it is reduced in place; of the device, as NCCL wants it.
        return torch.cat((self._sums, self._sums.new_tensor([self._images]))).to(self.device)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the sums of an epoch that is half done, those of each process, and the schedule's length."""
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
        """Keep the sums until training starts, and with it is known which process this is."""
        self._sums_loaded = checkpoint.get("train_sums")
        if self._searching:  # the search for a batch size goes back to where it began
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
        else:  # the first one takes the sums of all
            sums = ranks.sum(0) * (self.global_rank == 0)
        self._sums, self._images, self._sums_loaded = sums[:2].clone(), int(sums[2]), None

    @override
    def on_validation_epoch_start(self) -> None:
        """Begin anew, should an earlier validation have been broken off."""
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
        """Begin anew, should an earlier test have been broken off."""
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

    # Until one batch has gone through, network and loss are called with checks around them.

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
