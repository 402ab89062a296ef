"""A convolution whose fixed filters whiten the patches of the training images.

Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024 (arXiv:2404.00498), section 3.2, after Page,
"How to train your ResNet", 2019, and the `hlb-CIFAR10` of Balsam, 2023. The idea is principal component
analysis: with the covariance S = E diag(lambda) E^T of patches x, the numbers e_j^T x / sqrt(lambda_j) are
uncorrelated and have variance 1.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_optreg._checks import check_range

__all__ = ["WhitenedConv2d", "patch_covariance", "whitening_filters"]

_CHUNK_VALUES = 2**20  # 8 MiB of float64


def patch_covariance(images: Tensor | Iterable[Tensor], kernel_size: int) -> Tensor:
    """Covariance S = 1/P sum_p x_p x_p^T - m m^T of all P patches x_p with mean m = 1/P sum_p x_p.

    All sums are float64, so for pixels of moderate mean (|m| below 100 standard deviations) S has ten or more
    correct digits.

    Args:
        images: (N, C, H, W), of any dtype; or batches of them, one after the other.
        kernel_size: Side k of the patches in pixels, at least 1 and at most H and W. They overlap: there are
            P = N (H - k + 1) (W - k + 1).

    Returns:
        float64 (C k k, C k k), on the images' device; the order of rows is that of a filter's weights.

    Raises:
        ValueError: If there is no patch, or batches have different channels.

    Example:
        >>> patch_covariance(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2), 2)[0]
        tensor([1., 1., 1., 1.], dtype=torch.float64)
    """
    return _covariance_and_count("patch_covariance", images, kernel_size)[0]


@torch.no_grad()
def _covariance_and_count(
    owner: str, images: Tensor | Iterable[Tensor], k: int, channels: int | None = None
) -> tuple[Tensor, int]:
    total = products = torch.zeros(0)
    count = 0
    for batch in [images] if isinstance(images, Tensor) else images:
        size = batch.shape[1] * k**2 if batch.ndim == 4 else 0
        if size == 0 or (count > 0 and size != len(total)) or channels not in (None, batch.shape[1]):
            wanted = "C" if channels is None else channels
            raise ValueError(f"{owner}: images must be (N, {wanted}, H, W), got {tuple(batch.shape)}")
        if len(batch) < 1 or not 1 <= k <= min(batch.shape[2:]):
            raise ValueError(
                f"{owner}: there must be at least one image, of height and width >= {max(k, 1)}, got "
                f"{tuple(batch.shape)}"
            )
        here = "cpu" if batch.device.type == "mps" else batch.device  # MPS has no float64
        if count == 0:
            total = torch.zeros(size, dtype=torch.float64, device=here)
            products = torch.zeros(size, size, dtype=torch.float64, device=here)
        step = max(1, _CHUNK_VALUES // (size * batch[0, 0].numel()))
        for start in range(0, len(batch), step):
            chunk = batch[start : start + step].to(here).double()
            patches = F.unfold(chunk, k)  # (n, C, H, W) -> (n, C k k, places)
            total += patches.sum((0, 2))
            products += torch.bmm(patches, patches.mT).sum(0)
            count += len(patches) * patches.shape[2]
    if count == 0:
        raise ValueError(f"{owner}: there must be at least one image, got none")
    mean = total / count
    return products / count - mean.outer(mean), count


def whitening_filters(covariance: Tensor, eps: float) -> Tensor:
    """Filters e_j / sqrt(lambda_j + eps) from S = sum_j lambda_j e_j e_j^T, and then their negatives.

    On patches with covariance S the first n responses are uncorrelated and have variance
    lambda_j / (lambda_j + eps). A ReLU or GELU after them keeps both signs of a response.

    Args:
        covariance: Symmetric, positive semidefinite (n, n).
        eps: Added to the eigenvalues, above 0, in their unit; it bounds what noise in the smallest is
            multiplied by.

    Returns:
        (2 n, n), the largest lambda_j first. The component of e_j with the largest magnitude is positive.

    Example:
        >>> whitening_filters(torch.tensor([[9.0, 0.0], [0.0, 4.0]]), eps=1e-9)
        tensor([[ 0.3333,  0.0000],
                [ 0.0000,  0.5000],
                [-0.3333, -0.0000],
                [-0.0000, -0.5000]])
    """
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance)  # ascending, e_j in column j
    eigenvalues, directions = eigenvalues.flip(0).clamp(min=0.0), eigenvectors.mT.flip(0)
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    filters = directions * largest.sign() / (eigenvalues + eps).sqrt()[:, None]  # eigh leaves the sign open
    return torch.cat((filters, -filters))


class WhitenedConv2d(nn.Conv2d):
    """A network's first convolution, whose filters are not learned but whiten the images' patches.

    The filters are the eigenvectors of the covariance of all k x k patches of some images, each divided by
    sqrt(lambda + eps), and their negatives: 2 C k^2 of them. They are frozen; the bias, which starts at 0, is
    trained. The layers behind then get uncorrelated inputs of variance 1, so the first steps can be large.

    `whiten` computes the filters; the callback `PatchWhitening` calls it at the start of a fit. Until then
    they are a random orthonormal basis and its negatives, which would whiten patches whose covariance is the
    identity. The filters are in the `state_dict`, so a checkpoint needs no images.

    Patches are centred here. The author's code takes second moments about 0 instead of the covariance, which
    is the same where normalised images have mean 0.

    Args:
        in_channels: Channels C of the images, at least 1.
        kernel_size: Side k of a filter in pixels, at least 1. Default: 2.
        stride: Distance of the filters' places in pixels, at least 1. Default: 1.
        padding: Zeros added on each side, at least 0. Default: 0.
        bias: Whether there is a bias. Default: True.
        eps: Added to the eigenvalues, above 0, in squared units of the images. Default: 5e-4, the author's
            for images of variance 1.

    Shape:
        (N, C, H, W) -> (N, 2 C k^2, H', W') with H' = floor((H + 2 padding - k) / stride) + 1, likewise W'.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> import torch
        >>> from lightning_optreg.layers import WhitenedConv2d
        >>> layer, images = WhitenedConv2d(3), torch.rand(64, 3, 8, 8)
        >>> layer.whiten(images)
        >>> responses = layer(images)[:, :12].transpose(0, 1).flatten(1)
        >>> bool((responses.cov() - torch.eye(12)).abs().max() < 0.01), tuple(layer.weight.shape)
        (True, (24, 3, 2, 2))
    """

    patches: Tensor
    """int64 (), number of patches the filters were computed from; 0 before `whiten`."""

    def __init__(
        self,
        in_channels: int,
        kernel_size: int = 2,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        eps: float = 5e-4,
    ) -> None:
        numbers = {"in_channels": in_channels, "kernel_size": kernel_size, "stride": stride}
        check_range("WhitenedConv2d", ">= 1", **numbers)
        check_range("WhitenedConv2d", ">= 0", padding=padding)
        check_range("WhitenedConv2d", "(0, inf)", eps=eps)
        outputs = 2 * in_channels * kernel_size**2
        super().__init__(in_channels, outputs, kernel_size, stride=stride, padding=padding, bias=bias)
        self.eps = eps
        self.weight.requires_grad_(False)
        self.register_buffer("patches", torch.tensor(0))

    def reset_parameters(self) -> None:
        """Start with a random orthonormal basis and its negatives, and a bias of 0."""
        size = self.weight[0].numel()
        # Its decomposition does not exist in half precisions.
        basis = nn.init.orthogonal_(torch.empty(size, size, dtype=torch.float32, device=self.weight.device))
        self._set(torch.cat((basis, -basis)))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def whiten(self, images: Tensor | Iterable[Tensor]) -> None:
        """Set the filters to those that whiten the patches of images; the bias stays as it is.

        Covariance and eigenvectors are computed in float64 and rounded to the weight's dtype. Two processes
        with the same images may differ in the last bits on different devices.

        Args:
            images: (N, C, H, W), as the layer gets them: normalised. A few thousand are enough. Or batches of
                them, one after the other.

        Raises:
            ValueError: If images have other channels, are smaller than a filter or not finite.
        """
        covariance, count = _covariance_and_count(
            "WhitenedConv2d", images, self.kernel_size[0], self.in_channels
        )
        if not covariance.isfinite().all():
            raise ValueError("WhitenedConv2d: images must be finite, got NaN or infinity")
        self._set(whitening_filters(covariance, self.eps))
        self.patches.fill_(count)

    @torch.no_grad()
    def _set(self, filters: Tensor) -> None:
        self.weight.copy_(filters.view(self.weight.shape))

    def extra_repr(self) -> str:
        """The settings, for print(net)."""
        stride, padding = self.stride[0], self.padding[0]
        return (
            f"{self.in_channels}, kernel_size={self.kernel_size[0]}, stride={stride}, padding={padding}, "
            f"bias={self.bias is not None}, eps={self.eps}"
        )
