"""From a batch of 8-bit images to the network's input: the transforms in order, then normalisation.

Images stay in 8 bits as long as the transforms can use them, and are converted to float32 once. Colour shifts
at the end of the list are added in the passes of the normalisation.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_optreg.data.statistics import Statistics
from lightning_optreg.data.transforms.base import BatchTransform, ColorShift, check_transforms, to_unit_range
from lightning_optreg.data.transforms.normalize import Centring, Normalize
from lightning_optreg.randomness.draws import Draws

__all__ = ["Pipeline"]


class Pipeline:
    """Transforms in the order given, followed by normalisation.

    A mean image has one value per place, so `mean_image` is subtracted before the first transform that moves
    pixels, and zero padding then pads with the mean. A transform that needs pixels on [0, 1] can't come after
    that.

    Random numbers are drawn in the order of the list.

    Args:
        transforms: Transforms of whole batches.
        normalize: Mode of `Normalize`.

    Raises:
        TypeError: If this is no list, or one of the transforms is not a `BatchTransform`.
        ValueError: If the mode is unknown, or a transform needs pixels on [0, 1] after the mean image is
            subtracted.

    Example:
        >>> from lightning_optreg.randomness.draws import Place
        >>> from lightning_optreg.data.statistics import compute_statistics
        >>> from lightning_optreg.data.transforms import RandomCrop, RandomHorizontalFlip
        >>> images = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
        >>> pipeline = Pipeline([RandomCrop(padding=1), RandomHorizontalFlip()], "mean_std")
        >>> pipeline.fit(compute_statistics(images))
        >>> draws = Draws(0, Place(epoch=0, step=0, start=0, total=4), 4, images.device)
        >>> pipeline.train(images, draws).dtype, pipeline.evaluate(images).shape
        (torch.float32, torch.Size([4, 1, 8, 8]))
    """

    def __init__(self, transforms: Sequence[BatchTransform] = (), normalize: Centring = "mean_std") -> None:
        check_transforms("Pipeline", transforms)
        self.transforms = list(transforms)
        self.normalize = Normalize(normalize)
        self._device: torch.device | None = None  # the device of the parts; None: move them
        end = len(self.transforms)
        if normalize == "mean_image":
            end = next((i for i, t in enumerate(self.transforms) if t.moves_pixels), end)
        self._before, self._after = self.transforms[:end], self.transforms[end:]
        for transform in self._after:
            if transform.needs_unit_range:
                name, mover = type(transform).__name__, type(self._after[0]).__name__
                raise ValueError(
                    f"Pipeline: {name} needs pixels on [0, 1], but the mean image is subtracted before "
                    f"{mover}: list {name} before {mover}"
                )
        self._shifts: list[ColorShift] = []
        while self._before and isinstance(last := self._before[-1], ColorShift):
            self._shifts.insert(0, last)
            self._before.pop()

    def train(self, images: Tensor, draws: Draws) -> Tensor:
        """Augment and normalise images (N, C, H, W), uint8 or floating-point on [0, 1], to float32."""
        self._follow(images.device)
        for transform in self._before:
            images = transform(_as_needed(transform, images), draws)
        shift: Tensor | None = None
        for source in self._shifts:
            drawn = source.shift(draws)
            if drawn is not None:
                shift = drawn if shift is None else shift + drawn
        images = self.normalize(images, shift)
        for transform in self._after:
            images = transform(images, draws)
        return images

    def evaluate(self, images: Tensor) -> Tensor:
        """Normalise images (N, C, H, W), and crop or resize them as evaluation does."""
        return self._evaluate(images, self._steps())

    def cuts(self, shape: tuple[int, int, int]) -> bool:
        """Return whether evaluation makes images of shape (C, H, W) smaller, so that `uncropped` differs."""
        return self._first_cut(shape) is not None

    def uncropped(
        self, images: Tensor, shape: tuple[int, int, int] | None = None, *, whole: bool = False
    ) -> Tensor:
        """Normalise images (N, C, H, W), and leave the steps that make them smaller to `finish`.

        `finish` turns views of them into what `evaluate` would make of views of the pixels.

        Args:
            images: uint8, or floating-point on [0, 1].
            shape: Shape (C, H, W) of the images that evaluation starts from. None: the shape of `images`.
            whole: Whether `images` are larger than `shape`, so that steps that keep the size must wait too.
        """
        first, _ = self._split(_shape(images) if shape is None else shape, whole)
        return to_unit_range(self._evaluate(images, first))

    def finish(
        self, views: Tensor, shape: tuple[int, int, int], *, sized: bool, whole: bool = False
    ) -> Tensor:
        """Apply the steps that `uncropped` left out.

        Args:
            views: (N, C, h, w), made from its images.
            shape: As in `uncropped`.
            sized: Whether the views already have their final size, so that nothing is cropped.
            whole: As in `uncropped`.
        """
        _, rest = self._split(shape, whole)
        return self._evaluate(views, [step for step in rest if not (sized and _moves(step))])

    def _steps(self) -> list[nn.Module]:
        return [*self._before, self.normalize, *self._after]  # colour shifts are for training only

    def _evaluate(self, images: Tensor, steps: Sequence[nn.Module]) -> Tensor:
        self._follow(images.device)
        for step in steps:
            if isinstance(step, BatchTransform):
                images = step.evaluate(_as_needed(step, images))
            else:
                images = step(images)
        return images

    def _first_cut(self, shape: tuple[int, int, int]) -> BatchTransform | None:
        """Return the first transform that changes the size in evaluation, if it makes images smaller."""
        for transform in self.transforms:
            before, shape = shape, transform.output_shape(shape)
            if shape[1:] != before[1:]:
                return transform if shape[1] <= before[1] and shape[2] <= before[2] else None
        return None

    def _split(self, shape: tuple[int, int, int], whole: bool) -> tuple[list[nn.Module], list[nn.Module]]:
        """Return the steps before the first cut, and those from there on."""
        steps, cut = self._steps(), self._first_cut(shape)
        place = next((number for number, step in enumerate(steps) if step is cut), len(steps))
        first, rest = ([], steps) if whole else (steps[:place], steps[place:])
        acts = [_acts(step) for step in rest if isinstance(step, BatchTransform)]
        if self.normalize in rest and not any(acts):  # the order does not matter then
            rest.remove(self.normalize)
            first.append(self.normalize)
        return first, rest

    def output_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape (C, H, W) that images of `shape` become; ValueError if a transform refuses it."""
        for transform in self.transforms:
            shape = transform.output_shape(shape)
        return shape

    def fit(self, statistics: Statistics) -> None:
        """Pass the statistics of the training images to the transforms and the normalisation."""
        for transform in self.transforms:
            transform.fit(statistics)
        self.normalize.fit(statistics)
        self._device = None

    def __repr__(self) -> str:
        parts = ", ".join(repr(part) for part in (*self.transforms, self.normalize))
        return f"Pipeline({parts})"

    def evaluation(self) -> list[str]:
        """Return the transforms that act in evaluation, without normalisation, as Python expressions."""
        return [repr(t) for t in self.transforms if type(t).evaluate is not BatchTransform.evaluate]

    def _follow(self, device: torch.device) -> None:
        if device != self._device:
            for module in (*self.transforms, self.normalize):
                module.to(device)
            self._device = device


def _shape(images: Tensor) -> tuple[int, int, int]:
    return images.shape[1], images.shape[2], images.shape[3]


def _moves(step: nn.Module) -> bool:
    return isinstance(step, BatchTransform) and step.moves_pixels


def _acts(step: BatchTransform) -> bool:
    """Return whether a transform changes colours in evaluation."""
    return not step.moves_pixels and type(step).evaluate is not BatchTransform.evaluate


def _as_needed(transform: BatchTransform, images: Tensor) -> Tensor:
    return to_unit_range(images) if transform.needs_float else images
