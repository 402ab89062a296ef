"""Optuna's samplers and pruners by short names."""

import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import override

from lightning_optreg.studies.search_space import SearchSpace
from lightning_optreg.studies.stored import run_of

if TYPE_CHECKING:  # optuna is imported when a study is run
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, TrialState

__all__ = ["make_pruner", "make_sampler", "seeded_sampler"]

Made = TypeVar("Made")


def make_sampler(name: str, options: Mapping[str, Any], space: SearchSpace, seed: int) -> "BaseSampler":
    """Return a sampler.

    "tpe" is Bergstra et al. 2011 in its form for several settings at once (Falkner et al. 2018), which counts
    trials that other workers are running; "cmaes" is Hansen and Ostermeier 2001, for ranges only.

    Args:
        name: "tpe", "random" or "cmaes".
        options: Further arguments of Optuna's class.
        space: What is searched.
        seed: Seed of its random numbers.

    Raises:
        ModuleNotFoundError: If the package `cmaes` is needed and not installed.
        ValueError: If an argument is not understood.

    Example:
        >>> make_sampler("random", {}, SearchSpace({}), seed=0).__class__.__name__
        'RandomSampler'
    """
    from optuna.samplers import CmaEsSampler, RandomSampler, TPESampler

    depends = any(part.when for part in space.parts.values())
    classes: dict[str, Callable[..., BaseSampler]] = {
        "tpe": TPESampler,
        "random": RandomSampler,
        "cmaes": CmaEsSampler,
    }
    usual: dict[str, dict[str, Any]] = {
        # `group` is for settings that are searched under a condition.
        "tpe": {"multivariate": True, "constant_liar": True, **({"group": True} if depends else {})},
        "cmaes": {"warn_independent_sampling": False},
    }
    if name == "cmaes" and importlib.util.find_spec("cmaes") is None:
        raise ModuleNotFoundError("No module named 'cmaes'", name="cmaes")
    return _made("sampler", name, classes[name], {**usual.get(name, {}), **options, "seed": seed})


def make_pruner(name: str, options: Mapping[str, Any], epochs: int) -> "BasePruner":
    """Return a pruner.

    "median" ends a trial whose best value so far is worse than the median of the others at the same step
    (Golovin et al. 2017); "hyperband" is Li et al. 2018 (arXiv:1603.06560).

    Args:
        name: "none", "median" or "hyperband".
        options: Further arguments of Optuna's class.
        epochs: Budget of a trial.

    Raises:
        ValueError: If an argument is not understood.
    """
    from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner

    classes: dict[str, Callable[..., BasePruner]] = {
        "none": NopPruner,
        "median": MedianPruner,
        "hyperband": HyperbandPruner,
    }
    usual = {"hyperband": {"max_resource": epochs}}
    return _made("pruner", name, classes[name], {**usual.get(name, {}), **options})


def _made(what: str, name: str, make: Callable[..., Made], arguments: Mapping[str, Any]) -> Made:
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        try:
            return make(**arguments)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{what}.{name}: {error}") from None


def seeded_sampler(make: "Callable[[int], BaseSampler]", seed: int) -> "BaseSampler":
    """Return a sampler whose random numbers depend on the seed and the number of the study's run alone.

    So workers with the same seed choose different settings, and a worker that is stopped and started again
    chooses as if it had not been.

    Args:
        make: Returns a sampler for a seed.
        seed: Seed of the study.
    """
    from optuna.samplers import BaseSampler

    class SeededSampler(BaseSampler):
        """Asks a new sampler for each run."""

        def __init__(self) -> None:
            self._number: float = -1
            self._sampler = make(seed)

        def _of(self, trial: "FrozenTrial") -> BaseSampler:
            number = run_of(trial).value  # a run that is done again is a new trial
            if number != self._number:
                self._number = number
                self._sampler = make((seed * 1_000_003 + int(number)) % 2**32)
            return self._sampler

        @override
        def infer_relative_search_space(
            self, study: "Study", trial: "FrozenTrial"
        ) -> "dict[str, BaseDistribution]":
            return self._of(trial).infer_relative_search_space(study, trial)

        @override
        def sample_relative(
            self, study: "Study", trial: "FrozenTrial", search_space: "dict[str, BaseDistribution]"
        ) -> dict[str, Any]:
            return self._of(trial).sample_relative(study, trial, search_space)

        @override
        def sample_independent(
            self,
            study: "Study",
            trial: "FrozenTrial",
            param_name: str,
            param_distribution: "BaseDistribution",
        ) -> Any:
            return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

        @override
        def before_trial(self, study: "Study", trial: "FrozenTrial") -> None:
            self._of(trial).before_trial(study, trial)

        @override
        def after_trial(
            self,
            study: "Study",
            trial: "FrozenTrial",
            state: "TrialState",
            values: Sequence[float] | None,
        ) -> None:
            self._of(trial).after_trial(study, trial, state, values)

    return SeededSampler()
