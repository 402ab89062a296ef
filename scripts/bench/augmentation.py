"""Time augmentation and normalisation of a batch: whole batches against one image at a time.

Random crop (padding 4), horizontal flip, PCA colour jitter and normalisation of 128 8-bit images, from the
batch as the loader gives it to the float32 batch that the network takes, random numbers included. Four ways:

    per image, PIL       torchvision v2 on PIL images, as most tutorials have it
    per image, tensors   torchvision v2 on uint8 tensors
    batch, plain         tensor operations on the batch, as one would write them first
    batch, Pipeline      this package

Prints microseconds per image (median over repeats taken in turn) and the ratio to `Pipeline`.

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
from lightning_optreg.data.transforms import PCAColorJitter, Pipeline, RandomCrop, RandomHorizontalFlip
from lightning_optreg.randomness.draws import Draws, Place

BATCH = 128
SHAPES = ((1, 28, 28), (3, 32, 32))


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


def seconds(run: Callable[[], Tensor], calls: int) -> float:
    """Time one call, as a mean over some."""
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


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
            ways = {
                "per image, PIL": (per_image(images, s, pil=True), 1),
                "per image, tensors": (per_image(images, s, pil=False), 1),
                "batch, plain": (batch_plain(images, s), 20),
                "batch, Pipeline": (batch_pipeline(images, s), 100),
            }
            times: dict[str, list[float]] = {name: [] for name in ways}
            for repeat in range(arguments.repeats + 1):
                for name, (run, calls) in ways.items():
                    once = seconds(run, calls)
                    if repeat > 0:  # the first is for warming up
                        times[name].append(once)
            medians = {name: 1e6 * statistics.median(t) / BATCH for name, t in times.items()}
            print(f"\n{'x'.join(map(str, shape))}, {threads} thread(s)")
            for name, us in medians.items():
                print(f"  {name:20s}{us:9.2f} us  {us / medians['batch, Pipeline']:7.1f} x")


if __name__ == "__main__":
    main()
