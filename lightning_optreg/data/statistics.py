"""Statistics of the training pixels, for centring, scaling and PCA colour jitter.

All are exact: 8-bit pixels and the sums of their products are integers that float64 represents exactly, so
the result depends neither on the order of summation nor on the number of threads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Statistics", "compute_statistics"]

_CHUNK_VALUES = 2**18  # 2 MiB as float64, which stays in the cache; larger chunks were up to 5 x slower


@dataclass(frozen=True)
class Statistics:
    """Statistics of a set of images, as float32 tensors for pixels on [0, 1].

    All fields are plain tensors: `Statistics(**torch.load(path, weights_only=True))` restores what
    `torch.save(dataclasses.asdict(statistics), path)` saved.

    Example:
        >>> images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
        >>> compute_statistics(images).eigenvalues
        tensor([0.2500])
    """

    mean: Tensor
    """(C,), mean over all images and pixels: VGG's centring."""
    std: Tensor
    """(C,), standard deviation over all images and pixels (divided by their number, not by one less)."""
    mean_image: Tensor
    """(C, H, W), mean over the images: AlexNet's centring."""
    eigenvalues: Tensor
    """(C,), variances along the principal components of the pixels' colours, the largest first."""
    eigenvectors: Tensor
    """(C, C), column j belongs to eigenvalue j. Its component with the largest magnitude is positive."""


def compute_statistics(images: Tensor, indices: Tensor | None = None) -> Statistics:
    """Compute the statistics of 8-bit images exactly.

    With pixels x_p (C values each, p running over P pixels of all images): mean m = (1/P) sum_p x_p,
    covariance S = (1/P) sum_p x_p x_p^T - m m^T, std = sqrt(diag S), S = V diag(lambda) V^T.

    Args:
        images: uint8 (N, C, H, W).
        indices: int64 (n,), positions of the images to use, such as the training split; None for all.

    Returns:
        The statistics, on the CPU.

    Raises:
        TypeError: If the images are not uint8.
        ValueError: If they do not have four dimensions, or there are no images.

    Example:
        >>> images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
        >>> compute_statistics(images).mean, compute_statistics(images).std
        (tensor([0.5000]), tensor([0.5000]))
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"compute_statistics: images must be uint8, got {images.dtype}")
    if images.ndim != 4 or images.numel() == 0:
        raise ValueError(
            f"compute_statistics: images must be (N, C, H, W) and not empty, got {tuple(images.shape)}"
        )
    count = len(images) if indices is None else len(indices)
    if not count >= 1:
        raise ValueError("compute_statistics: indices must name at least one image, got none")
    _, channels, height, width = images.shape
    total = torch.zeros(channels, height * width, dtype=torch.float64)
    products = torch.zeros(channels, channels, dtype=torch.float64)
    chunk = max(1, _CHUNK_VALUES // images[0].numel())
    for start in range(0, count, chunk):
        rows = slice(start, start + chunk) if indices is None else indices[start : start + chunk]
        x = images[rows].double().flatten(2)  # (n, C, H W)
        total += x.sum(0)
        products += torch.bmm(x, x.transpose(1, 2)).sum(0)
    pixels = count * height * width
    sums = total.sum(1)
    mean = sums / pixels
    # The textbook form loses no precision here: P S_xx and s s^T are Python integers.
    s = [int(v) for v in sums.tolist()]
    covariance = torch.tensor(
        [
            [(pixels * int(products[i, j]) - s[i] * s[j]) / pixels**2 for j in range(channels)]
            for i in range(channels)
        ],
        dtype=torch.float64,
    )
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance)  # ascending
    eigenvalues, eigenvectors = eigenvalues.flip(0).clamp(min=0.0), eigenvectors.flip(1)
    largest = eigenvectors.gather(0, eigenvectors.abs().argmax(0, keepdim=True))  # (1, C)
    eigenvectors = eigenvectors * largest.sign()  # eigh leaves the sign open
    return Statistics(
        mean=(mean / 255).float(),
        std=(covariance.diagonal().sqrt() / 255).float(),
        mean_image=(total / (255 * count)).view(channels, height, width).float(),
        eigenvalues=(eigenvalues / 255**2).float(),
        eigenvectors=eigenvectors.float().contiguous(),
    )
