"""The command `plot landscape`: the loss around a trained checkpoint, with the path of training."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

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
from lightning_optreg.trust import (
    Trust,
    add_allow,
    build_nothing_unasked,
    check_hyperparameters,
    check_values,
)

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
    add("--dimensions", type=int, choices=(1, 2), default=2, help="default: 2")
    add("--view", choices=("contours", "3d"), default="contours", help="of two dimensions; default: contours")
    add("--radius", type=float, default=1.0, metavar="R", help="how far random directions go; default: 1")
    add("--points", type=int, metavar="N", help="places along an axis; default: 25, along a line 51")
    add("--images", type=int, default=2048, metavar="N", help="images of each split; default: 2048")
    add("--normalize", choices=("filter", "layer", "none"), default="filter", help="default: filter")
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
    files = [_find(name, options.default_root_dir) for name in options.ckpt_path]
    loaded = [_load(file, options.allow) for file in files]
    described = next((data for _, data in loaded if data is not None), None)
    if described is None:
        raise UsageError(f"--ckpt_path {files[0]}: it holds weights only, not which data its run had")
    modules = [module.to(device).eval() for module, _ in loaded]
    module = modules[0]
    splits = _batches(described, options.data_dir, options.images, device)
    weights = {name: weight.detach() for name, weight in module.net.named_parameters()}
    if line:
        figure = _draw_line(modules, splits, weights, options, points)
    else:
        figure = _draw_plane(module, splits["training"], weights, options, points)
    save(figure, path, dpi=options.dpi)


def _find(name: str, root: str) -> Place:
    from lightning_optreg.runs.run_folder import find_checkpoint

    try:
        return find_checkpoint(place_of(root), name)
    except FileNotFoundError as error:
        raise UsageError(str(error)) from error


def _load(path: Place, allow: Sequence[str]) -> "tuple[ImageClassifier, dict[str, Any] | None]":
    """Load a checkpoint's module and the description of its data, if any; both name only trusted classes."""
    from lightning_optreg import ImageClassifier
    from lightning_optreg.runs.checkpoints import load_classifier, read_checkpoint

    try:
        checkpoint = read_checkpoint(path)
        trust, what = Trust(allow), f"--ckpt_path {path}"
        check_hyperparameters(checkpoint, owner=ImageClassifier, trust=trust, what=what)
        data = _described_data(checkpoint)
        check_values({"data": data}, trust=trust, what=f"{what}: configuration")
    except ValueError as error:
        raise UsageError(str(error)) from error
    if "net" not in checkpoint.get("hyper_parameters", {}):
        raise UsageError(
            f"--ckpt_path {path}: it does not say how its network is built; what `fit` writes does"
        )
    try:
        module = load_classifier(path, allow)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return module, data


def _described_data(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """Class and arguments of a run's data module, from the configuration in its checkpoint."""
    found: Any = checkpoint
    for name in ("callbacks", "SaveConfig", "config", "data"):
        found = found.get(name) if isinstance(found, dict) else None
    if not (isinstance(found, dict) and isinstance(found.get("init_args", {}), dict)):
        return None
    return found


def _batches(
    described: Mapping[str, Any], data_dir: str | None, images: int, device: Any
) -> dict[str, list[Any]]:
    """Images of the training split, and of the validation split if there is one, as evaluation sees them."""
    import jsonargparse

    from lightning_optreg.data import ImageDataModule

    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageDataModule, "data")
    settings = {**described, "init_args": {**described.get("init_args", {}), "batch_size": 512}}
    # A checkpoint may say where data are read, not where something is written.
    settings["init_args"].pop("cache_dir", None)
    if data_dir is not None:
        settings["init_args"]["data_dir"] = data_dir
    data = parser.instantiate(parser.parse_object({"data": settings})).data
    data.augmenting = False
    data.setup("fit")
    found = {}
    for name, part in (("training", "train"), ("validation", "val")):
        if part == "val" and not data.has_validation:
            continue
        taken, left = [], images
        for x, y in data.batches(part):
            taken.append((x[:left].to(device), y[:left].to(device)))
            left -= len(y)
            if left <= 0:
                break
        found[name] = taken
    return found


def _draw_plane(
    module: "ImageClassifier", batches: list[Any], weights: "dict[str, Tensor]", options: Any, points: int
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
        places = [*_trajectory(options.trajectory, weights), weights]
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
    return draw_plane(axes, losses, labels=labels, path=path, view=options.view, caption=caption)


def _draw_line(
    modules: "Sequence[ImageClassifier]",
    splits: Mapping[str, list[Any]],
    weights: "dict[str, Tensor]",
    options: Any,
    points: int,
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
    return draw_line(x, values, label=label, marks=marks, caption=caption)


def _float_buffers(net: Any) -> "dict[str, Tensor]":
    return {name: buffer for name, buffer in net.named_buffers() if buffer.is_floating_point()}


def _trajectory(folder: Place, weights: "Mapping[str, Tensor]") -> "list[dict[str, Tensor]]":
    """Weights of the checkpoints in a folder, in the order of their steps."""
    from lightning_optreg.runs.checkpoints import read_checkpoint

    found = []
    paths: list[Place] = [*folder.glob("*.ckpt")]
    for path in sorted(paths, key=str):
        try:
            checkpoint = read_checkpoint(path)
        except ValueError as error:
            raise UsageError(str(error)) from error
        state = {name.removeprefix("net."): value for name, value in checkpoint["state_dict"].items()}
        if any(name not in state or state[name].shape != weight.shape for name, weight in weights.items()):
            raise UsageError(f"--trajectory: {path} is of another network")
        place = {name: state[name].to(weight) for name, weight in weights.items()}
        found.append((checkpoint["global_step"], place))
    if len(found) < 2:
        raise UsageError(f"--trajectory {folder}: it must hold at least 2 checkpoints, has {len(found)}")
    return [place for _, place in sorted(found, key=lambda item: item[0])]


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
