"""Time augmentation and normalisation of a batch: whole batches against one image at a time.

Random crop (padding 4), horizontal flip, PCA colour jitter and normalisation of 128 8-bit images, from the
batch as the loader gives it to the float32 batch that the network takes, random numbers included. Four ways:

    per image, PIL       torchvision v2 on PIL images, as most tutorials have it
    per image, tensors   torchvision v2 on uint8 tensors
    batch, plain         tensor operations on the batch, as one would write them first
    batch, Pipeline      this package

Prints microseconds per image (median over repeats taken in turn) and the ratio to `Pipeline`. Then, for
transforms that torchvision has a function for, the function applied to each image against the transform of a
batch, both with random numbers and with p = 1.

    python scripts/bench/augmentation.py [--repeats 9] [--threads 1 2]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from lightning_optreg.data.statistics import Statistics, compute_statistics
from lightning_optreg.data.transforms import (
    BatchTransform,
    LensDistortion,
    PCAColorJitter,
    Pipeline,
    RandomAutocontrast,
    RandomCrop,
    RandomEqualize,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomInvert,
    RandomPosterize,
    RandomSolarize,
    RandomStretch,
)
from lightning_optreg.randomness.draws import Draws, Place

BATCH = 128
SHAPES = ((1, 28, 28), (3, 32, 32))
Ways = dict[str, tuple[Callable[[], Tensor], int]]  # what to call, and how often in a row


class Lighting(torch.nn.Module):
    """PCA colour jitter of one image; torchvision has none."""

    def __init__(self, s: Statistics) -> None:
        super().__init__()
        self.basis = s.eigenvectors * s.eigenvalues

    def forward(self, image: Tensor) -> Tensor:
        """Shift all pixels of (C, H, W)."""
        return image + (self.basis @ (0.1 * torch.randn(len(self.basis)))).view(-1, 1, 1)


def per_image(images: Tensor, s: Statistics, *, pil: bool) -> Callable[[], Tensor]:
    """Stack images that were transformed one at a time."""
    crop_and_flip = [v2.RandomCrop(images.shape[-2:], padding=4), v2.RandomHorizontalFlip()]
    transform = v2.Compose(
        [
            *crop_and_flip,
            *([v2.ToImage()] if pil else []),
            v2.ToDtype(torch.float32, scale=True),
            Lighting(s),
            v2.Normalize(s.mean.tolist(), s.std.tolist()),
        ]
    )
    dataset = [v2.functional.to_pil_image(image) for image in images] if pil else list(images)
    return lambda: torch.stack([transform(image) for image in dataset])


def batch_plain(images: Tensor, s: Statistics) -> Callable[[], Tensor]:
    """Index windows, choose by torch.where, convert, jitter, normalise."""
    n, c, h, w = images.shape
    basis = (s.eigenvectors * s.eigenvalues).T
    mean, std = s.mean.view(-1, 1, 1), s.std.view(-1, 1, 1)

    def run() -> Tensor:
        padded = F.pad(images, (4, 4, 4, 4))
        windows = padded.unfold(2, h, 1).unfold(3, w, 1)  # (N, C, 9, 9, H, W)
        x = windows[torch.arange(n), :, torch.randint(0, 9, (n,)), torch.randint(0, 9, (n,))]
        x = torch.where(torch.rand(n, 1, 1, 1) < 0.5, x.flip(-1), x)
        x = x / 255
        x = x + (0.1 * torch.randn(n, c) @ basis).view(n, c, 1, 1)
        return (x - mean) / std

    return run


def batch_pipeline(images: Tensor, s: Statistics) -> Callable[[], Tensor]:
    """Run the pipeline as the datamodule does, seeding included."""
    pipeline = Pipeline([RandomCrop(padding=4), RandomHorizontalFlip(), PCAColorJitter()], "mean_std")
    pipeline.fit(s)
    place = Place(epoch=3, step=5, start=0, total=len(images))
    return lambda: pipeline.train(images, Draws(0, place, len(images), images.device))


def lens(image: Tensor) -> Tensor:
    """Distort one image by torchvision's `elastic`, which takes a displacement of each pixel."""
    k = torch.rand(()) * 0.4 - 0.2
    height, width = image.shape[-2:]
    y = torch.linspace(1 / height - 1, 1 - 1 / height, height)[:, None].expand(height, width)
    x = torch.linspace(1 / width - 1, 1 - 1 / width, width).expand(height, width)
    more = k * (x * x + y * y) / 2
    return v2.functional.elastic(image, torch.stack((x * more, y * more), dim=-1)[None])


def stretch(image: Tensor) -> Tensor:
    """Stretch one image by torchvision's `perspective`."""
    h, w = image.shape[-2:]
    a, b = (torch.rand(2) * 0.4 + 0.8).tolist()
    corners = [[0, 0], [w, 0], [w, h], [0, h]]
    ends = [[w / 2 + a * (x - w / 2), h / 2 + b * (y - h / 2)] for x, y in corners]
    return v2.functional.perspective(image, corners, ends)


# ours for a batch, torchvision's for one image
TRANSFORMS: dict[str, tuple[BatchTransform, Callable[[Tensor], Tensor]]] = {
    "LensDistortion": (LensDistortion(), lens),
    "RandomStretch": (RandomStretch(), stretch),
    "RandomPosterize": (RandomPosterize(4, p=1.0), v2.RandomPosterize(4, p=1.0)),
    "RandomSolarize": (RandomSolarize(0.5, p=1.0), v2.RandomSolarize(128, p=1.0)),
    "RandomInvert": (RandomInvert(p=1.0), v2.RandomInvert(p=1.0)),
    "RandomAutocontrast": (RandomAutocontrast(p=1.0), v2.RandomAutocontrast(p=1.0)),
    "RandomEqualize": (RandomEqualize(p=1.0), v2.RandomEqualize(p=1.0)),
    "RandomGrayscale": (RandomGrayscale(p=1.0), v2.RandomGrayscale(p=1.0)),
}


def transform_ways(transform: BatchTransform, function: Callable[[Tensor], Tensor], images: Tensor) -> Ways:
    """A transform of the batch, and a function of each of its images."""
    images = images / 255 if transform.needs_float else images
    place = Place(epoch=3, step=5, start=0, total=len(images))
    return {
        "per image": (lambda: torch.stack([function(image) for image in images]), 1),
        "batch": (lambda: transform(images, Draws(0, place, len(images), images.device)), 20),
    }


def seconds(run: Callable[[], Tensor], calls: int) -> float:
    """Time one call, as a mean over some."""
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def take_turns(ways: Ways, repeats: int) -> dict[str, float]:
    """Microseconds per image of each way: the median over repeats."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, (run, calls) in ways.items():
            once = seconds(run, calls)
            if repeat > 0:  # the first is for warming up
                times[name].append(once)
    return {name: 1e6 * statistics.median(t) / BATCH for name, t in times.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Time augmentation: whole batches against single images.")
    parser.add_argument("--repeats", type=int, default=9, help="repeats of each measurement (default: 9)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="threads (default: 1 2)")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, batch {BATCH}: crop + flip + PCA jitter + normalise, us per image")
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for shape in SHAPES:
            images = torch.randint(0, 256, (BATCH, *shape), dtype=torch.uint8)
            s = compute_statistics(images)
            ways: Ways = {
                "per image, PIL": (per_image(images, s, pil=True), 1),
                "per image, tensors": (per_image(images, s, pil=False), 1),
                "batch, plain": (batch_plain(images, s), 20),
                "batch, Pipeline": (batch_pipeline(images, s), 100),
            }
            medians = take_turns(ways, arguments.repeats)
            print(f"\n{'x'.join(map(str, shape))}, {threads} thread(s)")
            for name, us in medians.items():
                print(f"  {name:20s}{us:9.2f} us  {us / medians['batch, Pipeline']:7.1f} x")
        images = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8)
        print(f"\n3x32x32, {threads} thread(s){'per image':>22}{'batch':>12}")
        for name, (transform, function) in TRANSFORMS.items():
            medians = take_turns(transform_ways(transform, function, images), arguments.repeats)
            one, all_ = medians["per image"], medians["batch"]
            print(f"  {name:26s}{one:12.2f} us{all_:9.2f} us  {one / all_:7.1f} x")


if __name__ == "__main__":
    main()
