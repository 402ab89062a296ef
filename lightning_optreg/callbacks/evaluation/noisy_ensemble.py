"""Noise after every residual block of any network in training, averaged over passes in evaluation.

Wang, Yuan, Shi, Osher 2019, "ResNets ensemble via the Feynman-Kac formalism to improve natural and robust
accuracies" (arXiv:1811.10745): a residual network with noise in its blocks follows a random path, and the
mean over paths solves a smoother equation.
"""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import repeat
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from lightning_optreg._checks import check_range
from lightning_optreg.callbacks._let_go import LetsGo
from lightning_optreg.callbacks._network import find_network
from lightning_optreg.callbacks._seeded import SeededCallback
from lightning_optreg.callbacks.evaluation.averaged_forward import AveragedForward, Stage
from lightning_optreg.layers.averages import Average
from lightning_optreg.layers.gaussian_noise import (
    GaussianNoise,
    add_relative_noise,
    gaussian_noise,
    normal_like,
)
from lightning_optreg.randomness.draws import mix
from lightning_optreg.randomness.processes import share_of
from lightning_optreg.trainer.queries import is_logging_step
from lightning_optreg.trainer.roles import BreaksPrivacy

__all__ = ["NoisyEnsemble", "residual_blocks"]

# By name, as the libraries have no common base class: ResNets of all kinds of this package and torchvision;
# torchvision's MobileNets, EfficientNets, ConvNeXt, ViT and Swin; those of timm with the same names.
RESIDUAL = frozenset(
    {
        "BasicBlock",
        "Bottleneck",
        "PreactBasicBlock",
        "PreactBottleneck",
        "PreBottleneck",
        "PreBasic",
        "InvertedResidual",
        "MBConv",
        "NoisyBlock",
        "FusedMBConv",
        "CNBlock",
        "ConvNeXtBlock",
        "EncoderBlock",
        "SwinTransformerBlock",
        "SwinTransformerBlockV2",
    }
)


def residual_blocks(network: nn.Module, blocks: Sequence[str] = ()) -> dict[str, nn.Module]:
    """Find the residual blocks of a network.

    Args:
        network: Any module.
        blocks: Names of classes ("BasicBlock"), or of modules in the network with `*` and `?` ("stage*.*").
            Empty: all known classes, except blocks that are marked as having no shortcut.

    Returns:
        The blocks by name, in the network's order; of nested blocks only the innermost.

    Example:
        >>> from torchvision.models import resnet18
        >>> list(residual_blocks(resnet18()))[:3]
        ['layer1.0', 'layer1.1', 'layer2.0']
    """
    found = {}
    for name, module in network.named_modules():
        kind = type(module).__name__
        if blocks:
            chosen = any(kind == pattern or fnmatchcase(name, pattern) for pattern in blocks)
        else:
            chosen = kind in RESIDUAL and _has_shortcut(module)
        if chosen and name:
            found[name] = module
    outer = {name for name in found for other in found if other.startswith(f"{name}.")}
    return {name: module for name, module in found.items() if name not in outer}


def _has_shortcut(block: nn.Module) -> bool:
    # The names in torchvision and timm, then in this package, where None marks a plain block.
    for flag in ("use_res_connect", "has_skip"):
        if hasattr(block, flag):
            return bool(getattr(block, flag))
    return getattr(block, "shortcut", block) is not None


class NoisyEnsemble(AveragedForward, SeededCallback, LetsGo, BreaksPrivacy):
    """Add noise after every residual block: y = y + c std(y) N(0, I), and average n passes in evaluation.

    It turns any residual network into the noise-injected form of Wang et al. without changing the network:
    hooks on the blocks add the noise, and checkpoints fit the plain network. As in the authors' code the
    noise is added after the shortcut (and after the final ReLU, if a block has one). With
    `relative_to="batch"` std(y) is that of the whole batch's activations, as in their code, and the gradient
    flows through it; with "image" an image's noise does not depend on other images; with None the noise is c
    N(0, I).

    In evaluation the network is run n times and its predictions are averaged as in `NoiseMarginalization`,
    with the same spread logged as `optreg/noisy_ensemble/...`; in the other stages there is no noise. In
    training it logs `optreg/noisy_ensemble/std`, the mean standard deviation of the noise. The authors train
    several such networks as one, and keep the noise on in a single pass at test: that is
    `lightning_optreg.nets.EnResNet`.

    The noise is a function of the seed, the step, the batch and the process, from separate generators, so a
    resumed run draws the same as an uninterrupted one. It works with any module and any loop; blocks are
    found in this package's and torchvision's networks, and in those of timm by the names of their classes.

    On a CPU a training step of ResNet-20 (batch 128, one thread) takes about 1.16 times as long; more than
    half of that is drawing 11 million normal numbers. `scripts/bench/noise.py --cpu_time` measures it beside
    other ways to draw them.

    Args:
        noise: c, at least 0. With 0 nothing happens. Default: 0.1, as in the paper.
        relative_to: `image`, `batch` or None. Default: image.
        blocks: The blocks: class names, or names of modules in the network with `*` and `?`. Empty: all known
            ones, see `residual_blocks`.
        samples: Number n of passes in evaluation, at least 1. Default: 10.
        stages: Stages that average passes: some of `validate`, `test`, `predict`. Default: test and predict.
        average: `probabilities`, as in the theory, or `outputs`, the plain mean, as the authors' code
            averages scores. Default: probabilities.
        net: Name of the network in the LightningModule. None: see `find_network`.
        seed: Seed of the noise. None: the number given to `seed_everything`, else 0.

    Raises:
        ValueError: If a value is out of its range.
        TypeError: If blocks is not a list of strings.
        MisconfigurationException: Before the first step, if the network or its blocks are not found, a block
            already has noise, or another callback can't be combined with this one; in the first batch, if a
            block does not return a tensor; in the first evaluated batch, if the step does not call the
            network, or its output is not a tensor, or not scores when probabilities are averaged.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[NoisyEnsemble(0.1)], accelerator="cpu", logger=False)
    """

    def __init__(
        self,
        noise: float = 0.1,
        relative_to: Literal["image", "batch"] | None = "image",
        blocks: Sequence[str] = (),
        samples: int = 10,
        stages: Sequence[Stage] = ("test", "predict"),
        average: Average = "probabilities",
        net: str | None = None,
        seed: int | None = None,
    ) -> None:
        AveragedForward.__init__(self, stages, average, net, 0 if seed is None else seed)
        SeededCallback.__init__(self, seed)
        check_range("NoisyEnsemble", "[0, inf)", noise=noise)
        if relative_to not in (None, "image", "batch"):
            raise ValueError(
                f"NoisyEnsemble: relative_to must be None, 'image' or 'batch', got {relative_to!r}"
            )
        if isinstance(blocks, str) or not all(isinstance(block, str) and block for block in blocks):
            raise TypeError(f"NoisyEnsemble: blocks must be a list of strings, got {blocks!r}")
        check_range("NoisyEnsemble", ">= 1", samples=samples)
        self.noise, self.relative_to = noise, relative_to
        self.blocks, self.samples = tuple(blocks), samples
        self._log_name = "noisy_ensemble"
        self._block_handles: list[RemovableHandle] = []
        self._generator: torch.Generator | None = None
        self._evaluating = self._recording = False
        self._stds: list[Tensor] = []

    @property
    @override
    def is_noise(self) -> bool:
        """Whether noise is above 0."""
        return self.noise > 0.0

    @property
    @override
    def breaks_privacy(self) -> str:
        """Noise in proportion to a whole batch mixes examples."""
        return (
            "adds noise in proportion to a whole batch; set its relative_to to image"
            if self.is_noise and self.relative_to == "batch"
            else ""
        )

    def _blocks(self, pl_module: LightningModule) -> dict[str, nn.Module]:
        network = find_network(pl_module, self.net, "NoisyEnsemble")
        found = residual_blocks(network, self.blocks)
        if not found:
            sought = (
                f"none matches blocks={list(self.blocks)}" if self.blocks else "no class of them is known"
            )
            raise MisconfigurationException(
                f"NoisyEnsemble: {type(network).__name__} has no residual blocks: of its modules {sought}; "
                "pass blocks=[<names>]"
            )
        for name, block in found.items():
            if any(isinstance(layer, GaussianNoise) and layer.sigma > 0.0 for layer in block.modules()):
                raise MisconfigurationException(f"NoisyEnsemble: the block {name} already has noise")
        return found

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Agree on a seed, and inspect the module, if it already has its layers."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":  # a fit may continue with a checkpoint's
            self.run_seed.settle(trainer)

    @override
    def look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the blocks before anything runs, and register the hooks."""
        super().look(trainer, pl_module)
        found = self._blocks(pl_module)
        if self.noise > 0.0 and not self._block_handles:
            # A compiled network may call it. (torch 2.14 gives `disable` no types.)
            hook = torch.compiler.disable(self._add)  # type: ignore[no-untyped-call]
            self._block_handles = [block.register_forward_hook(hook) for block in found.values()]

    def _add(self, block: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self._generator is None or not (block.training or self._evaluating):
            return output
        if not isinstance(output, Tensor):
            raise MisconfigurationException(
                f"NoisyEnsemble: a block must return one tensor, {type(block).__name__} returns "
                f"{type(output).__name__}"
            )
        if self.relative_to is None:
            std, noisy = output.new_ones(()), gaussian_noise(output, self.noise, self._generator)
        else:
            z = normal_like(output, self._generator)
            noisy, std = add_relative_noise(output, z, self.noise, self.relative_to)
        if self._recording:
            self._stds.append(self.noise * std.detach().mean())
        return noisy

    def _seed_generator(self, device: torch.device, *numbers: int) -> None:
        self._generator = torch.Generator(device).manual_seed(mix(self.seed_of_draws, *numbers))

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the batch's random numbers."""
        if self.noise == 0.0:
            return
        numbers = (trainer.global_step, trainer.current_epoch, batch_idx, share_of(trainer)[0])
        self._seed_generator(pl_module.device, *numbers)
        self._recording = is_logging_step(trainer, trainer.global_step + 1)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the noise every `log_every_n_steps` steps."""
        self._generator, self._recording = None, False
        stds, self._stds = self._stds, []
        if stds:
            value = torch.stack([std.to(pl_module.device) for std in stds]).mean()
            pl_module.log(f"{self._log_path(self._log_name)}/std", value, batch_size=1)

    @override
    def inputs(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the same images in every pass."""
        return repeat(images, self.samples)

    @override
    def begin(self, network: nn.Module) -> None:
        """Turn the noise on, with newly seeded random numbers."""
        if self.noise > 0.0:
            self._evaluating = True
            self._seed_generator(self._device, self.seed, self._rank)

    @override
    def switch(self, on: bool) -> None:
        """Add noise only in the passes."""
        self._evaluating = on and self.noise > 0.0

    @override
    def draws_so_far(self) -> Tensor | None:
        """Return the state of the noise's generator."""
        return None if self._generator is None else self._generator.get_state()

    @override
    def draw_on(self, state: Tensor | None) -> None:
        """Restore it."""
        if state is not None and self._generator is not None:
            self._generator.set_state(state)

    @override
    def end(self) -> None:
        """Turn the noise off."""
        self._evaluating, self._generator = False, None

    @override
    def let_go(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the blocks' hooks away."""
        for handle in self._block_handles:
            handle.remove()
        self._block_handles, self._stds, self._generator = [], [], None
        self._evaluating = self._recording = False
