"""Export networks to ONNX files, checked against the network they were made from.

The file maps images (N, C, H, W) to scores (N, K) for any N, as the module's `forward` does: the images are
normalised already, as batches reach the module, or that is a part of the file. The softmax of the scores is
the probabilities.
"""

import copy
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_optreg.export.input import drawing_layer, metadata, pixels_first
from lightning_optreg.files import replacing
from lightning_optreg.places import UrlPath, place_of

if TYPE_CHECKING:  # torch takes a second, and `--help` needs none of it
    from torch import Tensor, nn

__all__ = ["OPSET", "export_onnx"]

OPSET = 18
"""Version of ONNX's operators: what torch's exporter writes without converting."""

TOLERANCE = 1e-4
"""Largest difference of scores that passes the check, relative to the largest score or to 1."""


def export_onnx(
    module: "nn.Module",
    path: str | Path | UrlPath,
    *,
    input_shape: Sequence[int] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    from_pixels: bool = False,
    check: bool = True,
) -> float | None:
    """Write a network to an ONNX file, in float32 and opset 18, as it is in evaluation.

    Its input is named `images` and its output `scores`; the number of images is free. The module stays as it
    is, wherever it is.

    The images must be normalised as in training. With `preprocessing` the file's metadata say how, as JSON:
    `normalize` (the datamodule's mode), `mean` and `std` for pixels on [0, 1], and `evaluation` (what else is
    done in evaluation, such as a crop). With `from_pixels` the file does it, and takes bytes.

    Args:
        module: An `ImageClassifier` or a network: images (N, C, H, W) to scores (N, K).
        path: The file to write. It appears whole or, after an error, not at all.
        input_shape: Shape (C, H, W) of one image. None: the network's own `input_shape`.
        preprocessing: What `preprocessing()` of the datamodule returns, after its `setup`. None: unknown.
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
        ValueError: If the shape of images is unknown or invalid; with `from_pixels`, if the normalisation is
            unknown or is not one of numbers per channel.

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
        raise ValueError(f"export_onnx: {type(net).__name__} has no input_shape; pass input_shape=(C, H, W)")
    if len(shape) != 3 or not min(shape) >= 1:
        raise ValueError(
            f"export_onnx: input_shape must be three numbers >= 1 (channels, height, width), got {shape}"
        )
    if any(map(torch.nn.parameter.is_lazy, net.parameters())):
        raise RuntimeError(
            f"export_onnx: {type(net).__name__} has lazy layers without a size; call it once on images"
        )
    # A copy, since the network may be in training, on another device, in another precision or compiled.
    net = copy.deepcopy(net).cpu().float().eval()
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> "Tensor":
        if from_pixels:
            return torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)
        return torch.randn(count, *shape, generator=generator)

    whole = pixels_first(net, shape[0], preprocessing) if from_pixels else net
    with replacing(place_of(path)) as temporary:
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
        assert program is not None  # only the older exporter returns None
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
