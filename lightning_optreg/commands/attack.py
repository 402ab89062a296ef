"""The command `attack`: test a checkpoint, and attack its network."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_type_hints

from lightning_optreg.cli.option_parser import OptionParser, UsageError

if TYPE_CHECKING:  # it imports torch
    from lightning_optreg.attacks import Attack

__all__ = ["main", "read_attack"]

_ATTACKS = ("FGSM", "IFGSM", "PGD", "CarliniWagner", "AutoAttack")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `lightning-optreg attack`: `test` with a `RobustnessEvaluation`.

    Args:
        argv: The arguments after the command's name: those of `test`, and its own. Default: those of this
            process.

    Returns:
        Exit status: 0; 2 if the arguments are wrong or a package is missing, with one line on the standard
            error.

    Example:
        >>> main(["--eps", "1.5", "--config", "configs/fashion_mnist/lenet5.yaml"])
        2
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    try:
        options, rest = parser.parse_known_args(argv)
        if options.help:
            print(parser.format_help().rstrip())
            return 0
        callback = _callback(options)
    except (UsageError, ValueError, ModuleNotFoundError) as error:  # a package of an extra
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not any(word.partition("=")[0] == "--ckpt_path" for word in rest):
        rest += ["--ckpt_path", "best"]

    from lightning_optreg.cli.entry import run_command

    return run_command("test", rest, [callback])


def _callback(options: argparse.Namespace) -> Any:
    from lightning_optreg.callbacks import RobustnessEvaluation
    from lightning_optreg.callbacks.robustness.robustness_evaluation import usual_attacks

    if options.attacks is None:
        attacks = usual_attacks(
            options.eps, options.eps_l2, 10 if options.samples is None else options.samples
        )
    else:
        attacks = [
            read_attack(text, options.eps, options.eps_l2, 1 if options.samples is None else options.samples)
            for text in options.attacks
        ]
    return RobustnessEvaluation(
        attacks, max_images=options.images, output=options.output, net=options.net, seed=options.attack_seed
    )


def read_attack(text: str, eps: float, eps_l2: float, samples: int) -> "Attack":
    """Make the attack that a word of the command line names.

    Args:
        text: `FGSM`, or `PGD:steps=40,restarts=5`.
        eps: For those in the norm linf, if the word has no eps.
        eps_l2: For those in the norm l2.
        samples: Passes for each gradient, if the word has none.

    Raises:
        ValueError: If it names none, or gives it a wrong option.

    Example:
        >>> read_attack("PGD:steps=40,norm=l2", 0.1, 1.5, 1).label
        'PGD-l2-40'
    """
    from lightning_optreg import attacks
    from lightning_optreg._nearest import nearest
    from lightning_optreg.commands.plot.named_optimizer import read_call

    try:
        name, given = read_call(text, "attack", bare=True)
    except ValueError as error:
        raise ValueError(f"--attacks {text}: options are written NAME:key=value,key=value") from error
    if name not in _ATTACKS:
        raise ValueError(f"--attacks: {name!r} is not a known attack{nearest(name, _ATTACKS)}")
    kind = getattr(attacks, name)
    hints = get_type_hints(kind.__init__)
    for key, value in given.items():
        hint = hints.get(key)
        if hint is int and type(value) is not int:
            raise ValueError(f"--attacks {text}: {key} must be a whole number, got {value}")
        if hint in (float, float | None) and type(value) not in (int, float):
            raise ValueError(f"--attacks {text}: {key} must be a number, got {value}")
    l2 = name == "CarliniWagner" or given.get("norm") == "l2"
    try:
        usual: dict[str, Any] = {"eps": eps_l2 if l2 else eps}
        if "samples" in hints:
            usual["samples"] = samples
        attack: Attack = kind(**{**usual, **given})
    except TypeError as error:
        raise ValueError(f"--attacks {text}: {error}") from error
    return attack


def _parser() -> OptionParser:
    parser = OptionParser(
        prog="lightning-optreg attack",
        usage="lightning-optreg attack --config FILE [--ckpt_path best] [--eps 0.1] [--images 1000] ...",
        description="Test a checkpoint, and how many images it still classifies right when attacks change "
        "each of them by at most eps. Writes robustness.md, .csv and .png to the run's folder. All options "
        "of `test` are options of this command too: lightning-optreg test --help lists them.",
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this message")
    parser.add_argument(
        "--eps",
        type=float,
        default=8 / 255,
        metavar="X",
        help="largest change of a pixel on [0, 1]; default: 8/255, as is usual for CIFAR-10",
    )
    parser.add_argument(
        "--eps_l2",
        type=float,
        default=0.5,
        metavar="X",
        help="largest l2 norm of an image's change, for CarliniWagner and norm=l2; default: 0.5",
    )
    parser.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="passes for each gradient, for networks that are noisy in evaluation: of PGD without --attacks "
        "(default: 10), of all attacks with it (default: 1)",
    )
    parser.add_argument(
        "--attacks",
        nargs="+",
        metavar="NAME[:key=value,...]",
        help=f"some of {', '.join(_ATTACKS)}, with options: PGD:steps=40,restarts=5; default: FGSM, IFGSM "
        "with 20 steps, CarliniWagner, and PGD with 20 steps and --samples",
    )
    parser.add_argument("--images", type=int, metavar="N", help="the first N test images; default: all")
    parser.add_argument(
        "--output",
        default="robustness",
        metavar="NAME",
        help="files in the run's folder, without suffix; default: robustness",
    )
    parser.add_argument(
        "--net",
        metavar="NAME",
        help="the attribute of the module that is the network, or self for all of the module; default: found",
    )
    parser.add_argument(
        "--attack_seed", type=int, default=0, metavar="N", help="seed of the attacks; default: 0"
    )
    return parser
