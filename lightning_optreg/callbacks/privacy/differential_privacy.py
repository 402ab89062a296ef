"""Differentially private training: one example changes the weights' distribution by little.

Dwork, McSherry, Nissim, Smith 2006, "Calibrating noise to sensitivity in private data analysis"; Abadi,
Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang 2016, "Deep learning with differential privacy"
(arXiv:1607.00133).
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer

# Private in torch 2.14: there is no public way to find the tensors in nested lists, tuples and mappings.
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from lightning_optreg._checks import check_choice, check_range, check_seed
from lightning_optreg.callbacks._let_go import LetsGo
from lightning_optreg.callbacks._network import makes_layers_later
from lightning_optreg.callbacks._seeded import SeededCallback
from lightning_optreg.callbacks.privacy._gradients import PrivateGradients, Settings
from lightning_optreg.callbacks.privacy._layers import convert_layers, refuse_layers
from lightning_optreg.callbacks.privacy._opacus import opacus
from lightning_optreg.callbacks.privacy._plan import Plan, plan_of
from lightning_optreg.callbacks.privacy._refusals import refuse_callbacks, refuse_setup, refuse_strategies
from lightning_optreg.randomness.draws import mix

__all__ = ["DifferentialPrivacy"]

_NAME = "DifferentialPrivacy"


class DifferentialPrivacy(SeededCallback, LetsGo):
    """Clip each example's gradient and add noise to the sum, so that training is (epsilon, delta)-private.

        g = (sum_i g_i min(1, C / |g_i|) + N(0, (sigma C)^2 I)) / B

    g_i is the gradient of the loss of example i, C is `max_grad_norm`, sigma `noise_multiplier` and B the
    expected number of examples in a batch. For two training sets that differ by one example more or less, the
    probability of any outcome differs by a factor of e^epsilon at most, apart from a probability delta. The
    accountant adds up what the steps cost.

    Opacus (`pip install 'lightning-optreg[privacy]'`) computes gradients of examples, the noise, and epsilon.
    The module's own loss, optimizer and schedules are used, its parameters keep their names, and checkpoints
    are those of any run. Lightning's `gradient_clip_val`, penalties and `GradientNoise` act on the private
    gradient, which costs no privacy.

    The accounting assumes that each example is in each batch with the same probability, whatever the others:
    `shuffle="poisson"` of this package's data modules. Your own `DataLoader` samples like this as
    `opacus.data_loader.DPDataLoader.from_data_loader(loader)`; it draws from the global generator, so a run
    resumed in mid-epoch is private but not the same. With other loaders epsilon is an approximation, which
    is usual and says less; there is a warning.

    The noise is a function of the seed and the step: a resumed run is exact, and two processes of DDP with
    batches of n train as one with 2n, up to rounding. Who knows the seed can take the noise away again, so
    keep it secret if the weights go public, with the configuration and the checkpoints that contain it; the
    generator is torch's, which is not made for cryptography. Losses and metrics of training have no noise.
    Validation images are not protected, nor is what is chosen by them.

    Gradients of single examples need a batch size times the memory of the trained parameters, and more at the
    peak; docs/privacy.md has figures.

    Logs `optreg/differential_privacy/epsilon` at the end of each epoch.

    Args:
        noise_multiplier: sigma, the noise's standard deviation in units of C, at least 0. None: the smallest
            with which the run ends at target_epsilon, or 1 without a target.
        target_epsilon: Largest epsilon, > 0; training stops before a step would exceed it. None: no limit.
        delta: Probability with which epsilon need not hold, in (0, 1). None: 1 / (10 N), for N training
            examples.
        max_grad_norm: C, the largest norm of an example's gradient, > 0; infinite without noise only. A list
            has one for each trained parameter, in the optimizer's order. Default: 1.
        clipping: `flat`, the norm of the whole gradient; or `per_layer`, each parameter's by itself, by
            C / sqrt(their number) if C is one number. Default: flat.
        accountant: `prv`, the tightest (Gopi et al. 2021, arXiv:2106.02848); `rdp`, quick to compute (Mironov
            2017, arXiv:1702.07476); or `gdp`, which may underestimate. Default: prv.
        mode: How Opacus computes gradients of examples: `hooks`, by a formula for each kind of layer, with
            `functorch` for kinds it does not know; or `functorch` for all. Default: hooks.
        loss_reduction: Whether the loss of a batch is the `mean` of those of its examples, or their `sum`;
            with the sum, the gradient is not divided by B. Default: mean.
        convert: Whether to replace layers that mix examples by those that Opacus has for them, such as batch
            by group normalisation, when the trainer sets the module up.
        seed: Seed of the noise. None: the number given to `seed_everything`, else 0.

    Raises:
        ValueError: If a value is out of its range.
        TypeError: If convert is not a bool, or seed not an integer.
        ModuleNotFoundError: If Opacus is not installed.
        MisconfigurationException: Before the first step, with layers that mix examples, such as batch
            normalisation, or whose calls can't be seen (compiled ones); with manual optimization, gradient
            accumulation, an optimizer that compares losses, a gradient scaler (16-mixed), weights in 16 bits,
            several training loaders, a strategy other than one device or DDP, or a callback that mixes or
            chooses images or trains without noise; if target_epsilon needs an end of the run, or no noise is
            enough, or if steps that it continues were made without it; in the first step, if the gradient is
            not a sum over the batch's examples, or the loss of one depends on others.

    Warns:
        UserWarning: If the training loader does not draw Poisson samples, or if it can't be checked whether
            the loss of an example depends on others.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> private = DifferentialPrivacy(target_epsilon=3.0, delta=1e-5)
        >>> trainer = Trainer(callbacks=[private], accelerator="cpu", logger=False)
    """

    only_one = "as each replaces the gradients"

    def __init__(
        self,
        noise_multiplier: float | None = None,
        target_epsilon: float | None = None,
        delta: float | None = None,
        max_grad_norm: float | Sequence[float] = 1.0,
        clipping: Literal["flat", "per_layer"] = "flat",
        accountant: Literal["prv", "rdp", "gdp"] = "prv",
        mode: Literal["hooks", "functorch"] = "hooks",
        loss_reduction: Literal["mean", "sum"] = "mean",
        convert: bool = False,
        seed: int | None = None,
    ) -> None:
        if noise_multiplier is not None:
            check_range(_NAME, "[0, inf)", noise_multiplier=noise_multiplier)
        if target_epsilon is not None:
            check_range(_NAME, "(0, inf)", target_epsilon=target_epsilon)
        if delta is not None:
            check_range(_NAME, "(0, 1)", delta=delta)
        check_choice(_NAME, ("flat", "per_layer"), clipping=clipping)
        check_choice(_NAME, ("prv", "rdp", "gdp"), accountant=accountant)
        check_choice(_NAME, ("hooks", "functorch"), mode=mode)
        check_choice(_NAME, ("mean", "sum"), loss_reduction=loss_reduction)
        if isinstance(max_grad_norm, Sequence) and clipping == "flat":
            raise ValueError(
                f"{_NAME}: max_grad_norm must be one number with clipping flat, got {max_grad_norm}"
            )
        allowed = "(0, inf]" if noise_multiplier == 0.0 else "(0, inf)"
        norms = max_grad_norm if isinstance(max_grad_norm, Sequence) else [max_grad_norm]
        for norm in norms:
            check_range(_NAME, allowed, max_grad_norm=norm)
        if not isinstance(convert, bool):
            raise TypeError(f"{_NAME}: convert must be true or false, got {convert!r}")
        check_seed(_NAME, seed)
        super().__init__(seed)
        self.noise_multiplier, self.target_epsilon, self.delta = noise_multiplier, target_epsilon, delta
        self.max_grad_norm, self.clipping, self.accountant = max_grad_norm, clipping, accountant
        self.mode, self.loss_reduction, self.convert, self.seed = mode, loss_reduction, convert, seed
        self.begin_fit()

    @override
    def begin_fit(self) -> None:
        """Forget an earlier fit."""
        self._gradients: PrivateGradients | None = None
        self._plan: Plan | None = None
        self._left = math.inf  # steps until the target
        self._loaded: dict[str, Any] = {}
        self._made = False  # whether the step's gradients are private

    @property
    @override
    def is_noise(self) -> bool:
        """Whether there is noise."""
        return self.noise_multiplier != 0.0

    @property
    def epsilon(self) -> float:
        """Epsilon of all steps so far."""
        return 0.0 if self._plan is None else self._plan.budget.epsilon

    # ---- before the first step -----------------------------------------------------------------------------

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Convert layers, in any stage, as a checkpoint has the converted ones; refuse other callbacks."""
        before = self.state_dict()
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and trainer.global_step > 0:  # the trainer goes on from its last fit
            self._loaded = before
        if self.convert:
            convert_layers(pl_module, _NAME)
        if stage == "fit":
            opacus("accountants", _NAME)
            refuse_callbacks(trainer, _NAME)
            refuse_strategies(trainer, _NAME)
            if not makes_layers_later(pl_module):  # before another callback changes weights
                refuse_layers(pl_module, self.mode, _NAME)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Agree on a seed, and refuse what can't work."""
        refuse_setup(trainer, pl_module, _NAME)
        refuse_layers(pl_module, self.mode, _NAME)
        super().on_fit_start(trainer, pl_module)
        if self.target_epsilon is not None and (trainer.min_epochs or trainer.min_steps):
            raise MisconfigurationException(
                f"{_NAME}: with min_epochs or min_steps training would go on beyond target_epsilon; leave "
                "them out"
            )

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the noise, and how many steps the target allows."""
        noise = self.noise_multiplier
        if noise is None:
            noise = self._loaded.get("noise_multiplier")  # as the run began
        self._plan = plan_of(
            trainer,
            self.accountant,
            delta=self.delta,
            noise=noise,
            target=self.target_epsilon,
            history=self._loaded.get("history", []),
            owner=_NAME,
        )
        self._left = self._plan.left
        # Lightning ends the run before another batch.
        trainer.should_stop = trainer.should_stop or self._left <= 0

    # ---- a step --------------------------------------------------------------------------------------------

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Observe the layers that are trained now: others may have been frozen, or the optimizer replaced."""
        optimizer = trainer.optimizers[0]
        if self._gradients is None or not self._gradients.fits(pl_module, optimizer):
            self._observe(trainer, pl_module, optimizer)
        assert self._gradients is not None
        tensors = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim > 0]
        self._gradients.begin_batch(len(tensors[0]) if tensors else None)
        self._made = False

    def _observe(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self._gradients is not None:
            self._gradients.close()
            self._gradients = None
        refuse_layers(pl_module, self.mode, _NAME)
        assert self._plan is not None
        sampling = self._plan.sampling
        settings = Settings(
            self._plan.noise,
            self.max_grad_norm,
            self.clipping == "per_layer",
            self.mode,
            self.loss_reduction,
            sampling.batch,
            trainer.world_size > 1,
        )
        account = self._plan.budget.accountant.get_optimizer_hook_fn(sample_rate=sampling.rate)
        self._gradients = PrivateGradients(settings, pl_module, optimizer, account, _NAME)

    @override
    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Forget gradients from before the step's backward pass, as of a search for adversarial examples."""
        if self._gradients is not None:
            self._gradients.clear()

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Refuse a loss in which examples meet."""
        if self._gradients is not None:
            self._gradients.check_loss(loss)

    @override
    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the gradients private before anything else sees them."""
        self._make(trainer, pl_module)

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Make a step of noise where a training step returned no loss, so that this can't be seen."""
        if not self._made:
            self._make(trainer, pl_module)

    def _make(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._gradients is None:
            return
        seed = mix(self.seed_of_draws, trainer.global_step)
        generator = torch.Generator(pl_module.device).manual_seed(seed)
        self._gradients.make(generator)
        self._made = True

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop when another step would exceed the target."""
        if self.target_epsilon is None or not self._made:
            return
        self._left -= 1
        if self._left <= 0 and not trainer.should_stop:
            trainer.should_stop = True
            rank_zero_info(
                f"{_NAME}: epsilon is {self.epsilon:.3f} after {trainer.global_step} steps, and another one "
                f"would exceed {self.target_epsilon}"
            )

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log epsilon; all processes compute the same."""
        if self._plan is not None and self._plan.noise > 0.0 and not trainer.barebones:
            name = f"{self._log_path('differential_privacy')}/epsilon"
            pl_module.log(name, self.epsilon, sync_dist=True, batch_size=1)

    # ---- resume, and the end -------------------------------------------------------------------------------

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the noise multiplier, and the steps that were made with which noise and sampling rate."""
        if self._plan is None:
            return dict(self._loaded)
        return {"noise_multiplier": self._plan.noise, "history": self._plan.budget.history}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them, when training starts."""
        self._loaded = dict(state_dict)

    @override
    def let_go(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the module as it was."""
        if self._gradients is not None:
            self._gradients.close()
            self._gradients = None
