"""What a file may build and run: checkpoints are data, and so is a YAML from a stranger.

A checkpoint of the command line names the classes of its network, its loss, its optimizer and its data, and
jsonargparse builds what is named. `Trust` says which classes may be named, `check_values` holds every value
of a file to it before anything is imported or built, and `vetted_checkpoint` does so for what Lightning
loads.
"""

from lightning_optreg.trust.checkpoints import check_hyperparameters, check_paths, vetted_checkpoint
from lightning_optreg.trust.classes import Trust, UntrustedError, makes_network
from lightning_optreg.trust.extent import sprawl
from lightning_optreg.trust.loading import VettedLoading
from lightning_optreg.trust.options import SAFE_HELP, add_allow, add_safe, split_options, trust_options
from lightning_optreg.trust.settings import build_nothing_unasked
from lightning_optreg.trust.unreadable import why_unreadable
from lightning_optreg.trust.values import Place, check_values, read_yaml

__all__ = [
    "SAFE_HELP",
    "Place",
    "Trust",
    "UntrustedError",
    "VettedLoading",
    "add_allow",
    "add_safe",
    "build_nothing_unasked",
    "check_hyperparameters",
    "check_paths",
    "check_values",
    "makes_network",
    "read_yaml",
    "split_options",
    "sprawl",
    "trust_options",
    "vetted_checkpoint",
    "why_unreadable",
]
