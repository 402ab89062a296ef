"""Training on adversarial examples: images changed so that the network is wrong about them.

    min over theta of E[max over |d| <= eps of L(f_theta(p + d), y)]

Madry, Makelov, Schmidt, Tsipras, Vladu 2018, "Towards deep learning models resistant to adversarial attacks"
(arXiv:1706.06083).
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from lightning_optreg._checks import check_choice, check_range
from lightning_optreg.attacks.pgd import usual_step_size
from lightning_optreg.attacks.pixel_space import PixelSpace
from lightning_optreg.attacks.steps import size_of
from lightning_optreg.callbacks._let_go import LetsGo
from lightning_optreg.callbacks._network import find_network
from lightning_optreg.callbacks.batches.changed_batch import ChangedBatch
from lightning_optreg.callbacks.robustness._first_batch import check_first_batch
from lightning_optreg.callbacks.robustness._pixels import check_pixels, check_statistics, pixel_space_of
from lightning_optreg.callbacks.robustness._replays import Replays
from lightning_optreg.callbacks.robustness._search import Loss, divergence, main_output, search
from lightning_optreg.callbacks.robustness._watch import Watch
from lightning_optreg.layers.modes import evaluating
from lightning_optreg.randomness.draws import Place
from lightning_optreg.randomness.processes import share_of
from lightning_optreg.trainer.across_ranks import gather_ranks
from lightning_optreg.trainer.queries import callbacks_of, is_logging_step
from lightning_optreg.trainer.refusals import (
    refuse_asynchronous,
    refuse_manual_optimization,
    refuse_sharding,
)
from lightning_optreg.trainer.roles import BreaksPrivacy, ChangesAccumulation

__all__ = ["AdversarialTraining"]

Method = Literal["pgd", "fgsm", "free", "trades"]

_STEPS = {"pgd": 10, "fgsm": 1, "free": 1, "trades": 10}
_KEY = "lightning_optreg_replays"


class AdversarialTraining(ChangedBatch, LetsGo, BreaksPrivacy):
    """Train on images changed by at most eps, so that the loss is as large as a few steps can make it.

    | method | what a training step does |
    |---|---|
    | `pgd` | takes the loss after `steps` steps of projected gradient ascent from a random start (Madry et al. 2018, arXiv:1706.06083) |
    | `fgsm` | the same with one step of 1.25 eps, six times as fast (Wong, Rice, Kolter 2020, arXiv:2001.03994) |
    | `free` | shows each batch `replays` times, and changes its images by the gradient that the step before has computed anyway (Shafahi et al. 2019, arXiv:1904.12843) |
    | `trades` | takes the loss of the images themselves, plus beta KL(f(p) || f(p')), for the p' that maximises this divergence (Zhang et al. 2019, arXiv:1901.08573) |

    It works with any LightningModule whose training step calls the network once with the batch's images.
    Labels are classes, or probabilities as `MixUp` and `LabelSmoothing` make them; place these before it,
    and a `NoisyEnsemble` too, whose noise is then on in the search. The images are changed on the device right before the module's `training_step`, so its own loss,
    metrics, optimizer and precision are used. Random starts are a function of the seed, the epoch, the batch
    and the image's row: a resumed run draws the same, and two processes with batches of n the same as one
    with 2n.

    While the images are searched the network is in training mode for `pgd`, `fgsm` and `free`, as in the
    papers' codes, so batch normalisation uses the statistics of these batches and its running averages take
    part in all passes; for `trades` it is in evaluation mode. `mode` sets it otherwise.

    With `free`, of each `replays` batches of the loader only the first is used, so an epoch of the Trainer
    has as many steps as without, and all images are seen in `replays` epochs on average; the authors divide
    the number of epochs by `replays` instead. Where a pixel is cut to [0, 1] they set its gradient to 0. The
    images of a step require a gradient, so the step must `detach` them before it makes NumPy arrays of them.

    Logs `optreg/adversarial_training/change`, the mean size of a change in the norm, and for `trades` `kl`,
    the mean divergence in nats.

    Args:
        method: `pgd`, `fgsm`, `free` or `trades`. Default: pgd.
        eps: Largest size of an image's change in the norm, for pixels on [0, 1], at least 0. With 0 nothing
            happens. Default: 8/255, as is usual for CIFAR-10; Wang et al. 2019 (arXiv:1811.10745) take 0.031.
        steps: Steps of the ascent, at least 1, for `pgd` and `trades`. None: 10. Default: None.
        step_size: Size of a step in the norm, > 0. None: 2.5 eps / steps for `pgd` and `trades`, 1.25 eps for
            `fgsm`, eps for `free`. Wang et al. take 0.007. Default: None.
        norm: `linf` or `l2`. Default: linf.
        loss: What the ascent maximises in `pgd` and `fgsm`: `cross_entropy`, or `mse` for a regression.
            Default: cross_entropy.
        beta: Weight of the divergence in `trades`, at least 0. The authors take 6 for CIFAR-10 and 1 for
            MNIST. Default: 6.
        replays: Steps on each batch in `free`, at least 1. Default: 8, as the authors take for CIFAR-10.
        mode: Mode of the network in the search: `train` or `eval`. None: that of the method's authors.
        clip: Whether pixels stay on [0, 1]. If not, inputs may be anything. Default: True.
        mean: Mean of each channel, for pixels on [0, 1], that was subtracted from the images. None: this
            package's data modules say it; other images must be on [0, 1] themselves.
        std: Standard deviation of each channel, by which they were divided.
        net: Name of the network in the LightningModule. None: see `find_network`.
        images: Where in a batch the images (N, C, H, W) are: an index in a list, or a key of a dictionary.
            Default: 0.
        labels: Where the labels are. Default: 1.
        seed: Seed of the random starts. None: the number given to `seed_everything`, else 0.

    Raises:
        ValueError: If a value is out of its range.
        TypeError: If images or labels is neither an index nor a key, or seed is not an integer.
        MisconfigurationException: Before the first step, with a callback that turns noise off, a strategy
            that shards parameters, or (`free` and `trades`) manual optimization, or if the network is not
            found; in the first step, if the batch has no such images or labels, labels are not classes,
            pixels are not on [0, 1], or the network does not return scores.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> robust = AdversarialTraining("fgsm", eps=0.1)
        >>> trainer = Trainer(callbacks=[robust], accelerator="cpu", logger=False)
    """  # noqa: E501

    def __init__(
        self,
        method: Method = "pgd",
        eps: float = 8 / 255,
        steps: int | None = None,
        step_size: float | None = None,
        norm: Literal["linf", "l2"] = "linf",
        loss: Loss = "cross_entropy",
        beta: float = 6.0,
        replays: int = 8,
        mode: Literal["train", "eval"] | None = None,
        clip: bool = True,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        net: str | None = None,
        images: int | str = 0,
        labels: int | str = 1,
        seed: int | None = None,
    ) -> None:
        super().__init__(images=images, labels=labels, seed=seed)
        name = "AdversarialTraining"
        check_choice(name, ("pgd", "fgsm", "free", "trades"), method=method)
        check_choice(name, ("linf", "l2"), norm=norm)
        check_choice(name, ("cross_entropy", "mse"), loss=loss)
        if method == "trades" and loss != "cross_entropy":
            raise ValueError(f"{name}: loss must be cross_entropy for trades, got {loss!r}")
        check_choice(name, (None, "train", "eval"), mode=mode)
        check_range(name, "[0, 1]" if norm == "linf" and clip else "[0, inf)", eps=eps)
        check_range(name, "[0, inf)", beta=beta)
        check_range(name, ">= 1", replays=replays, **({} if steps is None else {"steps": steps}))
        if steps is not None and method in ("fgsm", "free") and steps != 1:
            raise ValueError(f"{name}: steps must be 1 for {method}, got {steps}; use pgd for more")
        if step_size is not None:
            check_range(name, "(0, inf)", step_size=step_size)
        check_statistics(mean, std, name)
        self.method, self.eps, self.norm, self.loss = method, eps, norm, loss
        self.beta, self.replays = beta, replays
        self.steps = _STEPS[method] if steps is None else steps
        usual = {"fgsm": 1.25 * eps, "free": eps}.get(method, usual_step_size(eps, self.steps))
        self.step_size = usual if step_size is None else step_size
        self.mode = mode or ("eval" if method == "trades" else "train")
        self.clip, self.mean, self.std, self.net = clip, mean, std, net
        self._network: nn.Module | None = None
        self._space, self._certain, self._checked = PixelSpace(), False, False
        self._replays = Replays(replays, eps, self.step_size, norm)
        self._loaded: list[dict[str, Any]] = []  # of each process, from a checkpoint
        self._handle: RemovableHandle | None = None
        self._watch: Watch | None = None  # of the first step
        self._change: Tensor | None = None  # of the step's pixels
        self._changed: Tensor | None = None  # the images of a step of TRADES
        self._scores: Tensor | None = None  # those of the images themselves
        self._kl: Tensor | None = None  # their mean divergence

    @property
    @override
    def active(self) -> bool:
        """Whether eps is above 0."""
        return self.eps > 0.0

    @property
    @override
    def breaks_privacy(self) -> str:
        """`free` repeats examples."""
        return "makes several steps on a batch" if self.method == "free" and self.active else ""

    # ---- before the first step -----------------------------------------------------------------------------

    @override
    def begin_fit(self) -> None:
        """Forget an earlier fit."""
        super().begin_fit()
        self._replays.reset()
        self._loaded, self._changed, self._scores, self._checked = [], None, None, False

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the network, and refuse what can't work."""
        super().on_fit_start(trainer, pl_module)
        if not self.active:
            return
        name = "AdversarialTraining"
        refuse_sharding(trainer, name, "so the network can't be called outside of the training step")
        if self.method in ("free", "trades"):
            reason = f"as {self.method} needs to know which loss a step minimises"
            refuse_manual_optimization(pl_module, name, reason)
        if self.method == "free":
            refuse_asynchronous(trainer, name, "so they can't save the batches that they repeat")
            changing = (ChangesAccumulation, GradientAccumulationScheduler)
            if trainer.accumulate_grad_batches > 1 or any(
                isinstance(callback, changing) for callback in callbacks_of(trainer)
            ):
                raise MisconfigurationException(
                    f"{name}: free makes a step on each replay of a batch; leave out gradient accumulation"
                )
        self._network = find_network(pl_module, self.net, name)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out how images are normalised, and go on where a checkpoint's run was."""
        super().on_train_start(trainer, pl_module)
        if not self.active:
            return
        self._space, self._certain = pixel_space_of(
            trainer, self.mean, self.std, "AdversarialTraining", bounded=self.clip
        )
        if self._loaded:
            if len(self._loaded) == trainer.world_size:
                self._replays.load(self._loaded[trainer.global_rank], pl_module.device)
            else:
                rank_zero_warn(
                    f"AdversarialTraining: the checkpoint's run had {len(self._loaded)} processes, so the "
                    "replays of a batch begin anew"
                )
            self._loaded = []
        if self.method == "trades" and self._network is not None:
            hook = torch.compiler.disable(self._keep)  # type: ignore[no-untyped-call]  # untyped in torch 2.14
            self._handle = self._network.register_forward_hook(hook, with_kwargs=True)

    # ---- a step --------------------------------------------------------------------------------------------

    @override
    def change_batch(self, trainer: Trainer, batch: Any, batch_idx: int) -> None:
        """Change the images of a batch, or keep those of TRADES for its loss."""
        if not self.active or self._network is None:
            return
        images = self._get(batch, self.images, "images")
        labels = self._get(batch, self.labels, "labels")
        first = not self._checked
        if first:
            loss = None if self.method == "free" else self.loss
            check_first_batch(trainer, self._network, images, labels, loss, "AdversarialTraining")
            if self.clip and not self._certain:
                check_pixels(self._space, images, "AdversarialTraining")
            self._checked = True
        if self.method == "free":
            self._replays.fill(batch, self.images, self._space)
            if first:
                self._watch = Watch(self._network, batch[self.images])
            return
        n, (part, parts) = len(images), share_of(trainer)
        place = Place(trainer.current_epoch, batch_idx, part * n, parts * n)
        with trainer.precision_plugin.forward_context(), self._searching():
            self._change = search(
                self._outputs,
                images,
                labels,
                self.draws(place, images),
                "divergence" if self.method == "trades" else self.loss,
                space=self._space,
                eps=self.eps,
                step_size=self.step_size,
                steps=self.steps,
                norm=self.norm,
            )
        changed = self._space.moved(images, self._change)
        if self.method == "trades":
            self._changed, self._scores = changed, None
        else:
            batch[self.images] = changed
        if first:
            self._watch = Watch(self._network, batch[self.images])

    def _searching(self) -> AbstractContextManager[None]:
        return evaluating(self._network) if self.mode == "eval" and self._network else nullcontext()

    def _outputs(self, inputs: Tensor) -> Tensor:
        if self._network is None:
            raise RuntimeError("AdversarialTraining: there is no network outside of a fit")
        return main_output(self._network(inputs))

    def _keep(self, network: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        """Keep the scores of the images themselves, from the step's call of the network."""
        # A strategy like DDP calls the LightningModule with a batch, to run its training step.
        of_images = any(isinstance(value, Tensor) for value in (*args, *kwargs.values()))
        if of_images and self._changed is not None and torch.is_grad_enabled():
            self._scores = main_output(output)

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Add the divergence of TRADES to the loss that is minimised, not to the one that is logged."""
        if self._changed is None:
            return
        changed, natural = self._changed, self._scores
        if natural is None:
            raise MisconfigurationException(
                "AdversarialTraining: the training step did not call the network "
                f"{self.net or type(self._network).__name__}; pass net=<name of the module that it calls>"
            )
        self._scores = None
        self._changed = None  # this call of the network is not the step's
        with trainer.precision_plugin.forward_context():
            scores = self._outputs(changed)
        self._changed = changed  # a closure may be called again
        self._kl = divergence(natural.log_softmax(-1), scores.log_softmax(-1)) / len(changed)
        term = self.beta * self._kl / trainer.accumulate_grad_batches
        # In place: the hook can't return another loss, and Lightning has kept a copy of this one to log.
        loss.add_((term if trainer.scaler is None else trainer.scaler.scale(term)).to(loss.dtype))

    @override
    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the gradient of the images of `free`."""
        if self.method == "free" and self.active:
            self._change = self._replays.size
            self._replays.follow()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log how large the changes were, every `log_every_n_steps` steps."""
        if self._watch is not None and self._network is not None:
            self._watch.finish("AdversarialTraining", "training", self._network)
            self._watch = None
        change, kl = self._change, self._kl
        self._changed = self._scores = self._change = self._kl = None
        if change is None or not is_logging_step(trainer):
            return
        path = self._log_path("adversarial_training")
        pl_module.log(f"{path}/change", size_of(change, self.norm).mean(), batch_size=len(change))
        if kl is not None:
            pl_module.log(f"{path}/kl", kl.detach(), batch_size=len(change))

    # ---- resume, and the end -------------------------------------------------------------------------------

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the seed, and the batch that `free` repeats, with its change."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self.method == "free" and self.active:
            replays = gather_ranks(trainer, self._replays.state())
            checkpoint.setdefault(_KEY, {})[self._name] = replays

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore them, the latter when the device is known."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        self._loaded = checkpoint.get(_KEY, {}).get(self._name, [])

    @override
    def let_go(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the hook away, and let go of the network and its images."""
        if self._handle is not None:
            self._handle.remove()
        if self._watch is not None:
            self._watch.stop()
        self._handle = self._watch = self._network = None
        self._changed = self._scores = self._change = self._kl = None
        self._replays.reset()
