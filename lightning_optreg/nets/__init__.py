"""Networks: modules that map images (N, C, H, W) to scores (N, K), one file each."""

from lightning_optreg.nets.airbench import AirbenchNet
from lightning_optreg.nets.alexnet import AlexNet
from lightning_optreg.nets.deepobs import DeepOBS2c2d, DeepOBS3c3d
from lightning_optreg.nets.en_resnet import EnResNet
from lightning_optreg.nets.googlenet import GoogLeNet
from lightning_optreg.nets.lenet5 import LeNet5
from lightning_optreg.nets.mlp import MLP
from lightning_optreg.nets.network import Network
from lightning_optreg.nets.resnet import ResNet
from lightning_optreg.nets.resnext import ResNeXt
from lightning_optreg.nets.softmax_regression import SoftmaxRegression
from lightning_optreg.nets.vgg import VGG
from lightning_optreg.nets.wide_resnet import WideResNet
from lightning_optreg.nets.zfnet import ZFNet

__all__ = [
    "MLP",
    "VGG",
    "AirbenchNet",
    "AlexNet",
    "DeepOBS2c2d",
    "DeepOBS3c3d",
    "EnResNet",
    "GoogLeNet",
    "LeNet5",
    "Network",
    "ResNeXt",
    "ResNet",
    "SoftmaxRegression",
    "WideResNet",
    "ZFNet",
]
