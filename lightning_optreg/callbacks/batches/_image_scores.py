"""Score each training image by a network's loss or margin, without side effects on the run."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.func import functional_call

from lightning_optreg.data.batch import Batch
from lightning_optreg.data.datamodule import ImageDataModule
from lightning_optreg.data.loader import BatchLoader
from lightning_optreg.data.scores import QUANTITIES, Quantity
from lightning_optreg.layers.modes import evaluating
from lightning_optreg.randomness.draws import Place
from lightning_optreg.randomness.kept_generators import kept_generators
from lightning_optreg.trainer.queries import datamodule_of, place_in_step
from lightning_optreg.trust.torch_files import read_plain

__all__ = ["load_reference", "score_images"]


def load_reference(path: str | Path, module: nn.Module, network: nn.Module, owner: str) -> dict[str, Tensor]:
    """Read the weights of a network from a checkpoint of the module that it belongs to.

    Args:
        path: A Lightning checkpoint, or a file with the network's own `state_dict`.
        module: The LightningModule.
        network: The network in it.
        owner: Name of the calling class, for the errors.

    Returns:
        Its parameters and buffers, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        MisconfigurationException: If it is of another network.
        ValueError: If it can't be read, or contains more than tensors and plain values.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{owner}: reference must be a file, {path} does not exist")
    saved: Any = read_plain(path, what=owner)
    if isinstance(saved, dict) and "state_dict" in saved:
        name = next(name for name, other in module.named_modules() if other is network)
        prefix = f"{name}." if name else ""
        saved = {
            key.removeprefix(prefix): v for key, v in saved["state_dict"].items() if key.startswith(prefix)
        }
    expected = {key: value for key, value in network.state_dict().items() if isinstance(value, Tensor)}
    found = saved if isinstance(saved, dict) else {}
    for key, value in expected.items():
        shape = tuple(found[key].shape) if isinstance(found.get(key), Tensor) else "missing"
        if shape != tuple(value.shape):
            raise MisconfigurationException(
                f"{owner}: reference must be the same network: {key} is {shape} in {path}, expected "
                f"{tuple(value.shape)}"
            )
    return {key: found[key] for key in expected}


def score_images(
    trainer: Trainer,
    network: nn.Module,
    weights: dict[str, Tensor] | None,
    loader: BatchLoader,
    quantity: Quantity,
    owner: str,
) -> Tensor:
    """Score the images of a loader as in evaluation: not augmented, the network in evaluation mode.

    Each process scores its share, or all if they do not wait for each other. Generators, modes and running
    averages are unchanged afterwards.

    Args:
        trainer: The trainer, whose data module prepares the images.
        network: Returns (n, K) scores for (n, C, H, W) images.
        weights: Parameters and buffers used instead of its own. None: its own, with the buffers of rank 0.
        loader: The loader of the images `loader.indices`.
        quantity: The quantity computed for each image.
        owner: Name of the calling class, for the errors.

    Returns:
        float32 (N,), on the CPU, in the order of `loader.indices`; equal on all processes.

    Raises:
        MisconfigurationException: If there is no data module of this package, or the network does not return
            scores.
        ValueError: If a score is not finite.
    """
    data = datamodule_of(trainer)
    if not isinstance(data, ImageDataModule):
        raise MisconfigurationException(
            f"{owner}: scoring images by a network needs a data module of lightning_optreg.data; use one, or "
            "pass scores=<file>"
        )
    device = trainer.strategy.root_device
    count = len(loader.indices)
    rank, ranks = place_in_step(trainer)
    share = -(-count // ranks)  # rounded up; the last process may have fewer
    begin, end = rank * share, min((rank + 1) * share, count)
    result = torch.zeros(count, device=device)
    if weights is None and ranks > 1:
        # Each process has running averages of its own batches, and a checkpoint has only those of rank 0.
        buffers = {name: buffer.cpu() for name, buffer in network.named_buffers()}
        weights = trainer.strategy.broadcast(buffers)
    if weights is not None:
        weights = {key: value.to(device) for key, value in weights.items()}
    with evaluating(network), torch.no_grad(), kept_generators(device, network=network):
        for start in range(begin, end, _CHUNK):
            index = loader.indices[start : min(start + _CHUNK, end)].to(loader.images.device)
            images, labels = loader.images.index_select(0, index), loader.labels.index_select(0, index)
            batch = Batch(images, labels, index, Place(0, 0, 0, len(index)))
            batch = data.transfer_batch_to_device(batch, device, 0)
            x = trainer.precision_plugin.convert_input(data.transform(batch, training=False))
            with trainer.precision_plugin.forward_context():
                outputs = network(x) if weights is None else functional_call(network, weights, (x,))
            _check(outputs, batch.labels, owner)
            result[start : start + len(index)] = QUANTITIES[quantity](outputs.float(), batch.labels)
    if ranks > 1:
        # The others have zeros there, so the sum is exact.
        result = trainer.strategy.reduce(result, reduce_op="sum")
    scores = result.cpu()
    if not scores.isfinite().all():
        raise ValueError(f"{owner}: scores of images must be finite, got nan or inf from the network")
    return scores


_CHUNK = 512  # images at once


def _check(outputs: Any, labels: Tensor, owner: str) -> None:
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or not outputs.shape[1] > int(labels.max()):
        found = (
            f"a tensor of shape {tuple(outputs.shape)}"
            if isinstance(outputs, Tensor)
            else type(outputs).__name__
        )
        raise MisconfigurationException(
            f"{owner}: to score images the network must return a score per class, (n, K), got {found}; "
            "pass net=<name of the module that does>, or scores=<file>"
        )
