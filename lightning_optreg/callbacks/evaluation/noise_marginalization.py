"""Average out the noise: y = f(x, z) with random z in training, y = E_z[f(x, z)] in evaluation.

Dropout, DropConnect, stochastic depth, noise and random pooling follow this pattern. In evaluation their
layers use an approximation, such as the mean of the weights, of the average over samples of z. The spread of
the samples measures the network's uncertainty. With dropout: Gal, Ghahramani, "Dropout as a Bayesian
approximation", 2016 (arXiv:1506.02142).
"""

from collections.abc import Iterator, Sequence
from itertools import repeat

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from typing_extensions import override

from lightning_optreg._checks import check_range
from lightning_optreg.callbacks._network import find_network
from lightning_optreg.callbacks.evaluation.averaged_forward import AveragedForward, Stage
from lightning_optreg.layers import NoiseLayer
from lightning_optreg.layers.averages import Average
from lightning_optreg.layers.noise_layers import noise_layers

__all__ = ["NoiseMarginalization"]


class NoiseMarginalization(AveragedForward):
    """Keep noise layers noisy in evaluation and average the network's predictions: y = E_z[f(x, z)].

    p(k | x) = 1/S sum over s of softmax(f(x, z_s))_k. The module's own step gets log p instead of the scores,
    so its loss, accuracy and probabilities are those of the average. Only the noise layers leave evaluation
    mode: batch normalisation keeps its running statistics. Training is not affected, down to the last bit and
    random number.

    In validation and test it logs `optreg/noise_marginalization/predictive_entropy`, `expected_entropy` and
    `mutual_information` (see `spread`), means over the images; with `average="outputs"` it logs `std`, the
    standard deviation of the outputs over the samples. Evaluation takes S times as long.

    It works with any LightningModule whose step calls the network as a module with the images as its first
    argument. With other callbacks that average the same network, such as `TestTimeAugmentation`, the mean is
    over all combinations, and the spread is that of the others' averages. Dropout in a function (`F.dropout`)
    or within recurrent and attention layers is not found.

    Args:
        samples: Number S of passes, at least 1. Default: 10.
        layers: The layers that stay noisy: class names, or names of modules in the network with `*` and `?`.
            None: all known ones, see `noise_layers`. Default: None.
        stages: Some of `validate`, `test`, `predict`. Default: test and predict, since validation in a fit
            would take S times as long.
        average: `probabilities`, for networks that return scores; `outputs`, the plain mean, for regression
            and for networks that return probabilities. Default: probabilities.
        net: Name of the network in the LightningModule. None: see `find_network`: `net`, `model` or the only
            child with parameters. Default: None.
        seed: Seed of the samples, any integer: every evaluation of the same weights gives the same result.
            Default: 0.

    Raises:
        ValueError: If a value is out of its range.
        MisconfigurationException: Before the first step, if the network is not found or has no such layers,
            or another callback can't be combined with this one; in the first evaluated batch, if the step
            does not call the network, or its output is not a tensor, or not scores when probabilities are
            averaged.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[NoiseMarginalization(samples=20)], accelerator="cpu", logger=False)
    """

    def __init__(
        self,
        samples: int = 10,
        layers: Sequence[str] | None = None,
        stages: Sequence[Stage] = ("test", "predict"),
        average: Average = "probabilities",
        net: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(stages, average, net, seed)
        check_range("NoiseMarginalization", ">= 1", samples=samples)
        if isinstance(layers, str) or (layers is not None and not layers):
            raise ValueError(
                f"NoiseMarginalization: layers must be a list of names, or None for all, got {layers!r}"
            )
        self.samples = samples
        self.layers = None if layers is None else tuple(layers)
        self._log_name = "noise_marginalization"
        self._layers: list[nn.Module] = []  # the layers that are noisy in the passes
        self._before: list[bool] = []  # whether each was noisy before, while they are on

    @override
    def look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the network and its noise layers before anything runs."""
        super().look(trainer, pl_module)
        network = find_network(pl_module, self.net, "NoiseMarginalization")
        if not noise_layers(network, self.layers):
            sought = "none is known" if self.layers is None else f"none matches layers={list(self.layers)}"
            raise MisconfigurationException(
                f"NoiseMarginalization: {type(network).__name__} has no noise layers to average out: of its "
                f"layers {sought}"
            )

    @override
    def inputs(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the same images in every pass."""
        return repeat(images, self.samples)

    @override
    def begin(self, network: nn.Module) -> None:
        """Find the layers."""
        self._layers = noise_layers(network, self.layers)

    @override
    def switch(self, on: bool) -> None:
        """Turn the noise on, or back off where it was off."""
        if on and not self._before:
            self._before = [_is_noisy(layer) for layer in self._layers]
            for layer in self._layers:
                _make_noisy(layer, True)
        elif not on:
            for layer, noisy in zip(self._layers, self._before, strict=False):  # empty if already off
                _make_noisy(layer, noisy)
            self._before = []

    @override
    def own_noise(self) -> Sequence[nn.Module]:
        """Return the layers that are known to draw nothing while they are off."""
        return [layer for layer in self._layers if not _is_noisy(layer) and _is_still(layer)]


def _is_noisy(layer: nn.Module) -> bool:
    return layer.sampling if isinstance(layer, NoiseLayer) else layer.training


def _make_noisy(layer: nn.Module, noisy: bool) -> None:
    if isinstance(layer, NoiseLayer):
        layer.sampling = noisy
    else:
        layer.train(noisy)


def _is_still(layer: nn.Module) -> bool:
    if isinstance(layer, (nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)):
        return False
    if not isinstance(layer, NoiseLayer):
        return True
    ours = type(layer).__module__.startswith("lightning_optreg.layers.")
    return ours and getattr(layer, "at_test", "fixed") == "fixed" and not hasattr(layer, "inference")
