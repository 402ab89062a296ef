"""Where images lie during a run: in main memory, or in the memory of the device that trains on them."""

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_optreg.data.sources import ImageSet

__all__ = ["SHARE", "Placement", "amount", "free_memory"]

SHARE = 0.25
"""With `auto`, images go to the device if they take at most this share of its free memory."""


class Placement:
    """Decides where images lie, and keeps those that were copied to the device for all loaders.

    Args:
        name: The data module's, for messages.
        device: "auto", "cpu", or a device such as "cuda" (that of the run, whatever its number) or "cuda:1".
        num_workers: Processes that prepare batches; they read from main memory only.

    Raises:
        ValueError: If device is none of these, or there are workers and device is an accelerator.

    Example:
        >>> images = ImageSet(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4))
        >>> Placement("Digits", "auto", num_workers=0).place(images, torch.device("cpu")) is images
        True
    """

    def __init__(self, name: str, device: str, num_workers: int) -> None:
        self._name, self._device, self._workers = name, device, num_workers
        self._placed: list[tuple[ImageSet, ImageSet]] = []  # as read, and their copies on one device
        if device in ("auto", "cpu"):
            return
        try:
            is_real = isinstance(device, str) and torch.device(device).type != "meta"
        except RuntimeError:  # torch's list of its devices is long, and of no help
            is_real = False
        if not is_real:
            raise ValueError(
                f"{name}: device must be auto, cpu or a device such as cuda or cuda:0, got {device!r}"
            )
        if num_workers > 0:
            raise ValueError(
                f"{name}: num_workers must be 0 with device={device}, as workers read from main memory only, "
                f"got {num_workers}"
            )

    def __getstate__(self) -> dict[str, object]:
        """Leave the copies out: another process makes its own, on its own device."""
        return {**self.__dict__, "_placed": []}

    def place(self, images: ImageSet, run: torch.device | None) -> ImageSet:
        """Return images where loaders are to read them; the first time, say how much memory they take.

        Args:
            images: As read, in main memory.
            run: The device of this process of the run. None: there is no run.

        Raises:
            MisconfigurationException: If the device is not the run's, or is not there, or has no room.
        """
        device = self._wanted(run)
        if device is None or not isinstance(images.images, Tensor):  # images of many sizes stay
            return images
        self._placed = [pair for pair in self._placed if pair[1].images.device == device]
        for read, placed in self._placed:
            if read.images is images.images:
                return placed
        size, free = images.images.nbytes + images.labels.nbytes, free_memory(device)
        what = f"{self._name}: {len(images.labels):,} images of {amount(size)}"
        if self._device == "auto" and (free is None or size > SHARE * free):
            room = "" if free is None else f", more than a quarter of the {amount(free)} free on {device}"
            rank_zero_info(f"{what} stay in main memory{room}")
            return images
        if free is not None and size > free:
            raise MisconfigurationException(
                f"{what} do not fit on {device}, which has {amount(free)} free: use device=cpu (data.device)"
            )
        copy = ImageSet(images.images.to(device), images.labels.to(device))
        self._placed.append((images, copy))
        rank_zero_info(f"{what} lie on {device}")
        return copy

    def _wanted(self, run: torch.device | None) -> torch.device | None:
        """Return the device that images may go to; None for main memory."""
        if self._device == "cpu":
            return None
        if self._device == "auto":
            return run if run is not None and run.type in ("cuda", "mps") and self._workers == 0 else None
        wanted = torch.device(self._device)
        if run is None:
            if wanted.type == "cuda" and not torch.cuda.is_available():
                raise MisconfigurationException(
                    f"{self._name}: device is {self._device}, but torch finds no such device here: use auto"
                )
            if self._device == "cuda":
                return torch.device("cuda", torch.cuda.current_device())
            return wanted
        if wanted.type != run.type or wanted.index not in (None, run.index):
            raise MisconfigurationException(
                f"{self._name}: device must be auto, cpu or the run's device {run}, got {self._device}"
            )
        return run


def free_memory(device: torch.device) -> int | None:
    """Return the free bytes of a device's memory; None if torch can't tell.

    Example:
        >>> free_memory(torch.device("cpu")) is None
        True
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return None


def amount(size: int) -> str:
    """Return a number of bytes in words.

    Example:
        >>> amount(15_740_000_000)
        '15.7 GB'
    """
    return f"{size / 1e6:.3g} MB" if size < 1e9 else f"{size / 1e9:.3g} GB"
