"""Networks for use without this package: ONNX files, checked against the network they were made from.

The file maps images (N, C, H, W) to scores (N, K) for any N, as the module's `forward` does: the images are
normalised already, as batches reach the module, or that is a part of the file. The softmax of the scores are
the probabilities.
"""

import argparse
import copy
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_optreg.export_input import drawing_layer, in_words, metadata, pixels_first
from lightning_optreg.files import replacing
from lightning_optreg.option_parser import OptionParser, UsageError
from lightning_optreg.trust import Trust, add_allow, build_nothing_unasked, check_hyperparameters

if TYPE_CHECKING:  # torch takes a second, and `--help` needs none of it
    from torch import Tensor, nn

__all__ = ["export_onnx", "main"]

OPSET = 18
"""Version of ONNX's operators: what torch's exporter writes without converting."""

TOLERANCE = 1e-4
"""Largest difference of scores that passes the check, relative to the largest score or to 1."""


def export_onnx(
    module: "nn.Module",
    path: str | Path,
    *,
    input_shape: Sequence[int] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    from_pixels: bool = False,
    check: bool = True,
) -> float | None:
    """Write a network to an ONNX file, in float32 and opset 18, as it is in evaluation.

    Its input is named `images` and its output `scores`; the number of images is free. The module stays as it
    is, wherever it is.

    The images are to be normalised as in training. With `preprocessing` the file's metadata say how, as JSON:
    `normalize` (the datamodule's mode), `mean` and `std` for pixels on [0, 1], and `evaluation` (what else is
    done in evaluation, such as a crop). With `from_pixels` the file does it, and takes bytes.

    Args:
        module: An `ImageClassifier` or a network: images (N, C, H, W) to scores (N, K).
        path: The file to write. It appears whole or, after an error, not at all.
        input_shape: Shape (C, H, W) of one image. None: the network's own `input_shape`.
        preprocessing: What `preprocessing()` of the datamodule says, after its `setup`. None: not known.
            Default: None.
        from_pixels: Take images as uint8, 0 to 255, and normalise them in the file, which needs
            `preprocessing`; cropping and resizing stay outside. Default: False, normalised float32.
        check: Run the file with onnxruntime on random images and compare with the network. For the check to
            pass, no score may differ by more than 1e-4 times the largest one (1e-4 if none is above 1).

    Returns:
        The largest difference of scores that the check found; None without it.

    Raises:
        ModuleNotFoundError: If onnx, onnxscript or (for the check) onnxruntime is missing.
        RuntimeError: If the network has an operation that can't be exported, draws random numbers in
            evaluation, or has lazy layers that were never called, or if the check fails.
        ValueError: If nothing says what shape images have, or it is no shape; with `from_pixels`, if nothing
            says how they are normalised, or by more than numbers a channel.

    Example:
        >>> import tempfile
        >>> from lightning_optreg.nets import SoftmaxRegression
        >>> net = SoftmaxRegression(num_classes=3, input_shape=(1, 4, 4))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_onnx(net, f"{folder}/net.onnx") < 1e-4
        True
    """
    _require(["onnx", "onnxscript", *(["onnxruntime"] if check else [])])
    import torch

    net = getattr(module, "net", module)
    shape = getattr(net, "input_shape", None) if input_shape is None else tuple(input_shape)
    if shape is None:
        raise ValueError(
            f"export_onnx: {type(net).__name__} does not say what images it takes: give input_shape (C, H, W)"
        )
    if len(shape) != 3 or not min(shape) >= 1:
        raise ValueError(
            f"export_onnx: input_shape must be three numbers >= 1 (channels, height, width), got {shape}"
        )
    if any(map(torch.nn.parameter.is_lazy, net.parameters())):
        raise RuntimeError(
            f"export_onnx: {type(net).__name__} has lazy layers without a size; call it once on images before"
        )
    # A copy, since the network may be in training, on another device, in another precision or compiled.
    net = copy.deepcopy(net).cpu().float().eval()
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> "Tensor":
        if from_pixels:
            return torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)
        return torch.randn(count, *shape, generator=generator)

    whole = pixels_first(net, shape[0], preprocessing) if from_pixels else net
    with replacing(Path(path)) as temporary:
        try:
            program = torch.onnx.export(
                whole,
                (images(2),),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["scores"],
                dynamic_shapes=({0: torch.export.Dim("N")},),
            )
        except torch.onnx.OnnxExporterError as error:
            reason = drawing_layer(whole, images(2)) or str(error.__cause__ or error).strip().splitlines()[0]
            raise RuntimeError(f"export_onnx: {type(net).__name__} can't be exported: {reason}") from error
        assert program is not None  # there is none of the older exporter only
        program.model.metadata_props.update(metadata(preprocessing, from_pixels=from_pixels))
        program.save(temporary, external_data=False)
        if not check:
            return None
        # Not the number of images that the network was traced with: that it is free is checked too.
        return _difference(whole, temporary, images(5))


def _difference(net: "nn.Module", path: Path, images: "Tensor") -> float:
    """Largest difference of scores between network and file."""
    import onnxruntime
    import torch

    with torch.no_grad():
        expected = net(images)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"images": images.numpy()})
    difference = float((torch.from_numpy(scores) - expected).abs().max())
    allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
    if not difference <= allowed:
        drawing = drawing_layer(net, images)
        raise RuntimeError(
            f"export_onnx: the file's scores differ from the network's by {difference:.2g}, "
            f"more than {allowed:.2g}{f': {drawing}' if drawing else ''}; nothing was written"
        )
    return difference


def _require(packages: Sequence[str]) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"export_onnx: {' and '.join(missing)} missing: pip install lightning-optreg[onnx]"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run `lightning-optreg export`: write the network of a checkpoint as an ONNX file.

    Args:
        argv: The arguments after the command's name. Default: those of this process.

    Returns:
        Exit status 0.

    Raises:
        SystemExit: If the arguments are wrong, with status 2.

    Example:
        >>> main(["--output", "net.onnx"])
        Traceback (most recent call last):
        SystemExit: 2
    """
    try:
        options = _read(sys.argv[1:] if argv is None else argv)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    build_nothing_unasked()

    from lightning_optreg import ImageClassifier
    from lightning_optreg.cli.checkpoints import load_classifier, read_checkpoint
    from lightning_optreg.cli.run_folder import find_checkpoint

    path = find_checkpoint(Path(options.default_root_dir), options.ckpt_path)
    checkpoint = read_checkpoint(path)
    trust = Trust(options.allow)
    check_hyperparameters(checkpoint, owner=ImageClassifier, trust=trust, source=f"ckpt_path: {str(path)!r}")
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
    return 0


def _preprocessing_of(checkpoint: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the datamodule of a run keeps in a checkpoint; older ones don't have it."""
    states = (value for value in checkpoint.values() if isinstance(value, dict))
    return next((state["preprocessing"] for state in states if state.get("preprocessing") is not None), None)


def _read(argv: Sequence[str]) -> argparse.Namespace:
    options = _parser().read(argv)
    output = Path(options.output)
    if output.is_dir():
        raise UsageError(f"--output: {options.output} is a folder")
    if not output.parent.is_dir():
        raise UsageError(f"--output: there is no folder {str(output.parent)!r}")
    if options.input_shape is not None and not all(1 <= size < 2**31 for size in options.input_shape):
        shape = " ".join(map(str, options.input_shape))
        raise UsageError(f"--input_shape must be three whole numbers >= 1, got {shape}")
    return options


def _parser() -> OptionParser:
    parser = OptionParser(
        prog="lightning-optreg export",
        description=f"Write a checkpoint's network to an ONNX file (opset {OPSET}) and check it. The "
        "file takes images normalised as in training, or bytes with --from_pixels. It returns scores, whose "
        "softmax are the probabilities.",
        allow_abbrev=False,
    )
    parser.add_argument("--ckpt_path", required=True, help="best, last (of the newest run) or a file")
    parser.add_argument("--output", required=True, help="the ONNX file to write, such as net.onnx")
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
        help="folder of the runs, for best and last: the recipe's trainer.default_root_dir; default: runs",
    )
    add_allow(parser)
    return parser
