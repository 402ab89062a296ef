"""Pipelines of two processes: they train as one process does with the same micro-batches, bit for bit.

All that needs two processes runs in one start of them; tests look at what they wrote.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_optreg.callbacks import ExactResume
from lightning_optreg.classifier import ImageClassifier
from lightning_optreg.layers import GaussianNoise
from lightning_optreg.nets import MLP, VGG, EnResNet, LeNet5, Network, ResNet, SoftmaxRegression
from lightning_optreg.strategies import PipelineParallel
from tests.processes import in_processes, needs_gloo
from tests.resume_tools import StatefulLoader, assert_identical, final_state, spoil_random_state
from tests.small_runs import quiet_trainer

pytestmark = needs_gloo

SIZES = [16, 16, 14, 5]  # of the batches in an epoch: even, uneven, fewer in the last micro-batches
SHAPE = (1, 16, 16)


class Images:
    """Batches of the sizes above."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.batches = [
            (torch.randn(size, *SHAPE, generator=generator), torch.randint(3, (size,), generator=generator))
            for size in SIZES
        ]

    def __len__(self) -> int:
        return len(SIZES)

    def __iter__(self) -> Any:
        return iter(self.batches)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01)


def decay(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)


NETS: dict[str, Callable[[], Network]] = {
    "LeNet5": lambda: LeNet5(3, SHAPE),
    "MLP": lambda: MLP(3, SHAPE, hidden=[20, 20], batch_norm=True),
    "MLP without": lambda: MLP(3, SHAPE, hidden=[20, 20]),
    "ResNet": lambda: ResNet(3, SHAPE, depth=8),
    "VGG": lambda: VGG(3, SHAPE, depth=11, width=4, dropout=0.0),
    "EnResNet": lambda: EnResNet(3, SHAPE, depth=8, noise=0.0),
}


class Case:
    """A run in a pipeline that is made again in one process.

    Args:
        net: Name of the network.
        optimizer: Makes the optimizer.
        trainer: Settings of the trainer.
        strategy: Arguments of the strategy.
    """

    def __init__(
        self,
        net: str,
        optimizer: Callable[[Any], torch.optim.Optimizer] = sgd,
        trainer: dict[str, Any] | None = None,
        **strategy: Any,
    ) -> None:
        self.net, self.optimizer, self.trainer = net, optimizer, trainer or {}
        self.strategy = {"microbatches": 3, **strategy}

    def in_pipeline(self, folder: Path) -> dict[str, Any]:
        """Two epochs; whatever a process ends with."""
        seed_everything(1, verbose=False)
        module = ImageClassifier(
            NETS[self.net](), optimizer=self.optimizer, lr_scheduler=decay, num_classes=3, no_decay=True
        )
        trainer = quiet_trainer(
            strategy=PipelineParallel(**self.strategy), devices=2, max_epochs=2, **self.trainer
        )
        trainer.fit(module, Images(), Images())
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        return {
            "weights": module.net.state_dict(),
            "optimizer": trainer.strategy.optimizer_state(trainer.optimizers[0]),
            "metrics": metrics,
        }

    def alone(self) -> dict[str, Any]:
        """The same by hand, without Lightning."""
        seed_everything(1, verbose=False)
        net = NETS[self.net]()
        module = ImageClassifier(net, optimizer=self.optimizer, num_classes=3, no_decay=True)
        optimizer = module.configure_optimizers()
        schedule = decay(optimizer)
        window = self.trainer.get("accumulate_grad_batches", 1)
        mixed = self.trainer.get("precision") == "bf16-mixed"
        for _ in range(2):
            net.train()
            for index, (x, y) in enumerate(Images()):
                if index % window == 0:
                    optimizer.zero_grad()
                parts = min(self.strategy["microbatches"], len(x))
                for part, target in zip(x.tensor_split(parts), y.tensor_split(parts), strict=True):
                    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                        loss = F.cross_entropy(net(part), target)
                    (loss * (1 / window * len(part) / len(x))).backward()
                if (index + 1) % window == 0 or index == len(SIZES) - 1:
                    if "gradient_clip_val" in self.trainer:
                        parameters = [each for group in optimizer.param_groups for each in group["params"]]
                        nn.utils.clip_grad_norm_(parameters, self.trainer["gradient_clip_val"])
                    optimizer.step()
            schedule.step()
        return {"weights": net.state_dict(), "optimizer": optimizer.state_dict()}


CASES = {
    "LeNet5 1F1B": Case("LeNet5", schedule="1F1B"),
    "LeNet5 GPipe": Case("LeNet5", schedule="GPipe"),
    "MLP 1F1B": Case("MLP without", schedule="1F1B", microbatches=4),
    "MLP GPipe": Case("MLP without", schedule="GPipe", microbatches=4, split=["layers.4"]),
    "clipping": Case("LeNet5", trainer={"gradient_clip_val": 0.1}),
    "accumulation": Case("MLP without", adam, trainer={"accumulate_grad_batches": 3}),
    "bf16-mixed": Case("LeNet5", adam, trainer={"precision": "bf16-mixed"}),
    "batch norm": Case("MLP", microbatches=2),
    "ResNet": Case("ResNet", microbatches=2),
    "VGG": Case("VGG", split="parameters"),
    "two tensors between stages": Case("EnResNet", microbatches=2),
}


class Noisy(LightningModule):
    """A regression with dropout, noise and batch normalisation, and the loss as a method."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(),
            nn.Linear(8, 8), nn.Dropout(0.5), GaussianNoise(0.1), nn.Linear(8, 1),
        )  # fmt: skip

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(self.net(batch[0]), batch[1])
        self.log("loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)]


def fit_noisy(folder: Path, step: int | None, *, pipeline: bool = True, window: int = 1) -> dict[str, Any]:
    """Three epochs, from the start or from a step; also what the checkpoint at the end holds."""
    if step is None:
        seed_everything(1, verbose=False)
    else:
        spoil_random_state()
    module = Noisy()
    every_batch = ModelCheckpoint(folder / "all", "{step}-{batch}", every_n_train_steps=1, save_top_k=-1)
    every_batch.every_n_train_steps = 1
    trainer = quiet_trainer(
        strategy=PipelineParallel(microbatches=2) if pipeline else "auto",
        devices=2 if pipeline else 1,
        max_epochs=3,
        callbacks=[ExactResume(), *([every_batch] if step is None else [])],
        enable_checkpointing=step is None,
        accumulate_grad_batches=window,
        default_root_dir=folder,
    )
    path = None if step is None else next((folder / "all").glob(f"step={step}-*.ckpt"))
    trainer.fit(module, StatefulLoader(), StatefulLoader(2), ckpt_path=path)
    state = final_state(trainer, module)
    if pipeline:
        state["optimizer"] = [trainer.strategy.optimizer_state(each) for each in trainer.optimizers]
    return {**state, "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()}}


def everything(rank: int, folder: Path) -> None:
    """What each of the two processes does."""
    found: dict[str, Any] = {name: case.in_pipeline(folder) for name, case in CASES.items()}
    found["straight"] = fit_noisy(folder, None)
    found["resumed"] = {step: fit_noisy(folder, step) for step in (3, 6, 10)}
    found["refused"] = {name: refusal(make) for name, make in REFUSED.items()}
    torch.save(found, folder / f"{rank}.pt")


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


class Tied(Network):
    """Uses one layer at its beginning and at its end."""

    def __init__(self) -> None:
        super().__init__(3, SHAPE)
        self.a, self.b, self.c = nn.Linear(256, 256), nn.Linear(256, 256), nn.Linear(256, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.c(self.a(self.b(self.a(x.flatten(1)))))
        return scores


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
    "sync_batchnorm": lambda: (classifier(), trainer_of(sync_batchnorm=True)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pipeline")
    in_processes(2, everything, path)
    return path


@pytest.fixture(scope="module")
def results(folder: Path) -> list[dict[str, Any]]:
    """What each process found."""
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_a_pipeline_trains_as_one_process_does(name: str, results: list[dict[str, Any]]) -> None:
    """Also clipped by the norm of the whole gradient, within an accumulation window, and in two groups.

    Bit for bit: micro-batches are added up in the same order, and the norm from the same norms of tensors.
    """
    alone = CASES[name].alone()
    for found in results:
        assert_identical(alone["weights"], found[name]["weights"], name)
    assert_identical(alone["optimizer"], results[0][name]["optimizer"], name)


@pytest.mark.parametrize("name", ["LeNet5 1F1B", "ResNet"])
def test_all_processes_log_what_the_whole_network_gives(name: str, results: list[dict[str, Any]]) -> None:
    first, second = (found[name]["metrics"] for found in results)
    assert first == second
    net = NETS[CASES[name].net]()
    net.load_state_dict(results[0][name]["weights"])
    net.eval()
    with torch.no_grad():
        losses = [(F.cross_entropy(net(x), y, reduction="sum"), len(y)) for x, y in Images()]
    mean = sum(float(loss) for loss, _ in losses) / sum(count for _, count in losses)
    assert first["val/loss"] == pytest.approx(mean, rel=1e-5)  # sums in another order


@pytest.mark.parametrize("step", [3, 6, 10])
def test_a_resumed_pipeline_equals_one_that_never_stopped(step: int, results: list[dict[str, Any]]) -> None:
    """In the middle of an epoch and at its end, with dropout and noise in both stages."""
    for found in results:
        assert_identical(found["straight"]["weights"], found["resumed"][step]["weights"], f"step {step}")
        assert found["straight"]["metrics"] == found["resumed"][step]["metrics"]
    assert_identical(results[0]["straight"]["optimizer"], results[0]["resumed"][step]["optimizer"], "Adam")


def test_its_checkpoints_are_those_of_one_process(folder: Path, results: list[dict[str, Any]]) -> None:
    """A run in one process continues them."""
    path = next((folder / "all").glob("step=18-*.ckpt"))
    checkpoint = torch.load(path, weights_only=True)
    module = Noisy()
    assert list(checkpoint["state_dict"]) == list(module.state_dict())
    assert_identical(dict(checkpoint["state_dict"]), results[0]["straight"]["weights"], "weights")
    optimizer = module.configure_optimizers()[0][0]
    assert list(checkpoint["optimizer_states"][0]["state"]) == list(range(len(list(module.parameters()))))
    optimizer.load_state_dict(checkpoint["optimizer_states"][0])


def test_one_process_continues_a_pipeline(folder: Path) -> None:
    with pytest.warns(UserWarning, match="other numbers|processes"):
        state = fit_noisy(folder, 6, pipeline=False)
    assert all(value.isfinite().all() for value in state["weights"].values())


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_done_is_refused(words: str, results: list[dict[str, Any]]) -> None:
    for found in results:
        assert words in found["refused"][words]
        assert found["refused"][words].startswith("PipelineParallel: ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"schedule": "2F2B"}, "schedule must be '1F1B' or 'GPipe'"),
        ({"microbatches": 0}, "microbatches must be >= 1"),
        ({"split": "memory"}, "split must be 'parameters' or 'time'"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PipelineParallel(**options)


def test_it_goes_by_its_name() -> None:
    trainer = quiet_trainer(strategy="PipelineParallel", devices=2)
    assert isinstance(trainer.strategy, PipelineParallel)


def test_one_device_is_too_few() -> None:
    trainer = quiet_trainer(strategy=PipelineParallel(), devices=1, max_epochs=1)
    with pytest.raises(MisconfigurationException, match="at least 2 devices, got 1"):
        trainer.fit(classifier(), Images(), Images())
