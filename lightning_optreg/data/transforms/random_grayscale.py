"""Random loss of colour: objects should be known by their shape, too."""

from torch import Tensor

from lightning_optreg.data.transforms.randomly_applied import RandomlyApplied, require_grey_or_rgb

__all__ = ["RandomGrayscale"]


class RandomGrayscale(RandomlyApplied):
    """Make an image grey with probability p: all channels become 0.2989 R + 0.587 G + 0.114 B.

    Images of one channel do not change. 8-bit images stay in 8 bits.

    Args:
        p: Probability in [0, 1] for each image. Default: 0.1, as in torchvision.

    Raises:
        ValueError: If p is out of its range, or the images have neither 1 nor 3 channels.

    Shape:
        (N, C, H, W), uint8 or floating-point on [0, 1] -> the same.

    Source:
        torchvision's `rgb_to_grayscale`, with the luma of ITU-R BT.601; Chen, Kornblith, Norouzi and Hinton
        2020, "A simple framework for contrastive learning of visual representations" (arXiv:2002.05709), with
        p = 0.2.

    Example:
        >>> import torch
        >>> from lightning_optreg.randomness.draws import Draws, Place
        >>> draws = Draws(0, Place(epoch=0, step=0, start=0, total=1), 1, torch.device("cpu"))
        >>> red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
        >>> RandomGrayscale(p=1.0)(red, draws).flatten()
        tensor([0.2989, 0.2989, 0.2989])
    """

    def __init__(self, p: float = 0.1) -> None:
        super().__init__(p)

    def change(self, images: Tensor) -> Tensor:
        """Make all images grey."""
        from torchvision.transforms.v2 import functional  # takes seconds to import

        require_grey_or_rgb(self, images)
        if images.shape[1] == 1:
            return images
        grey: Tensor = functional.rgb_to_grayscale(images, num_output_channels=3)
        return grey
