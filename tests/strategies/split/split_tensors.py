"""What two processes do that share each linear layer of a network."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from lightning_optreg.nets import VGG, Network
from lightning_optreg.strategies import split_linear_layers
from tests.small_runs import quiet_trainer
from tests.strategies.split.split_runs import NETS, Images, sgd


class InTensors(LightningModule):
    """As docs/split_graphs.md shows it, without values that Lightning reduces: on CPUs it can't."""

    def __init__(self) -> None:
        super().__init__()
        self.net = NETS["MLP without"]()

    def configure_model(self) -> None:
        split_linear_layers(self.net, self.device_mesh["tensor_parallel"])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return sgd(self.parameters())


def small_vgg() -> VGG:
    return VGG(3, (1, 32, 32), depth=11, width=2, hidden=24, dropout=0.0, stem="imagenet")


def tensor_parallel() -> dict[str, Any]:
    """Outputs and gradients of split networks, a plan on the meta device, a fit with Lightning's strategy."""
    mesh = init_device_mesh("cpu", (2,))
    found: dict[str, Any] = {}
    for name, make in {"MLP": NETS["MLP without"], "ResNet": NETS["ResNet"], "VGG": small_vgg}.items():
        seed_everything(1, verbose=False)
        net = make()
        split_linear_layers(net, mesh)
        found[name] = outputs_and_gradients(net)
    with torch.device("meta"):
        net = VGG(1000, (3, 224, 224), depth=16)
    split_linear_layers(net, mesh)
    found["shapes"] = {name: list(p.to_local().shape) for name, p in net.classifier.named_parameters()}
    seed_everything(1, verbose=False)
    module = InTensors()
    strategy = ModelParallelStrategy(save_distributed_checkpoint=False, process_group_backend="gloo")
    trainer = quiet_trainer(strategy=strategy, devices=2, max_epochs=2, use_distributed_sampler=False)
    trainer.fit(module, Images())
    found["fit"] = {name: whole(value) for name, value in module.net.state_dict().items()}
    return found


def outputs_and_gradients(net: Network) -> dict[str, Tensor]:
    x, y = Images().batches[0]
    outputs = net(F.interpolate(x, size=net.input_shape[1:]))
    F.cross_entropy(outputs, y).backward()
    gradients = {name: whole(p.grad) for name, p in net.named_parameters() if p.grad is not None}
    return {"outputs": outputs.detach(), **gradients}


def whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value
