"""A small trained network and its images, to attack."""

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_optreg.attacks import PixelSpace

__all__ = ["SPACE", "images_and_labels", "linear", "trained"]

SPACE = PixelSpace(mean=[0.4, 0.5], std=[0.25, 0.3])
"""Of the network's images, which have two channels."""


def images_and_labels(count: int = 200, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Three patterns in noise, normalised, and their numbers."""
    patterns = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=generator)
    noise = torch.rand(count, 2, 8, 8, generator=generator)
    pixels = 0.35 * patterns[labels] + 0.65 * noise
    mean, std = torch.tensor([0.4, 0.5]).view(-1, 1, 1), torch.tensor([0.25, 0.3]).view(-1, 1, 1)
    return (pixels - mean) / std, labels


@cache
def trained() -> nn.Module:
    """A convolutional network with batch normalisation and dropout, right about almost all of them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(2, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(288, 3),
        )
        images, labels = images_and_labels(1000, seed=2)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for start in range(0, 1000, 50):
            optimizer.zero_grad()
            F.cross_entropy(net(images[start : start + 50]), labels[start : start + 50]).backward()
            optimizer.step()
        optimizer.zero_grad()
    return net.eval()


def linear(weights: Tensor) -> nn.Module:
    """Scores (0, <w, p>) of two classes for pixels (N, 1, H, W)."""
    layer = nn.Linear(weights.numel(), 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([torch.zeros_like(weights), weights]))
    return nn.Sequential(nn.Flatten(), layer)
