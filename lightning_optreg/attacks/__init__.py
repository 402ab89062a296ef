"""Attacks on trained networks: small changes of images, by which they are classified wrongly."""

from lightning_optreg.attacks.attack import Attack
from lightning_optreg.attacks.auto_attack import AutoAttack
from lightning_optreg.attacks.carlini_wagner import CarliniWagner
from lightning_optreg.attacks.fgsm import FGSM
from lightning_optreg.attacks.pgd import IFGSM, PGD
from lightning_optreg.attacks.pixel_space import PixelSpace

__all__ = ["FGSM", "IFGSM", "PGD", "Attack", "AutoAttack", "CarliniWagner", "PixelSpace"]
