"""Loaders after a resume: their states, the moment before the first batch, and what can't be exact with them.

Lightning creates the iterators of the training loaders before it sets the epoch, sometimes before it has
restored anything (if `configure_optimizers` reads `trainer.estimated_stepping_batches`), and restores a
loader's state only in the middle of an epoch. There is no hook between the last one of an epoch's start and
the first batch. So the actions for this moment are done by an iterator that replaces the loaders' until the
first batch is requested.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import suppress
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Subset

from lightning_optreg.data.loader import BatchLoader
from lightning_optreg.randomness.own_generators import collect_generator_states, restore_generator_states
from lightning_optreg.randomness.state import collect_random_state, restore_random_state
from lightning_optreg.trainer.queries import callbacks_of, datamodule_of, reload_cadence

__all__ = [
    "before_first_batch",
    "begin_validation_anew",
    "collect_randomness",
    "describe_data",
    "inexact",
    "load_states",
    "restore_randomness",
    "start_persistent_workers",
    "use_up",
]


def collect_randomness(trainer: Trainer) -> dict[str, Any]:
    """Read the global generators and those in the loaders, the module and the data module."""
    return {
        "random": collect_random_state(trainer.strategy.root_device),
        "own": collect_generator_states(_owners(trainer)),
    }


def restore_randomness(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Restore the states from `collect_randomness`, and warn of generators that no longer exist."""
    restore_random_state(state["random"], trainer.strategy.root_device)
    missing = restore_generator_states(_owners(trainer), state.get("own", {}))
    if missing:
        rank_zero_warn(
            f"ExactResume: the checkpoint's run had a random generator at {missing[0]}, but this run has "
            "none there; its draws will differ."
        )


def _owners(trainer: Trainer) -> dict[str, Any]:
    return {
        "train": _training_loaders(trainer),
        "val": _validation_loaders(trainer),
        "module": trainer.lightning_module,
        "datamodule": datamodule_of(trainer),
    }


def load_states(trainer: Trainer, states: Sequence[Any], *, anew: bool) -> None:
    """Load the states in a checkpoint into the training loaders.

    Args:
        trainer: The trainer, in `on_train_start`.
        states: `checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"]`.
        anew: Whether to create the loaders' iterators again.
    """
    loaders = [loader for loader in _training_loaders(trainer) if _has_state(loader)]
    for loader, state in zip(loaders, states, strict=False):
        loader.load_state_dict(state)
        if _is_torchdata(loader) and not anew:
            # It passes a state to its dataset when it creates an iterator, and expects that to be exhausted.
            iter(loader)
    if anew:
        iter(_fetcher(trainer))


def use_up(trainer: Trainer, states: Sequence[Any]) -> None:
    """Advance the training loaders past the end of a finished epoch, so that they start a new one next.

    Args:
        trainer: The trainer, in `on_train_start`.
        states: As for `load_states`.
    """
    if not any(_has_state(loader) for loader in _training_loaders(trainer)):
        return
    if next(_fetcher(trainer).iterator, None) is not None:
        # They had more than the epoch took, or were ready to start the next one: restore their position.
        load_states(trainer, states, anew=True)


def start_persistent_workers(trainer: Trainer) -> None:
    """Start the persistent workers of validation loaders, which draw a seed once in a run."""
    if trainer.val_dataloaders is None:
        # As Lightning does in the first epoch with a validation.
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
        trainer.training = True
    for loader in _validation_loaders(trainer):
        if _has_persistent_workers(loader):
            iter(loader)


def before_first_batch(
    trainer: Trainer, prepare: Callable[[], None], *, anew: bool = False, over: bool = False
) -> None:
    """Run an action right before the first batch of training is fetched.

    Args:
        trainer: The trainer, from `on_train_start` to `on_train_epoch_start`.
        prepare: The action.
        anew: Create the loaders' iterators again after it, as a run does at the start of each epoch.
        over: No batch is left in the epoch: end it there, whatever the loaders have.
    """
    fetcher = _fetcher(trainer)
    fetcher.iterator = _First(trainer, prepare, anew=anew, over=over)
    if anew or over:
        fetcher.batches = []  # fetched ahead from a loader without a length


def describe_data(trainer: Trainer) -> list[str]:
    """Return which data the training loaders have, as far as this is cheap: sizes and subsets.

    A `random_split` without its own generator splits differently in each process.
    """
    return [_describe(getattr(loader, "dataset", None)) for loader in _training_loaders(trainer)]


def _describe(dataset: Any) -> str:
    size = str(len(dataset)) if isinstance(dataset, Sized) else "?"
    if not isinstance(dataset, Subset):
        return size
    indices = hashlib.sha256(repr(list(dataset.indices)).encode()).hexdigest()[:16]
    return f"{size} {indices} of {_describe(dataset.dataset)}"


def begin_validation_anew(trainer: Trainer) -> None:
    """Create the validation loaders' iterators again, in `on_validation_start`, right after Lightning has."""
    # Private in Lightning 2.6, see `_fetcher`.
    iter(trainer.fit_loop.epoch_loop.val_loop._data_fetcher)  # type: ignore[arg-type]  # it exists by now


def _fetcher(trainer: Trainer) -> Any:
    # Private in Lightning 2.6: it fetches batches from the loaders, and has no public name.
    return trainer.fit_loop._data_fetcher


class _First(Iterator[Any]):
    """Replaces the loaders' iterator until the first batch is requested."""

    def __init__(
        self, trainer: Trainer, prepare: Callable[[], None], *, anew: bool = False, over: bool = False
    ) -> None:
        self.trainer, self.prepare, self.anew, self.over = trainer, prepare, anew, over
        self.fetcher = _fetcher(trainer)
        self.iterator = self.fetcher.iterator

    def __next__(self) -> Any:
        self.prepare()
        if self.over:
            raise StopIteration
        if not self.anew:
            self.fetcher.iterator = self.iterator
            return next(self.iterator)
        before = collect_randomness(self.trainer)
        for _ in range(2):
            # Twice if there is nothing the first time: a loader may take the state at an epoch's end for that
            # of a finished epoch.
            restore_randomness(self.trainer, before)
            self.fetcher.iterator = iter(self.fetcher.combined_loader)
            with suppress(StopIteration):
                batch = next(self.fetcher.iterator)
                if self.fetcher.length is None:
                    self._fetch_ahead()
                return batch
        raise StopIteration

    def _fetch_ahead(self) -> None:
        # As Lightning does, to notice the end of a loader without a length.
        try:
            self.fetcher.batches.append(next(self.fetcher.iterator))
            self.fetcher.fetched += 1
        except StopIteration:
            self.fetcher.done = True


def inexact(trainer: Trainer, *, mid_epoch: bool, data: list[str] | None = None) -> list[str]:
    """List what the loaders can't continue exactly as without the interruption.

    Args:
        trainer: The trainer, in `on_train_start`.
        mid_epoch: Whether batches of the epoch are left.
        data: The result of `describe_data` when the checkpoint was saved; None if not known.
    """
    reasons = []
    # loaders that are created again may have other data each time
    made_once = not reload_cadence(trainer)
    here = describe_data(trainer)
    if made_once and data is not None and data != here and "?" not in "".join([*data, *here]):
        reasons.append(
            "the training data are not those of the checkpoint (other samples or another split): give"
            " random_split a generator with a fixed seed"
        )
    for loader in _training_loaders(trainer):
        kind = type(loader).__name__
        if isinstance(loader, BatchLoader):
            continue
        if mid_epoch and not _has_state(loader):
            reasons.append(
                f"the training loader, a {kind}, has no state_dict and restarts its epoch: resume from an "
                "epoch's end, or use a loader of lightning_optreg.data or torchdata's StatefulDataLoader"
            )
        elif mid_epoch and trainer.num_training_batches == float("inf"):
            reasons.append(
                f"the training loader, a {kind}, has no length, so Lightning had prefetched a batch, which "
                "is lost: add a __len__, or resume from an epoch's end"
            )
        elif _has_workers(loader) and mid_epoch:
            reasons.append(
                f"random numbers in the {kind}'s workers, such as those of augmentation, start afresh"
            )
    callbacks = callbacks_of(trainer)
    if mid_epoch and any(isinstance(callback, StochasticWeightAveraging) for callback in callbacks):
        reasons.append(
            "Lightning's StochasticWeightAveraging is only set up at the start of an epoch: resume from an "
            "epoch's end, or use WeightAveraging"
        )
    everyone = [*_training_loaders(trainer), *_validation_loaders(trainer)]
    persistent = next((loader for loader in everyone if _has_persistent_workers(loader)), None)
    if persistent is not None:
        reasons.append(
            f"persistent_workers=True of a {type(persistent).__name__}: its order is exact, but random "
            "numbers in its workers, such as those of augmentation, start afresh: set it to False to have "
            "them exact"
        )
    every = reload_cadence(trainer)
    if every > 1 or (every == 1 and not all(isinstance(each, BatchLoader) for each in everyone)):
        reasons.append(
            f"reload_dataloaders_every_n_epochs={every}: loaders are created and their orders drawn at other "
            "times than without the interruption"
        )
    return reasons


def _training_loaders(trainer: Trainer) -> list[Any]:
    # Private in Lightning 2.6: `trainer.train_dataloader` returns them nested as the user passed them.
    combined = trainer.fit_loop._combined_loader
    return [] if combined is None else list(combined.flattened)


def _validation_loaders(trainer: Trainer) -> list[Any]:
    combined = trainer.fit_loop.epoch_loop.val_loop._combined_loader  # likewise
    return [] if combined is None else list(combined.flattened)


def _has_state(loader: Any) -> bool:
    # Lightning's own criterion for loaders that it can resume.
    return callable(getattr(loader, "state_dict", None)) and callable(
        getattr(loader, "load_state_dict", None)
    )


def _has_workers(loader: Any) -> bool:
    return isinstance(loader, DataLoader) and loader.num_workers > 0


def _has_persistent_workers(loader: Any) -> bool:
    return _has_workers(loader) and bool(loader.persistent_workers)


def _is_torchdata(loader: Any) -> bool:
    return any(base.__module__.startswith("torchdata.") for base in type(loader).__mro__)
