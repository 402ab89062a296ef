"""Load the weights of torchvision's networks, pretrained ones included, into this package's networks.

The networks of the same topology have the same tensors; only their names differ. A name is translated by
rules, so that nothing depends on the order of a state dict.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from lightning_optreg.nets.googlenet import GoogLeNet
from lightning_optreg.nets.network import Network
from lightning_optreg.nets.residual_network import ResidualNetwork
from lightning_optreg.nets.vgg import VGG

__all__ = ["from_torchvision", "load_torchvision"]

RESIDUAL_RULES = (
    (r"^conv1\.", "conv."),
    (r"^bn1\.", "bn."),
    (r"^layer(\d)\.", r"stage\1."),
    (r"\.downsample\.", ".shortcut."),
    (r"^fc\.", "linear."),
)


def from_torchvision(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the entries of a torchvision ResNet, ResNeXt or Wide ResNet as this package names them.

    Args:
        state_dict: `state_dict()` of one of torchvision's residual networks. It is left as it is.

    Returns:
        The same tensors under the names of `ResNet`, `ResNeXt` and `WideResNet` in their ImageNet forms.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets.torchvision_weights import from_torchvision
        >>> list(from_torchvision({"layer1.0.downsample.0.weight": torch.ones(1), "fc.bias": torch.ones(1)}))
        ['stage1.0.shortcut.0.weight', 'linear.bias']
    """
    renamed = {}
    for name, value in state_dict.items():
        for pattern, replacement in RESIDUAL_RULES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


def load_torchvision(net: Network, state_dict: Mapping[str, Tensor], *, head: bool = True) -> None:
    """Copy the weights of torchvision's twin into a network of this package.

    The twins, all with three input channels and `stem="imagenet"`: `resnet18` to `resnet152` of
    `ResNet(form="imagenet")`; `resnext50_32x4d`, `resnext101_32x8d` and `resnext101_64x4d` of
    `ResNeXt(form="imagenet")`; `wide_resnet50_2` and `wide_resnet101_2` of `WideResNet(form="imagenet")`;
    `vgg11` to `vgg19` and `vgg11_bn` to `vgg19_bn` of `VGG`; `googlenet` of `GoogLeNet(form="torchvision")`,
    with or without auxiliary heads. The last two kinds have torchvision's names, so `load_state_dict` takes
    them as well. Scores then agree with torchvision's.

    Pretrained weights are torchvision's to download, as
    `torchvision.models.ResNet18_Weights.DEFAULT.get_state_dict()`; they expect images normalised with the
    mean and standard deviation of ImageNet, those of `googlenet` pixels on [-1, 1], which torchvision's
    pretrained network makes of such images itself.

    Args:
        net: The network; its weights are overwritten.
        state_dict: `state_dict()` of torchvision's network.
        head: Whether to load the layers that give scores too. False keeps the network's own, for another
            number of classes. Default: True.

    Raises:
        TypeError: If torchvision has no twin of this kind of network.
        RuntimeError: If names or shapes do not fit, as in `load_state_dict`.

    Example:
        >>> import torch, torchvision
        >>> from lightning_optreg.nets import ResNet
        >>> from lightning_optreg.nets.torchvision_weights import load_torchvision
        >>> theirs = torchvision.models.resnet18().eval()
        >>> ours = ResNet(1000, (3, 64, 64), depth=18, form="imagenet", stem="imagenet").eval()
        >>> load_torchvision(ours, theirs.state_dict())
        >>> x = torch.randn(1, 3, 64, 64)
        >>> torch.allclose(ours(x), theirs(x), atol=1e-5)
        True
    """
    if isinstance(net, ResidualNetwork):
        renamed = from_torchvision(state_dict)
        heads: tuple[str, ...] = ("linear.",)
    elif isinstance(net, VGG):
        renamed, heads = dict(state_dict), (f"classifier.{len(net.classifier) - 1}.",)
    elif isinstance(net, GoogLeNet):
        renamed, heads = dict(state_dict), ("fc.", "aux1.fc2.", "aux2.fc2.")
        if net.aux1 is None:
            renamed = {name: value for name, value in renamed.items() if not name.startswith("aux")}
    else:
        raise TypeError(
            "load_torchvision: net must be a residual network, a VGG or a GoogLeNet, got "
            f"{type(net).__name__}"
        )
    if not head:
        renamed |= {name: value for name, value in net.state_dict().items() if name.startswith(heads)}
    net.load_state_dict(renamed)
