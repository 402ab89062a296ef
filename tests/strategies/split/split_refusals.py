"""What pipelines refuse, by words of the sentence that says so."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning
from torch import Tensor, nn

from lightning_optreg.classifier import ImageClassifier
from lightning_optreg.nets import LeNet5, Network, SoftmaxRegression
from lightning_optreg.strategies import PipelineParallel
from tests.small_runs import quiet_trainer
from tests.strategies.split.split_runs import SHAPE, Images, Noisy


def refusal(make: Callable[[], tuple[LightningModule, Trainer]]) -> str:
    module, trainer = make()
    try:
        trainer.fit(module, Images())
    except MisconfigurationException as error:
        return str(error)
    return "nothing"


def trainer_of(**options: Any) -> Trainer:
    strategy = {name: options.pop(name) for name in ("split", "net", "loss") if name in options}
    options = {"strategy": PipelineParallel(**strategy), "devices": 2, "max_epochs": 1, **options}
    return quiet_trainer(**options)


def classifier(net: nn.Module | None = None, **options: Any) -> ImageClassifier:
    return ImageClassifier(net or LeNet5(3, SHAPE), num_classes=3, **options)


class Twice(Noisy):
    """Calls its network twice in a step."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.net(batch[0].flatten(1)[:, :5])
        return self.loss(self.net(batch[0].flatten(1)[:, :5]), batch[1][:, None].float())


class Other(Twice):
    """Returns another loss."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return 2 * self.loss(self.net(batch[0].flatten(1)[:, :5]), batch[1][:, None].float())


class Head(Other):
    """Has parameters outside of its network."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 1)


class Manual(Other):
    """Steps by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class Branching(Network):
    """Looks at numbers."""

    def __init__(self) -> None:
        super().__init__(3, SHAPE)
        self.a, self.b = nn.Linear(256, 3), nn.Linear(256, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = [self.a, self.b][int(x.sum() > 0)](x.flatten(1))
        return scores


class TwoHeads(Network):
    """Returns two tensors in training."""

    def __init__(self) -> None:
        super().__init__(3, SHAPE)
        self.a, self.b = nn.Linear(256, 256), nn.Linear(256, 3)

    def forward(self, x: Tensor) -> Any:
        scores = self.b(self.a(x.flatten(1)))
        return (scores, scores + 1) if self.training else scores


class Tied(Network):
    """Uses one layer at its beginning and at its end."""

    def __init__(self) -> None:
        super().__init__(3, SHAPE)
        self.a, self.b, self.c = nn.Linear(256, 256), nn.Linear(256, 256), nn.Linear(256, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.c(self.a(self.b(self.a(x.flatten(1)))))
        return scores


class Thaws(BaseFinetuning):
    """Would train more of the network later."""

    def freeze_before_training(self, pl_module: LightningModule) -> None: ...


def compiled() -> nn.Module:
    """As after `net.compile()`, without the seconds that it takes to import torch's compiler."""
    net = LeNet5(3, SHAPE)
    net._compiled_call_impl = net.forward
    return net


REFUSED: dict[str, Callable[[], tuple[LightningModule, Trainer]]] = {
    "no self.criterion(outputs, targets)": lambda: (classifier(), trainer_of(loss="criterion")),
    "no network self.model": lambda: (classifier(), trainer_of(net="model")),
    "cannot be cut into 2 stages": lambda: (classifier(SoftmaxRegression(3, SHAPE)), trainer_of()),
    "cannot trace it": lambda: (classifier(Branching()), trainer_of()),
    "at which a stage can begin": lambda: (classifier(), trainer_of(split=["c9"])),
    "forward pass: c; got ['b']": lambda: (classifier(Tied()), trainer_of(split=["b"])),
    "1 different layers": lambda: (classifier(), trainer_of(split=["c3", "c5"])),
    "not compiled": lambda: (classifier(compiled()), trainer_of()),
    "automatic optimization": lambda: (Manual(), trainer_of()),
    "head.weight is outside": lambda: (Head(), trainer_of()),
    "called it again": lambda: (Twice(), trainer_of()),
    "put what it adds into self.loss": lambda: (Other(), trainer_of()),
    "LBFGS needs the gradient of the whole": lambda: (
        classifier(optimizer=lambda p: torch.optim.LBFGS(p)),
        trainer_of(),
    ),
    "turn auxiliary heads off": lambda: (
        classifier(TwoHeads()),
        trainer_of(),
    ),
    "freeze by requires_grad": lambda: (classifier(), trainer_of(callbacks=[Thaws()])),
    "sync_batchnorm": lambda: (classifier(), trainer_of(sync_batchnorm=True)),
}
