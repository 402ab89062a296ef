"""AutoAttack: four attacks without settings of their own, the usual last test of a defence."""

import sys
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_optreg._checks import check_choice, required
from lightning_optreg.attacks.attack import Attack
from lightning_optreg.attacks.attacked_network import AttackedNetwork, scores_of
from lightning_optreg.attacks.steps import Norm

__all__ = ["AutoAttack"]

Version = Literal["standard", "plus", "rand"]

_FEWEST_CLASSES = {"standard": 4, "plus": 4, "rand": 3}  # what the DLR loss, targeted or not, is defined for


class AutoAttack(Attack):
    """Attack each image with APGD-CE, targeted APGD-DLR, targeted FAB and Square, until one succeeds.

    Croce, Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks" (arXiv:2003.01690), by the package pyautoattack. RobustBench ranks defences by
    it. It makes thousands of passes for each image that holds out.

    Args:
        eps: Largest size of a change in the norm, for pixels on [0, 1]: in [0, 1] for `linf`, at least 0 for
            `l2`. Default: 8/255.
        norm: `linf` or `l2`. Default: linf.
        version: `standard`; `plus`, with untargeted attacks and restarts too; or `rand` for networks that
            are noisy in evaluation: APGD-CE and APGD-DLR with the mean gradients of 20 passes. Default:
            standard.

    Raises:
        ValueError: If a value is out of its range; at the first batch, if there are fewer than 4 classes
            (`rand`: 3).
        ModuleNotFoundError: If pyautoattack is not installed.

    Example:
        >>> AutoAttack(eps=0.1, norm="l2").label
        'AutoAttack-l2'
    """

    package, extra = "pyautoattack", "autoattack"

    def __init__(self, eps: float = 8 / 255, norm: Norm = "linf", version: Version = "standard") -> None:
        check_choice("AutoAttack", ("linf", "l2"), norm=norm)
        check_choice("AutoAttack", tuple(_FEWEST_CLASSES), version=version)
        self.norm: Norm = norm
        super().__init__(eps, samples=1, average="probabilities")
        self.version = version

    @property
    def label(self) -> str:
        """Its name with the norm and the version, where they are not the usual ones."""
        parts = ["l2"] * (self.norm == "l2") + [self.version] * (self.version != "standard")
        return "-".join(["AutoAttack", *parts])

    def search(self, network: AttackedNetwork, labels: Tensor) -> Tensor:
        """Return the pixels that the package found; those of images that hold out are unchanged."""
        with torch.no_grad():
            classes = network(network.pixels[:1]).shape[1]
        if classes < _FEWEST_CLASSES[self.version]:
            fewest = _FEWEST_CLASSES[self.version]
            raise ValueError(
                f"AutoAttack: version {self.version!r} needs at least {fewest} classes, got {classes}"
            )
        package: Any = required(self.package, "AutoAttack", self.extra)
        attack = package.AutoAttack(
            _OfSome(network),
            norm={"linf": "Linf", "l2": "L2"}[self.norm],
            eps=self.eps,
            seed=int(torch.randint(2**31, ())),  # it seeds the generators with it, which are restored
            version=self.version,
            device=network.pixels.device,
        )
        attack.fab.n_target_classes = attack.apgd_targeted.n_target_classes = min(9, classes - 1)
        tracer = sys.gettrace()  # it looks at the calls of one pass, and leaves no tracer there
        try:
            found, _ = attack.run_standard_evaluation(
                network.pixels, labels.long(), batch_size=max(1, len(labels))
            )
        finally:
            sys.settrace(tracer)
        changed: Tensor = found
        return changed


class _OfSome(nn.Module):
    """The network for any pixels, as AutoAttack leaves out images that it has done."""

    def __init__(self, attacked: AttackedNetwork) -> None:
        super().__init__()
        self.network, self.space, self.dtype = attacked.network, attacked.space, attacked.inputs.dtype
        self.training = False

    def forward(self, pixels: Tensor) -> Tensor:
        return scores_of(self.network, self.space.inputs(pixels).to(self.dtype))
