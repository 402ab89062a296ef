"""Train on a part of the images first, and add the others later, by difficulty.

Bengio, Louradour, Collobert and Weston 2009, "Curriculum learning" (ICML). The mathematics is in
`lightning_optreg.data.curriculum`.
"""

from bisect import bisect_right
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from lightning_optreg._checks import check_range, check_seed
from lightning_optreg.callbacks._let_go import LetsGo
from lightning_optreg.callbacks._network import find_network
from lightning_optreg.callbacks._of_a_kind import OfAKind
from lightning_optreg.callbacks.batches._image_scores import load_reference, score_images
from lightning_optreg.callbacks.batches._told_loader import batches_of_run, told_loader
from lightning_optreg.data.curriculum import Pacing, PacingName, RankingOrder, epoch_passes, rank_images
from lightning_optreg.data.loader import BatchLoader
from lightning_optreg.data.scores import read_scores
from lightning_optreg.trainer.queries import is_logging_step
from lightning_optreg.trainer.refusals import (
    refuse_asynchronous,
    refuse_own_weights,
    refuse_sharding,
    refuse_steps_elsewhere,
)
from lightning_optreg.trainer.roles import BreaksPrivacy

__all__ = ["Curriculum", "Scoring"]

Scoring = Literal["loss", "margin", "self_paced", "file"]


class Curriculum(OfAKind, LetsGo, BreaksPrivacy):
    """Show the easy images first: after t batches, batches come from the first g(t) images of a ranking.

    Every epoch has as many batches as without the callback, so budgets are equal. It goes through the pool of
    g(t) images once, in random order, then through the pool with its new size, and so on (see
    `epoch_passes`). Images outside the pool are not read. The order is a function of seed, epoch and scores,
    and scores are part of a checkpoint, so a resumed run is exact at any batch; with the same scores one
    process with batches of 2 B sees the same as two with B each. With `start=1` training is, bit for bit, the
    same as without the callback.

    The score of an image is its difficulty:

    - `self_paced`: the loss of the current network, -ln p_y, computed again every `rescore_every` epochs
      (Kumar, Packer and Koller 2010, "Self-paced learning for latent variable models"; they take images whose
      loss is below a rising threshold, here pacing sets the number of images).
    - `loss`: the loss of a reference network, the checkpoint `reference`, computed once.
    - `margin`: the largest probability of a wrong class minus the probability of the right one, of the
      reference, or, without one, of the current network, as with `self_paced`.
    - `file`: your own numbers, from the file `scores`.

    The network is in evaluation mode and gets images as in evaluation, each process its share. For the 54,000
    images of Fashion-MNIST that takes 0.2 s with an MLP and 1.1 s with LeNet-5 on two CPU cores. Generators
    and running averages don't change.

    Compare with `order="random"`: Wu et al. find that easy first helps if epochs are few or labels noisy, and
    that otherwise no order is better than a random one.

    Logs `optreg/curriculum/images`, the size of the pool, and `optreg/curriculum/score`, its mean score.
    Works with automatic and manual optimization; the training loader must be a `BatchLoader`, as in this
    package's data modules.

    References: Hacohen and Weinshall 2019 (arXiv:1904.03626); Wu, Dyer and Neyshabur 2021 (arXiv:2012.03107);
    unlike theirs, a pass through the pool also ends with the epoch.

    Args:
        scoring: The score: "self_paced", "loss", "margin" or "file".
        reference: Checkpoint of the same module, or the `state_dict` of its network, for "loss" and "margin".
        scores: File for "file": .pt (`torch.save` of a tensor), .npy, or .csv with one number per line; one
            finite number for each image of the training set in stored order, including those of a validation
            split taken from it. The higher, the harder.
        pacing: How the pool grows: "step", "linear", "quadratic", "root", "log", "exponential" or
            "staircase" (see `lightning_optreg.data.Pacing`).
        start: Share of the images in the first pool, in (0, 1].
        full_at: Share of the run's batches after which all images are in the pool, in (0, 1].
        increase: Factor of a stair, greater than 1, for "staircase" only. Default: 1.9, as in Hacohen and
            Weinshall, who start with 0.04.
        min_images: Smallest size of the pool, at least 1. Default: 256, as in Wu et al.
        order: "easy_first"; "hard_first" (anti-curriculum); "random", the control: a pool that grows in the
            same way, in random order; scores are not computed then.
        balanced: Whether each pool has the classes in the same proportions as the whole set, as in both
            sources. If not, all images of a hard class come late.
        rescore_every: Number of epochs between two scorings by the current network, at least 1.
        net: Name of the network in the module, such as `net`. None: see `find_network`.
        seed: Seed of the order. None: the loader's.

    Raises:
        ValueError: If a value is out of its range, or the file of scores is wrong.
        FileNotFoundError: If a file does not exist.
        TypeError: If balanced is not a bool, or seed is not an integer.
        MisconfigurationException: Before the first step, if the loader's order can't be set, or it must not
            shuffle (`NoiseFree`, `FullBatch`), if the run has no end, the reference is of another network,
            the images can't be scored, or the strategy shards parameters, gives each worker weights of its
            own, of which the scores would be, makes steps on servers, or has workers that do not wait for
            each other.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> curriculum = Curriculum(pacing="exponential", start=0.1, full_at=0.5)
        >>> trainer = Trainer(callbacks=[curriculum], accelerator="cpu", logger=False)
    """

    only_one = "as each sets the loader's order"
    breaks_privacy = "chooses images by what the network says of them, and not as the accounting assumes"

    def __init__(
        self,
        scoring: Scoring = "self_paced",
        *,
        reference: str | Path | None = None,
        scores: str | Path | None = None,
        pacing: PacingName = "linear",
        start: float = 0.2,
        full_at: float = 0.5,
        increase: float = 1.9,
        min_images: int = 256,
        order: RankingOrder = "easy_first",
        balanced: bool = True,
        rescore_every: int = 1,
        net: str | None = None,
        seed: int | None = None,
    ) -> None:
        for name, value, choices in (
            ("scoring", scoring, get_args(Scoring)),
            ("pacing", pacing, get_args(PacingName)),
            ("order", order, get_args(RankingOrder)),
        ):
            if value not in choices:
                raise ValueError(f"Curriculum: {name} must be one of {', '.join(choices)}, got {value!r}")
        if (reference is None) if scoring == "loss" else (reference is not None and scoring != "margin"):
            raise ValueError(
                "Curriculum: reference must be a checkpoint with scoring 'loss', may be one with 'margin' "
                f"and must be None otherwise, got {reference!r} with {scoring!r}"
            )
        if (scores is None) is (scoring == "file"):
            raise ValueError(
                "Curriculum: scores must be a file with scoring 'file' and None otherwise, got "
                f"{scores!r} with {scoring!r}"
            )
        for name, number in (("start", start), ("full_at", full_at)):
            if not 0.0 < number <= 1.0:
                raise ValueError(f"Curriculum: {name} must be in (0, 1], got {number}")
        check_range("Curriculum", "(1, inf)", increase=increase)
        for name, whole in (("min_images", min_images), ("rescore_every", rescore_every)):
            if not (isinstance(whole, int) and whole >= 1):
                raise ValueError(f"Curriculum: {name} must be a whole number >= 1, got {whole}")
        if not isinstance(balanced, bool):
            raise TypeError(f"Curriculum: balanced must be true or false, got {balanced!r}")
        check_seed("Curriculum", seed)
        self.scoring, self.reference, self.scores = scoring, reference, scores
        self.pacing, self.start, self.full_at, self.increase = pacing, start, full_at, increase
        self.min_images, self.order, self.balanced = min_images, order, balanced
        self.rescore_every, self.net, self.seed = rescore_every, net, seed
        self._loader: BatchLoader | None = None
        self.begin_fit()

    @override
    def begin_fit(self) -> None:
        """Forget an earlier run."""
        self._values: Tensor | None = None  # scores of the loader's images
        self._scored = -1  # epoch in which they were computed
        self._full_at_batch = 0.0
        self._means = torch.empty(0)  # of the first 1, 2, ... scores
        self._starts: list[int] = []  # of the epoch's passes
        self._sizes: list[int] = []

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the network, which the module may have created after `setup`."""
        if self._asks_network:
            find_network(pl_module, self.net, "Curriculum")

    @property
    def _asks_network(self) -> bool:
        return self.scoring != "file" and self.order != "random"

    @property
    def _asks_current(self) -> bool:
        return self._asks_network and self.reference is None

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the scores, the epoch of the scoring, and when all images will be in the pool."""
        return {"scores": self._values, "scored": self._scored, "full_at_batch": self._full_at_batch}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self._values, self._scored = state_dict["scores"], state_dict["scored"]
        self._full_at_batch = state_dict["full_at_batch"]

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse unsupported setups, and continue in the middle of an epoch, for which there is no hook."""
        if self._asks_network:
            refuse_sharding(trainer, "Curriculum", "so no network is asked for scores; give a file of scores")
        if self._asks_current:
            refuse_own_weights(
                trainer, "Curriculum", "so images have no common score; give a reference or a file of scores"
            )
            refuse_steps_elsewhere(
                trainer,
                "Curriculum",
                "and workers fetch at different times, so images have no common score; give a reference or a "
                "file of scores",
            )
            refuse_asynchronous(
                trainer, "Curriculum", "so images have no common score; give a reference or a file of scores"
            )
        loader = told_loader(trainer, "Curriculum")
        if self._full_at_batch == 0.0:
            self._full_at_batch = self.full_at * batches_of_run(trainer, "Curriculum")
        if self._values is None:
            self._begin(trainer, pl_module)
        elif len(self._values) == len(loader.indices):
            self._tell(trainer, loader)
        else:
            raise MisconfigurationException(
                f"Curriculum: the checkpoint has scores of {len(self._values)} images, but there are "
                f"{len(loader.indices)} now"
            )

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the images if it is time, and set the order of the loader, which may be a new one."""
        self._begin(trainer, pl_module)

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loader: Any = trainer.train_dataloader
        epoch = trainer.current_epoch
        due = self._asks_current and epoch % self.rescore_every == 0 and epoch != self._scored
        if self._values is None or due:
            self._values, self._scored = self._score(trainer, pl_module, loader), epoch
        self._tell(trainer, loader)

    def _score(self, trainer: Trainer, pl_module: LightningModule, loader: BatchLoader) -> Tensor:
        if self.order == "random":
            return torch.zeros(len(loader.indices))
        if self.scores is not None:
            return read_scores(self.scores, len(loader.images))[loader.indices]
        network = find_network(pl_module, self.net, "Curriculum")
        weights = None
        if self.reference is not None:
            weights = load_reference(self.reference, pl_module, network, "Curriculum")
        quantity: Literal["loss", "margin"] = "margin" if self.scoring == "margin" else "loss"
        return score_images(trainer, network, weights, loader, quantity, "Curriculum")

    def _tell(self, trainer: Trainer, loader: BatchLoader) -> None:
        assert self._values is not None  # both callers have made them
        seed = loader.seed if self.seed is None else self.seed
        labels = loader.labels.cpu()[loader.indices] if self.balanced else None
        ranking = rank_images(self._values, self.order, seed=seed, labels=labels)
        sums = self._values[ranking].double().cumsum(0)
        self._means = sums / torch.arange(1, len(sums) + 1)
        pacing = Pacing(self.pacing, self.start, self._full_at_batch, self.increase, self.min_images)
        count, batches = len(ranking), int(trainer.num_training_batches)

        def order(epoch: int) -> Tensor:
            passes = epoch_passes(
                ranking,
                lambda batch: pacing.size(batch, count),
                images=loader.epoch_images,
                global_batch=loader.global_batch,
                first_batch=epoch * batches,
                seed=seed,
                epoch=epoch,
            )
            self._starts, self._sizes = passes.starts, passes.sizes
            return passes.index

        loader.set_order(order)
        self._loader = loader

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the pool every `log_every_n_steps` steps."""
        if self._loader is None or not is_logging_step(trainer):
            return
        size = self._sizes[bisect_right(self._starts, batch_idx * self._loader.global_batch) - 1]
        values = {"images": float(size)}
        if self.order != "random":
            values["score"] = float(self._means[size - 1])
        pl_module.log_dict(
            {f"optreg/curriculum/{name}": value for name, value in values.items()}, batch_size=1
        )

    @override
    def let_go(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the loader's own order."""
        if self._loader is not None:
            self._loader.set_order(None)
            self._loader = None
