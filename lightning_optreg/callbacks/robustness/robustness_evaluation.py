"""How many images a network still classifies right when attacks change each of them a little."""

import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from typing_extensions import override

from lightning_optreg._checks import check_places, check_range
from lightning_optreg.attacks import FGSM, IFGSM, PGD, Attack, CarliniWagner, PixelSpace
from lightning_optreg.attacks.attacked_network import scores_of
from lightning_optreg.callbacks._let_go import LetsGo
from lightning_optreg.callbacks._network import find_network
from lightning_optreg.callbacks._of_a_kind import OfAKind
from lightning_optreg.callbacks.evaluation.averaged_forward import AveragedForward
from lightning_optreg.callbacks.robustness._accuracies import Accuracy, as_csv, as_markdown
from lightning_optreg.callbacks.robustness._first_batch import check_first_batch, part_of
from lightning_optreg.callbacks.robustness._pixels import check_pixels, check_statistics, pixel_space_of
from lightning_optreg.callbacks.robustness._watch import Watch
from lightning_optreg.figures.adversarial_images import draw_adversarial_images
from lightning_optreg.files import check_inside, replacing
from lightning_optreg.layers.modes import evaluating
from lightning_optreg.places import Place, place_of
from lightning_optreg.randomness.draws import mix
from lightning_optreg.randomness.kept_generators import seeded_generators
from lightning_optreg.trainer.queries import callbacks_of, datamodule_of, is_dry_run
from lightning_optreg.trainer.refusals import refuse_sharding

__all__ = ["RobustnessEvaluation", "usual_attacks"]

_SHOWN = 5  # images in the picture
_NAME = "RobustnessEvaluation"


def usual_attacks(eps: float, eps_l2: float, samples: int) -> list[Attack]:
    """Return FGSM, I-FGSM with 20 steps, Carlini and Wagner's attack, and EOT-PGD with 20 steps.

    Args:
        eps: Largest change of a pixel on [0, 1].
        eps_l2: Largest l2 norm of an image's change, for Carlini and Wagner's.
        samples: Passes that EOT-PGD averages over for each gradient.

    Example:
        >>> [attack.label for attack in usual_attacks(0.1, 1.0, 10)]
        ['FGSM', 'IFGSM-20', 'C&W', 'EOT-PGD-20']
    """
    return [FGSM(eps), IFGSM(eps), CarliniWagner(eps_l2), PGD(eps, samples=samples)]


class RobustnessEvaluation(OfAKind, LetsGo):
    """Attack the network in test (or validation), and report how many images it still classifies right.

    Besides the accuracy on the images themselves, it reports the accuracy under each attack, and under the
    strongest for each image, with 95 % confidence intervals (Wilson 1927) over the images. At the end of a
    test it prints them as a table, and writes this to `<output>.md` and `<output>.csv`, and some images with
    their changes to `<output>.png`, in the run's folder. It logs `optreg/robustness/natural`,
    `optreg/robustness/<attack>`, such as `ifgsm_20`, and `optreg/robustness/worst`.

    The network is attacked as it is evaluated: in evaluation mode, with this package's normalisation undone
    and done again (or that of `mean` and `std`), and with what `NoisyEnsemble`, `NoiseMarginalization` and
    other callbacks make of it. An attack on a network that is noisy in evaluation needs the mean gradient of
    several passes (`samples`), or the network looks more robust than it is. Nothing changes for the module's
    own test: no generator advances, and no gradient is left behind.

    Needs `pip install "lightning-optreg[robustness]"` (Foolbox).

    Args:
        attacks: The attacks. None: FGSM, I-FGSM with 20 steps, Carlini and Wagner's, and PGD with 20 steps of
            `samples` passes each, all with `eps`.
        eps: Of these attacks: largest change of a pixel on [0, 1], in [0, 1]. Default: 8/255, as is usual for
            CIFAR-10; for Fashion-MNIST 0.1 is.
        eps_l2: Of Carlini and Wagner's attack: largest l2 norm of an image's change, at least 0. Default:
            0.5.
        samples: Passes for each gradient of that PGD, at least 1. Default: 10.
        max_images: Number of images to attack, the first ones of the loader, at least 1. None: all.
        stages: `test`, `validate` or both. Default: test.
        every_n_epochs: Epochs between attacks in the validations of a fit, at least 1. Default: 1.
        output: Path of the files in the run's folder, without suffix. None: none is written. Default:
            robustness.
        mean: Mean of each channel, for pixels on [0, 1], that was subtracted from the images. None: this
            package's data modules say it; other images must be on [0, 1] themselves.
        std: Standard deviation of each channel, by which they were divided.
        net: Name of the network in the LightningModule. None: see `find_network`.
        images: Where in a batch the images (N, C, H, W) are: an index in a list, or a key of a dictionary.
            Default: 0.
        labels: Where the classes are. Default: 1.
        seed: Seed of the attacks, any integer: every evaluation of the same weights gives the same result.
            Default: 0.

    Raises:
        ValueError: If a value is out of its range.
        TypeError: If an attack is not an `Attack`.
        MisconfigurationException: Before the first batch, if the network is not found or sharded; in the
            first batch, if images, labels or the network's output are not as described.
        ModuleNotFoundError: In the first batch, if Foolbox is not installed.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> attacked = RobustnessEvaluation([FGSM(0.1), IFGSM(0.1)], max_images=1000)
        >>> trainer = Trainer(callbacks=[attacked], accelerator="cpu", logger=False)
    """

    must_differ = ("output", "write")

    def __init__(
        self,
        attacks: Sequence[Attack] | None = None,
        eps: float = 8 / 255,
        eps_l2: float = 0.5,
        samples: int = 10,
        max_images: int | None = None,
        stages: Sequence[Literal["validate", "test"]] = ("test",),
        every_n_epochs: int = 1,
        output: str | None = "robustness",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        net: str | None = None,
        images: int | str = 0,
        labels: int | str = 1,
        seed: int = 0,
    ) -> None:
        self.attacks = usual_attacks(eps, eps_l2, samples) if attacks is None else list(attacks)
        for attack in self.attacks:
            if not isinstance(attack, Attack):
                raise TypeError(f"{_NAME}: attacks must be Attacks, got {type(attack).__name__}")
        if not self.attacks:
            raise ValueError(f"{_NAME}: attacks must be at least one, got none")
        check_range(_NAME, ">= 1", every_n_epochs=every_n_epochs)
        if max_images is not None:
            check_range(_NAME, ">= 1", max_images=max_images)
        if isinstance(stages, str) or not set(stages) <= {"validate", "test"} or not stages:
            raise ValueError(f"{_NAME}: stages must be some of validate, test, got {stages!r}")
        check_places(_NAME, images=images, labels=labels)
        check_statistics(mean, std, _NAME)
        self.output = None if output is None else check_inside(output, f"{_NAME}: output")
        self.max_images, self.stages, self.every_n_epochs = max_images, tuple(stages), every_n_epochs
        self.mean, self.std, self.net = mean, std, net
        self.images, self.labels, self.seed = images, labels, seed
        self.results: list[Accuracy] = []
        """The accuracies of the last evaluation."""
        self._reset()

    def _reset(self) -> None:
        self._network: nn.Module | None = None
        self._space, self._seen = PixelSpace(), 0
        self._right: list[Tensor] = []  # of each batch: natural, each attack, worst; counts
        self._shown: dict[str, Any] = {}  # images, labels and what became of them, for the picture
        self._certain = False
        self._watch: Watch | None = None
        self._folder: Place | None = None

    @property
    def names(self) -> list[str]:
        """What the accuracies are called: natural, the attacks, and worst."""
        labels = [attack.label for attack in self.attacks]
        numbered = [
            f"{label} ({labels[:i].count(label) + 1})" if label in labels[:i] else label
            for i, label in enumerate(labels)
        ]
        return ["natural", *numbered, "worst"]

    # ---- an evaluation -------------------------------------------------------------------------------------

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._reset()
        refuse_sharding(trainer, _NAME, "so the network can't be called outside of the step")
        self._network = find_network(pl_module, self.net, _NAME)
        self._space, self._certain = pixel_space_of(trainer, self.mean, self.std, _NAME)
        self._folder = place_of(trainer.log_dir or trainer.default_root_dir)

    def _look(self, batch: Any) -> None:
        """Watch what the first step calls the network with."""
        if self._network is not None and self._seen == 0 and self._watch is None:
            self._watch = Watch(self._network, part_of(batch, self.images, "images", _NAME))

    def _attack(self, trainer: Trainer, batch: Any, batch_idx: int) -> None:
        if self._watch is not None and self._network is not None:
            self._watch.finish(_NAME, "test" if trainer.testing else "validation", self._network)
            self._watch = None
        network, left = self._network, self._left(trainer)
        if network is None or left == 0:
            return
        images = part_of(batch, self.images, "images", _NAME)[:left]
        if len(images) == 0:  # the share of a process in a small last batch
            return
        labels = part_of(batch, self.labels, "labels", _NAME)[:left]
        averaging = [each for each in callbacks_of(trainer) if isinstance(each, AveragedForward)]
        seed = mix(self.seed, trainer.global_rank, batch_idx) >> 1  # 63 bits, so that others can be added
        generators = seeded_generators(seed, images.device, module=trainer.lightning_module)
        with ExitStack() as stack:
            for each in averaging:
                stack.enter_context(each.aside())
            stack.enter_context(trainer.precision_plugin.forward_context())
            stack.enter_context(generators)
            if self._seen == 0:
                check_first_batch(trainer, network, images, labels, "cross_entropy", _NAME)
                if not self._certain:
                    check_pixels(self._space, images, _NAME)
            taken_for = {"natural": _predictions(network, images)}
            found = {}
            for number, (name, attack) in enumerate(zip(self.names[1:-1], self.attacks, strict=True)):
                found[name] = attack(network, images, labels, self._space, seed=mix(seed, number) >> 1)
                taken_for[name] = _predictions(network, found[name])
        right = torch.stack([predictions == labels for predictions in taken_for.values()])
        self._right.append(torch.cat([right, right.all(0, keepdim=True)]).sum(1))
        if self._seen == 0 and trainer.is_global_zero:
            self._show(images, labels, found, taken_for)
        self._seen += len(images)

    def _left(self, trainer: Trainer) -> int | None:
        """Return how many images this process has still to attack; None: all."""
        if self.max_images is None:
            return None
        share, more = divmod(self.max_images, trainer.world_size)
        return max(0, share + (trainer.global_rank < more) - self._seen)

    def _show(
        self, images: Tensor, labels: Tensor, found: dict[str, Tensor], taken_for: dict[str, Tensor]
    ) -> None:
        """Keep the first images for the picture, those that the network takes for what they are."""
        right = taken_for["natural"] == labels
        first = right.nonzero().flatten()[:_SHOWN]
        first = first if len(first) else torch.arange(min(_SHOWN, len(images)), device=images.device)

        def pixels(inputs: Tensor) -> Tensor:
            return self._space.pixels(inputs[first]).float().clamp(0.0, 1.0).cpu()

        self._shown = {
            "pixels": pixels(images),
            "labels": labels[first].tolist(),
            "natural": taken_for["natural"][first].tolist(),
            "attacks": {
                name: (pixels(inputs), taken_for[name][first].tolist()) for name, inputs in found.items()
            },
        }

    def _end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add up all processes, and log."""
        if self._network is None:
            return
        counts = torch.zeros(len(self.names) + 1, device=pl_module.device)
        if self._right:
            counts[:-1] = torch.stack(self._right).sum(0)
            counts[-1] = self._seen
        counts = trainer.strategy.reduce(counts, reduce_op="sum")
        *right, images = (int(count) for count in counts.tolist())
        if images > 0:
            sizes = [(None, ""), *((attack.eps, attack.norm) for attack in self.attacks), (None, "")]
            self.results = [
                Accuracy(name, eps, norm, count, images)
                for name, (eps, norm), count in zip(self.names, sizes, right, strict=True)
            ]
            for each in self.results:
                pl_module.log(f"{self._log_path('robustness')}/{_log_name(each.name)}", each.share)
        self._network = None

    # ---- hooks ---------------------------------------------------------------------------------------------

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the network, and how images were normalised."""
        if "test" in self.stages:
            self._begin(trainer, pl_module)

    @override
    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Watch the first step."""
        self._look(batch)

    on_validation_batch_start = on_test_batch_start

    @override
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Attack the images of a batch."""
        self._attack(trainer, batch, batch_idx)

    on_validation_batch_end = on_test_batch_end

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the accuracies."""
        self._end(trainer, pl_module)

    on_validation_epoch_end = on_test_epoch_end

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table, and write the files."""
        if "test" not in self.stages or not self.results:
            return
        table = as_markdown(self.results)
        if not trainer.is_global_zero:
            return
        print(table)  # a result, as the table that Lightning prints
        if self.output is None or is_dry_run(trainer):
            return
        path = (self._folder or Path()) / self.output
        for suffix, text in ((".md", f"{table}\n"), (".csv", as_csv(self.results))):
            with replacing(path.with_name(path.name + suffix)) as file:
                file.write_text(text)
        drawn = bool(self._shown) and self._shown["pixels"].shape[1] in (1, 3)
        if drawn:
            names = getattr(datamodule_of(trainer), "class_names", None)
            with replacing(path.with_name(f"{path.name}.png")) as file:
                draw_adversarial_images(**self._shown, class_names=names).savefig(file, dpi=120)
        picture = ", .csv and .png" if drawn else " and .csv"
        rank_zero_info(f"{_NAME}: wrote {path}.md{picture}")

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the network, in the epochs whose validation is attacked."""
        fitting = trainer.state.fn == TrainerFn.FITTING
        due = not fitting or (trainer.current_epoch + 1) % self.every_n_epochs == 0
        due = due and not trainer.sanity_checking
        if "validate" in self.stages and due:
            self._begin(trainer, pl_module)

    @override
    def let_go(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go of the network and the images."""
        if self._watch is not None:
            self._watch.stop()
        self._reset()


def _predictions(network: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad(), evaluating(network):
        return scores_of(network, inputs).argmax(1)


def _log_name(label: str) -> str:
    """Return a label as the end of a name in the logs: `EOT-PGD-20` as `eot_pgd_20`, `C&W` as `cw`."""
    return re.sub(r"[^a-z0-9]+", "_", label.lower().replace("&", "")).strip("_")
