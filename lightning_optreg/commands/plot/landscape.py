"""The command `plot landscape`: the loss around a trained checkpoint, with the path of training."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_optreg.commands.plot.landscape_inputs import find_file, load, read_images, trajectory
from lightning_optreg.commands.plot.options import (
    STILL,
    OptionParser,
    UsageError,
    add_output,
    guarded,
    read_output,
    remaining_time,
    save,
)
from lightning_optreg.places import Place, place_of
from lightning_optreg.trust import add_allow, build_nothing_unasked

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_optreg.classifier import ImageClassifier

__all__ = ["main"]

_WARNING = (
    "Sharpness depends on the scale of the weights: rescaling ReLU layers changes it at will "
    "(Dinh et al. 2017)."
)


def main(argv: Sequence[str]) -> int:
    """Run `lightning-optreg plot landscape`.

    Args:
        argv: The arguments after the commands' names.

    Returns:
        Exit status: 0, or 2 with one line on the standard error if the arguments are wrong.
    """
    return guarded(lambda: _run(argv))


def _parser() -> OptionParser:
    parser = OptionParser(
        prog="lightning-optreg plot landscape",
        usage="lightning-optreg plot landscape --ckpt_path CKPT --output FILE [options]",
        description="Draw the loss around the weights of a checkpoint that `fit` wrote: over a plane of two "
        "random filter-normalised directions, or of the principal directions of a training trajectory, or "
        "along a line; with two checkpoints, along the line from one to the other.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--ckpt_path",
        nargs="+",
        metavar="CKPT",
        help="best, last (of the newest run) or a file; two for a line",
    )
    add("--default_root_dir", default="runs", metavar="DIR", help="folder of the runs, for best and last")
    add(
        "--trajectory",
        type=place_of,
        metavar="DIR",
        help="folder of checkpoints: draw their principal directions",
    )
    add("--dimensions", type=int, choices=(1, 2), default=2, help="a plane or a line; default: 2")
    add("--view", choices=("contours", "3d"), default="contours", help="of two dimensions; default: contours")
    add("--radius", type=float, default=1.0, metavar="R", help="how far random directions go; default: 1")
    add("--points", type=int, metavar="N", help="places along an axis; default: 25, along a line 51")
    add("--images", type=int, default=2048, metavar="N", help="images of each split; default: 2048")
    add(
        "--normalize",
        choices=("filter", "layer", "none"),
        default="filter",
        help="what random directions are scaled by; default: filter",
    )
    add("--seed", type=int, default=0, help="of the random directions; default: 0")
    add("--data_dir", metavar="DIR", help="where the data are, if not where the checkpoint's run had them")
    add_output(parser)
    add_allow(parser)
    return parser


def _run(argv: Sequence[str]) -> None:
    options = _parser().read(argv)
    for name in ("ckpt_path", "output"):
        if getattr(options, name) is None:
            raise UsageError(f"--{name} is missing")
    if len(options.ckpt_path) > 2:
        raise UsageError(f"--ckpt_path takes one or two checkpoints, got {len(options.ckpt_path)}")
    path = read_output(options.output, STILL)
    line = options.dimensions == 1 or len(options.ckpt_path) == 2
    points = options.points if options.points is not None else 51 if line else 25
    for name, value, least in (("points", points, 3), ("images", options.images, 1), ("dpi", options.dpi, 1)):
        if not value >= least:
            raise UsageError(f"--{name} must be >= {least}, got {value}")
    if not 0.0 < options.radius < float("inf"):
        raise UsageError(f"--radius must be > 0, got {options.radius}")
    if options.trajectory is not None and (line or not options.trajectory.is_dir()):
        raise UsageError(
            f"--trajectory must be a folder, with one checkpoint and --dimensions 2, got {options.trajectory}"
        )

    import torch

    build_nothing_unasked()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    files = [find_file(name, options.default_root_dir) for name in options.ckpt_path]
    loaded = [load(file, options.allow) for file in files]
    described = next((data for _, data in loaded if data is not None), None)
    if described is None:
        raise UsageError(f"--ckpt_path {files[0]}: it holds weights only, not which data its run had")
    modules = [module.to(device).eval() for module, _ in loaded]
    module = modules[0]
    splits = read_images(described, options.data_dir, options.images, device)
    weights = {name: weight.detach() for name, weight in module.net.named_parameters()}
    title = _title(module, files, splits if line else {"training": splits["training"]})
    if line:
        figure = _draw_line(modules, splits, weights, options, points, title)
    else:
        figure = _draw_plane(module, splits["training"], weights, options, points, title)
    save(figure, path, dpi=options.dpi)


def _title(module: "ImageClassifier", files: Sequence[Place], splits: Mapping[str, list[Any]]) -> str:
    """What is drawn: the network, the checkpoints with their runs, and the number of images."""
    # runs/version_3/checkpoints/last.ckpt: the run's folder tells it from the other runs' last.ckpt
    names = [
        f"{file.parent.parent.name}/{file.name}" if file.parent.name == "checkpoints" else file.name
        for file in files
    ]
    counts = {name: sum(len(y) for _, y in batches) for name, batches in splits.items()}
    images = " and ".join(f"{count:,} {name}" for name, count in counts.items())
    return f"{type(module.net).__name__}, {' to '.join(names)}, on {images} images"


def _draw_plane(
    module: "ImageClassifier",
    batches: list[Any],
    weights: "dict[str, Tensor]",
    options: Any,
    points: int,
    title: str,
) -> Any:
    import torch

    from lightning_optreg.analysis.directions import principal_directions, random_direction
    from lightning_optreg.analysis.loss_grid import loss_grid
    from lightning_optreg.figures.loss_slices import draw_plane

    path = None
    if options.trajectory is None:
        generator = torch.Generator().manual_seed(options.seed)
        directions = [random_direction(weights, generator, options.normalize) for _ in range(2)]
        axes = [torch.linspace(-options.radius, options.radius, points, dtype=torch.float64)] * 2
        labels = ["first random direction", "second random direction"]
    else:
        places = [*trajectory(options.trajectory, weights), weights]
        try:
            directions, path, explained = principal_directions(places)
        except ValueError as error:
            raise UsageError(f"--trajectory {options.trajectory}: {error}") from error
        axes = [_span(path[:, i], points) for i in range(2)]
        labels = [
            f"{n} principal direction ({share:.0%} of the variance)"
            for n, share in zip(("first", "second"), explained, strict=True)
        ]
    losses, _ = loss_grid(
        module.net, module.loss, batches, weights, directions, axes, remaining_time("places")
    )
    caption = _sharpness(module, batches, weights)
    return draw_plane(axes, losses, labels=labels, path=path, view=options.view, title=title, caption=caption)


def _draw_line(
    modules: "Sequence[ImageClassifier]",
    splits: Mapping[str, list[Any]],
    weights: "dict[str, Tensor]",
    options: Any,
    points: int,
    title: str,
) -> Any:
    import torch

    from lightning_optreg.analysis.directions import random_direction
    from lightning_optreg.analysis.loss_grid import loss_grid
    from lightning_optreg.figures.loss_slices import draw_line

    module = modules[0]
    caption = _sharpness(module, splits["training"], weights)
    if len(modules) == 2:
        both = [{**dict(m.net.named_parameters()), **_float_buffers(m.net)} for m in modules]
        start = {name: value.detach() for name, value in both[0].items()}
        shapes = {name: value.shape for name, value in start.items()}
        if {name: value.shape for name, value in both[1].items()} != shapes:
            raise UsageError("--ckpt_path: the two checkpoints are of different networks")
        direction = {name: both[1][name].detach() - value for name, value in start.items()}
        x = torch.linspace(-0.5, 1.5, points, dtype=torch.float64)
        label, marks = "(1 - t) first + t second checkpoint", {0.0: "first", 1.0: "second"}
    else:
        start = weights
        direction = random_direction(weights, torch.Generator().manual_seed(options.seed), options.normalize)
        x = torch.linspace(-options.radius, options.radius, points, dtype=torch.float64)
        label, marks = "distance along a random direction", {}
    values = {
        name: loss_grid(module.net, module.loss, batches, start, [direction], [x], remaining_time("places"))
        for name, batches in splits.items()
    }
    return draw_line(x, values, label=label, marks=marks, title=title, caption=caption)


def _float_buffers(net: Any) -> "dict[str, Tensor]":
    return {name: buffer for name, buffer in net.named_buffers() if buffer.is_floating_point()}


def _span(coordinates: "Tensor", points: int) -> "Tensor":
    """An axis over a trajectory, with a quarter of its length more on each side."""
    import torch

    low, high = float(coordinates.min()), float(coordinates.max())
    margin = 0.25 * (high - low) or 1.0
    return torch.linspace(low - margin, high + margin, points, dtype=torch.float64)


def _sharpness(module: "ImageClassifier", batches: list[Any], weights: "dict[str, Tensor]") -> str:
    """Measure the sharpness on one batch, print it, and word the caption."""
    from torch.func import functional_call

    from lightning_optreg.analysis.sharpness import keskar_sharpness, largest_eigenvalue

    x, y = batches[0]

    def loss(at: "Mapping[str, Tensor]") -> "Tensor":
        value: Tensor = module.loss(functional_call(module.net, dict(at), (x,)), y)
        return value

    curvature, rise = largest_eigenvalue(loss, weights), keskar_sharpness(loss, weights)
    text = f"largest eigenvalue of the Hessian {curvature:.3g}; worst rise in a box of 0.001: {rise:.2g} %"
    print(f"{text}\n{_WARNING}")
    return f"{text}\n{_WARNING}"
