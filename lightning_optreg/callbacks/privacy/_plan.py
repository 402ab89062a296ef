"""How a run samples, how much noise it gets, and how many steps."""

import math
from collections.abc import Sized
from dataclasses import dataclass
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader, IterableDataset

from lightning_optreg.callbacks.privacy._budget import Budget, History
from lightning_optreg.data.loader import BatchLoader
from lightning_optreg.randomness.processes import share_of
from lightning_optreg.trainer.run_length import run_length

__all__ = ["Plan", "Sampling", "plan_of"]


@dataclass(frozen=True)
class Sampling:
    """What the accounting needs to know of a loader.

    Attributes:
        examples: Number of training examples N.
        rate: Probability q that an example is in the batch of a step, over all processes.
        batch: Examples that one process has in a step on average, q N / number of processes.
        poisson: Whether examples are drawn independently, as the accounting assumes.
    """

    examples: int
    rate: float
    batch: float
    poisson: bool


@dataclass(frozen=True)
class Plan:
    """What is known and decided before the first step.

    Attributes:
        sampling: How the training loader samples.
        budget: What was spent so far; counts what is spent.
        noise: Noise multiplier.
        left: Steps that keep epsilon at most at the target; infinite without a target.
    """

    sampling: Sampling
    budget: Budget
    noise: float
    left: float


def plan_of(
    trainer: Trainer,
    accountant: str,
    *,
    delta: float | None,
    noise: float | None,
    target: float | None,
    history: History,
    owner: str,
) -> Plan:
    """Find the noise and how many steps the target allows, and say what epsilon will be.

    Args:
        trainer: The trainer, from `on_train_start` on.
        accountant: `prv`, `rdp` or `gdp`.
        delta: Probability with which epsilon need not hold. None: a tenth of an example's.
        noise: Noise multiplier. None: the smallest with which the run ends at the target, or 1 without one.
        target: Largest epsilon. None: no limit.
        history: Noise multiplier, sampling rate and number of steps of each phase so far.
        owner: Name of the calling class, for the errors.

    Raises:
        MisconfigurationException: If no noise is enough, if the run has no end that it depends on, if the
            accountant can't add up what was spent so far and what comes, or if steps were not counted.

    Warns:
        UserWarning: If the loader does not draw Poisson samples.
    """
    sampling = _sampling_of(trainer, owner)
    if not sampling.poisson and noise != 0.0:
        rank_zero_warn(
            f"{owner}: epsilon is computed for Poisson samples, but the training loader draws others, so "
            'it is an approximation; set shuffle="poisson" in the data module, or use '
            "opacus.data_loader.DPDataLoader"
        )
    uncounted = trainer.global_step - sum(steps for _, _, steps in history)
    if uncounted > 0 and noise != 0.0:
        raise MisconfigurationException(
            f"{owner}: {uncounted} of the {trainer.global_step} steps that this run continues were made "
            "without it, so its weights are not private; begin anew"
        )
    budget = Budget(accountant, 1.0 / (10.0 * sampling.examples) if delta is None else delta, history, owner)
    planned = run_length(trainer, "step", 1).times
    if noise is None:
        noise = 1.0 if target is None else _noise_for(budget, sampling, target, planned, owner)
    phases = {(of, rate) for of, rate, _ in [*history, (noise, sampling.rate, 0)]}
    if accountant == "gdp" and len(phases) > 1:
        raise MisconfigurationException(
            f"{owner}: gdp can't add up steps of different noise or batch size, as in the checkpoint's "
            "run; use prv or rdp"
        )
    left, end = math.inf, ""
    to_come = max(0.0, planned - trainer.global_step)
    if target is not None:
        left = budget.steps_left(target, noise, sampling.rate, to_come)
        end = f"; {left:.0f} steps keep epsilon at most {target}"
    elif planned < math.inf and noise > 0.0:
        end = f"; epsilon will be {budget.after(noise, sampling.rate, int(to_come)):.3f}"
    rank_zero_info(
        f"{owner}: noise multiplier {noise:.4g}, sampling rate {sampling.rate:.4g}, "
        f"delta {budget.delta:.3g}{end}"
    )
    return Plan(sampling, budget, noise, left)


def _noise_for(budget: Budget, sampling: Sampling, target: float, planned: float, owner: str) -> float:
    if planned == math.inf:
        raise MisconfigurationException(
            f"{owner}: the noise for target_epsilon depends on the number of steps, and the run has no "
            "end: set max_epochs or max_steps, or give noise_multiplier"
        )
    return budget.noise_for(target, sampling.rate, max(1, int(planned)))


def _sampling_of(trainer: Trainer, owner: str) -> Sampling:
    """Find out how the training loader samples.

    Args:
        trainer: The trainer, from `on_train_start` on.
        owner: Name of the calling class, for the errors.

    Raises:
        MisconfigurationException: If there are several loaders, or it is not known how many examples there
            are.
    """
    loader: Any = trainer.train_dataloader
    parts = share_of(trainer)[1]
    if isinstance(loader, BatchLoader):
        rate, examples = loader.sample_rate, len(loader.indices)
        return Sampling(examples, rate, rate * examples / parts, loader.poisson)
    if not isinstance(loader, DataLoader):
        raise MisconfigurationException(
            f"{owner}: it needs one training loader, a BatchLoader as from a data module of "
            f"lightning_optreg.data or torch's DataLoader, got {type(loader).__name__}"
        )
    if isinstance(loader.dataset, IterableDataset) or not isinstance(loader.dataset, Sized):
        raise MisconfigurationException(
            f"{owner}: it needs to know the number of training examples; use a dataset with a length, got "
            f"{type(loader.dataset).__name__}"
        )
    examples = len(loader.dataset)
    own_rate = getattr(loader, "sample_rate", None)  # of Opacus's DPDataLoader
    if own_rate is not None:
        return Sampling(examples, float(own_rate), own_rate * examples / parts, True)
    batch_size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)
    if batch_size is None:
        raise MisconfigurationException(
            f"{owner}: it needs to know how many examples are in a step; use a loader with a batch_size"
        )
    rate = min(1.0, batch_size * parts / examples)
    return Sampling(examples, rate, rate * examples / parts, False)
