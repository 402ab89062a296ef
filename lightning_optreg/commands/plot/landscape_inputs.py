"""What `plot landscape` reads: checkpoints, the data that their run had, and the path of its training."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_optreg.commands.plot.options import UsageError
from lightning_optreg.places import Place, place_of
from lightning_optreg.trust import Trust, check_hyperparameters, check_values

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_optreg.classifier import ImageClassifier

__all__ = ["find_file", "load", "read_images", "trajectory"]


def find_file(name: str, root: str) -> Place:
    """Find a checkpoint.

    Args:
        name: `best`, `last` or a file.
        root: The folder of the runs, for the first two.

    Raises:
        UsageError: If there is none.
    """
    from lightning_optreg.runs.run_folder import find_checkpoint

    try:
        return find_checkpoint(place_of(root), name)
    except FileNotFoundError as error:
        raise UsageError(str(error)) from error


def load(path: Place, allow: Sequence[str]) -> "tuple[ImageClassifier, dict[str, Any] | None]":
    """Load a checkpoint's module and the description of its data, if any; both name only trusted classes.

    Args:
        path: The checkpoint.
        allow: Packages that it may name besides.

    Raises:
        UsageError: If it can't be read, names anything else, or doesn't say how its network is built.
    """
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


def read_images(
    described: Mapping[str, Any], data_dir: str | None, images: int, device: Any
) -> dict[str, list[Any]]:
    """Read images of the training split, and of the validation split if any, as evaluation sees them.

    Args:
        described: Class and arguments of the data module, as `load` returns them.
        data_dir: Where the data are; None: where they were.
        images: The largest number of images of each split, >= 1.
        device: Where the batches are put.

    Returns:
        For "training" and "validation", batches (x, y).
    """
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


def trajectory(folder: Place, weights: "Mapping[str, Tensor]") -> "list[dict[str, Tensor]]":
    """Read the weights of the checkpoints in a folder, in the order of their steps.

    Args:
        folder: The folder.
        weights: Weights of the network that they must be of.

    Raises:
        UsageError: If there are less than two, or one can't be read or is of another network.
    """
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
