"""The command `export`: write the network of a checkpoint as an ONNX file."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_optreg.cli.option_parser import OptionParser, UsageError
from lightning_optreg.export.input import in_words
from lightning_optreg.export.onnx_file import OPSET, export_onnx
from lightning_optreg.places import check_place, place_of
from lightning_optreg.trust import Trust, add_allow, build_nothing_unasked, check_hyperparameters

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `lightning-optreg export`: write the network of a checkpoint as an ONNX file.

    Args:
        argv: The arguments after the command's name. Default: those of this process.

    Returns:
        Exit status: 0; 2 if the arguments or the checkpoint are wrong, with one line on the standard error.

    Example:
        >>> main(["--output", "net.onnx"])
        2
    """
    try:
        options = _read(sys.argv[1:] if argv is None else argv)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from lightning_optreg.cli.errors import run_guarded  # imports Lightning

    return run_guarded(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    build_nothing_unasked()

    from lightning_optreg import ImageClassifier
    from lightning_optreg.runs.checkpoints import load_classifier, read_checkpoint
    from lightning_optreg.runs.run_folder import find_checkpoint

    root = place_of(options.default_root_dir)
    check_place(root, "--default_root_dir")
    path = find_checkpoint(root, options.ckpt_path)
    checkpoint = read_checkpoint(path)
    trust = Trust(options.allow)
    check_hyperparameters(checkpoint, owner=ImageClassifier, trust=trust, what=f"ckpt_path: {str(path)!r}")
    if "net" not in checkpoint.get("hyper_parameters", {}):
        raise ValueError(
            f"ckpt_path: {str(path)!r} does not say how its network is built (it was not written by "
            "lightning-optreg fit); use lightning_optreg.export.export_onnx in Python"
        )

    module = load_classifier(path, options.allow)
    preprocessing = _preprocessing_of(checkpoint)
    if options.from_pixels and preprocessing is None:
        raise ValueError(
            f"--from_pixels: {str(path)!r} does not say how its images are normalised; in Python give "
            "export_onnx what preprocessing() of the datamodule says"
        )
    difference = export_onnx(
        module,
        options.output,
        input_shape=options.input_shape,
        preprocessing=preprocessing,
        from_pixels=options.from_pixels,
    )
    shape = options.input_shape or getattr(module.net, "input_shape", ())
    print(
        f"{options.output}: images (N, {', '.join(map(str, shape))}) -> scores (N, {module.num_classes}); "
        f"differs from the checkpoint by {difference:.0e} at most"
    )
    print(f"opset {OPSET}; takes {in_words(preprocessing, from_pixels=options.from_pixels)}")


def _preprocessing_of(checkpoint: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The preprocessing that a run's datamodule saves in a checkpoint; older ones don't have it."""
    states = (value for value in checkpoint.values() if isinstance(value, dict))
    return next((state["preprocessing"] for state in states if state.get("preprocessing") is not None), None)


def _read(argv: Sequence[str]) -> argparse.Namespace:
    options = _parser().read(argv)
    output = place_of(options.output)
    try:
        check_place(output, "--output")
    except (ValueError, ModuleNotFoundError) as error:
        raise UsageError(str(error)) from error
    if output.is_dir():
        raise UsageError(f"--output: {options.output} is a folder")
    if isinstance(output, Path) and not output.parent.is_dir():
        raise UsageError(f"--output: there is no folder {str(output.parent)!r}")
    if options.input_shape is not None and not all(1 <= size < 2**31 for size in options.input_shape):
        shape = " ".join(map(str, options.input_shape))
        raise UsageError(f"--input_shape must be three whole numbers >= 1, got {shape}")
    return options


def _parser() -> OptionParser:
    parser = OptionParser(
        prog="lightning-optreg export",
        description=f"Write a checkpoint's network to an ONNX file (opset {OPSET}) and check it. The "
        "file takes images normalised as in training, or bytes with --from_pixels. It returns scores; their "
        "softmax gives the probabilities.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--ckpt_path", required=True, metavar="CKPT", help="best, last (of the newest run) or a file"
    )
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="the ONNX file to write, such as net.onnx"
    )
    parser.add_argument(
        "--input_shape",
        nargs=3,
        type=int,
        metavar=("C", "H", "W"),
        help="channels, height and width of one image; default: the network's own",
    )
    parser.add_argument(
        "--from_pixels",
        action="store_true",
        help="normalise in the file: it takes images as uint8, 0 to 255",
    )
    parser.add_argument(
        "--default_root_dir",
        default="runs",
        metavar="DIR",
        help="folder of the runs, for best and last: the recipe's trainer.default_root_dir; default: runs",
    )
    add_allow(parser)
    return parser
