"""The LightningModule for any network that maps images to scores: its steps, its metrics, its optimizer."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from typing_extensions import override

from lightning_optreg._checks import check_range
from lightning_optreg.calibration import CalibrationError
from lightning_optreg.classifier._compiled import MODES, compile_in_place
from lightning_optreg.classifier._epoch_sums import EpochSums
from lightning_optreg.classifier._first_batch import checked_loss, checked_scores
from lightning_optreg.classifier._groups import grouped_optimizer
from lightning_optreg.classifier._run_schedule import RunSchedule
from lightning_optreg.classifier.brier_score import brier_score
from lightning_optreg.losses import ScoreLoss
from lightning_optreg.nets import Network
from lightning_optreg.randomness.processes import of_all_processes
from lightning_optreg.schedulers import Warmup
from lightning_optreg.trainer.found_rate import at_rate
from lightning_optreg.trainer.group_rates import check_ratios, with_factors
from lightning_optreg.trainer.noise_left import warn_of_noise
from lightning_optreg.trainer.queries import callbacks_of, is_logging_step
from lightning_optreg.trainer.refusals import refuse_newton_alone
from lightning_optreg.trainer.roles import TurnsNoiseOff
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
        compile: Compile the network with `torch.compile` before training. Checkpoints stay the same. True or
            "default": its default mode. "reduce-overhead": the network's kernels are launched together, as a
            CUDA graph, which helps small networks and batches on a GPU. "max-autotune": also searches for the
            fastest kernels, which takes minutes. A graph is recorded for each size of a batch.
        aux_weight: Weight of each auxiliary head's loss, at least 0. In training a network may return a
            tuple: its scores, then those of auxiliary heads (`GoogLeNet`; torchvision's GoogLeNet and
            Inception v3). The step minimises the loss of the scores plus aux_weight times that of each
            auxiliary head; only the former is logged. Default: 0.3, as in Szegedy et al. 2015
            (arXiv:1409.4842).
        lr_factors: Multiples of the learning rate, above 0, by patterns for names of parameters
            (`net.output.*`, `*.bias`) or for the class of their layer and the name in it
            (`BatchNorm2d.bias`); see `param_groups`. Each must match something. Schedules keep them, also
            `OneCycleLR` and `CyclicLR`. `LearningRateMonitor` logs the rates as `lr-SGD/x1`, `lr-SGD/x64`.

    Raises:
        TypeError: If `net` or `loss` is not an `nn.Module`.
        ValueError: If a value is out of its range; before the first step, if scores or labels don't fit
            `num_classes`, or a pattern of `lr_factors` matches no trainable parameter.
        MisconfigurationException: Before the first step, if the given length of a schedule is not the run's,
            a schedule takes its length from a run without an end, a checkpoint's run had another length, or a
            `OneCycleLR` is too short to rise and fall (`fast_dev_run` accepts any length), if `no_decay`
            is set for an optimizer without weight decay, or `lr_factors` for one without a rate or with a
            schedule that would lose them; in evaluation, if the network returns a tuple.

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
        compile: bool | Literal["default", "reduce-overhead", "max-autotune"] = False,
        aux_weight: float = 0.3,
        lr_factors: dict[str, float] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(net, nn.Module):
            raise TypeError(f"ImageClassifier: net must be an nn.Module, got {type(net).__name__}")
        if loss is not None and not isinstance(loss, nn.Module):
            raise TypeError(f"ImageClassifier: loss must be an nn.Module, got {type(loss).__name__}")
        if lr_interval not in ("epoch", "step"):
            raise ValueError(f"ImageClassifier: lr_interval must be epoch or step, got {lr_interval!r}")
        check_range("ImageClassifier", ">= 1", lr_frequency=lr_frequency)
        check_range("ImageClassifier", ">= 2", num_classes=num_classes)
        check_range("ImageClassifier", "[0, inf)", aux_weight=aux_weight)
        check_range(
            "ImageClassifier", "(0, inf)", **{f"lr_factors[{k!r}]": f for k, f in (lr_factors or {}).items()}
        )
        if compile not in (True, False, *MODES):
            raise ValueError(
                f"ImageClassifier: compile must be true, false, {', '.join(MODES[:-1])} or {MODES[-1]}, got "
                f"{compile!r}"
            )
        self.save_hyperparameters(ignore=["net", "loss", "optimizer", "lr_scheduler"])
        if "_instantiator" in self.hparams:
            # Set by Lightning 2.6's command line, whose configuration of the module is plain.
            self.save_hyperparameters()
        self.net = net.to(memory_format=torch.channels_last) if channels_last else net
        self.loss = nn.CrossEntropyLoss() if loss is None else loss
        self.make_optimizer = optimizer
        self.make_lr_scheduler = lr_scheduler
        self.lr_interval, self.lr_frequency, self.lr_monitor = lr_interval, lr_frequency, lr_monitor
        self.num_classes, self.no_decay, self.channels_last = num_classes, no_decay, channels_last
        self.lr_factors = lr_factors
        self.compile_net, self.aux_weight = compile, aux_weight
        self.lr: float | None = None
        """Set by Lightning's learning-rate finder: replaces the optimizer's rate and a schedule's max_lr."""
        self._lr_in_use: float | None = None
        self._schedule = RunSchedule()
        self._sums = EpochSums()

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
        self._compiled = False
        self._checked = False

    @override
    def setup(self, stage: str) -> None:
        """Forget an earlier fit's checkpoint."""
        self._schedule.setup(self, stage)

    @override
    def configure_model(self) -> None:
        """Compile the network if configured; in place, so that the names of its parameters don't change."""
        if self.compile_net and not self._compiled:
            compile_in_place(self.net, "default" if self.compile_net is True else self.compile_net)
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
        optimizer = grouped_optimizer(
            self.make_optimizer or _default_optimizer,
            self,
            no_decay=self.no_decay,
            lr_factors=self.lr_factors,
            lr=self.lr,
        )
        self._lr_in_use = self.lr
        if self.make_lr_scheduler is None:
            return optimizer
        make_schedule = self.make_lr_scheduler
        if self.lr is not None:
            make_schedule = at_rate(make_schedule, self.lr)
        factors = [group.get("lr_factor", 1.0) for group in optimizer.param_groups]
        make_schedule = with_factors(make_schedule, factors)
        scheduler = self._schedule.make(make_schedule, optimizer, self, self.lr_interval, self.lr_frequency)
        check_ratios(scheduler, optimizer)
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

    @override
    def on_fit_start(self) -> None:
        """Create optimizer and schedule again if a callback of Lightning has just found a rate or batch size.

        Lightning only sets the rate in the optimizer, where a schedule would replace it at its next step.
        """
        if self.lr != self._lr_in_use or self._schedule.searching:
            self._schedule.searching = False
            self.trainer.strategy.setup_optimizers(self.trainer)

    @override
    def on_train_start(self) -> None:
        """Restore the sums of an epoch that continues, refuse what can't work, and warn of noise."""
        self._sums.go_on(self.trainer, self.device)
        refuse_newton_alone(self.trainer)
        callbacks = callbacks_of(self.trainer)
        if not any(isinstance(callback, TurnsNoiseOff) for callback in callbacks):  # it warns itself
            warn_of_noise(self.trainer, self)
        self._schedule.begin_training(self, self.lr_interval, self.lr_frequency)

    @override
    def on_train_epoch_start(self) -> None:
        """Reset the epoch's sums; not called when an epoch continues after a resume."""
        self._sums.begin(self.device)

    @override
    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """Return the mean loss of a batch (x, y); y are classes (N,), or probabilities (N, K)."""
        x, y = batch[0], batch[1]
        outputs: Tensor | tuple[Tensor | None, ...] = self._scores(x, y)
        # torchvision's named tuples have None for a head that is left out.
        heads = (outputs,) if isinstance(outputs, Tensor) else [h for h in outputs if h is not None]
        scores, *auxiliary = heads
        loss = self._loss(scores, y)
        is_new = self._sums.add(batch_idx, scores, y, loss)
        if is_new and is_logging_step(self.trainer, self.trainer.global_step + 1):
            # From the CPU: Lightning 2.6 reads a value of the progress bar again in each later step,
            # up to the end of the epoch, and each of them would wait for the device, not only this one.
            self.log("train/loss_step", loss.detach().cpu(), prog_bar=True, batch_size=len(y))
        for others in auxiliary:
            loss = loss + self.aux_weight * self._loss(others, y)
        return loss

    @override
    def on_train_epoch_end(self) -> None:
        """Log the epoch's means."""
        loss, right, images = self.trainer.strategy.reduce(self._sums.here(self.device), reduce_op="sum")
        self._sums.clear()
        if images > 0:  # resumed at an epoch's end, Lightning runs an empty one
            self.log("train/loss", loss / images, sync_dist=True)
            self.log("train/accuracy", right / images, prog_bar=True, sync_dist=True)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the sums of an unfinished epoch, those of each process, and the schedule's length."""
        sums = of_all_processes(self._sums.here(self.device), self.trainer)
        checkpoint["train_sums"] = torch.stack(sums).cpu()
        self._schedule.save(checkpoint, self.CHECKPOINT_HYPER_PARAMS_KEY, self.lr_monitor)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the sums until training starts, when the rank of this process is known."""
        self._sums.load(checkpoint.get("train_sums"))
        self._schedule.load(checkpoint)

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
