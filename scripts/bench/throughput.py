"""Training throughput, side by side in one run: this project, a plain loop, and what people write today.

    python scripts/bench/throughput.py                 # LeNet-5 on Fashion-MNIST, ResNet-20 on 32 x 32 x 3
    python scripts/bench/throughput.py --options       # also channels-last, bf16-mixed and torch.compile

(a) this project: ImageClassifier and its datamodule under Lightning's Trainer with the callbacks, the logger
    and the layout (channels-last) of this project's recipes, and crop + flip + PCA jitter on each batch
(b) the limit: a hand-written PyTorch loop over float images that are in memory already, no augmentation
(c) the usual way: a LightningModule over torchvision's dataset, v2 transforms per image (crop, flip,
    normalise) and a DataLoader with 2 workers

(a) in torch's default layout and (b) in channels-last are there for comparison.

All take turns for some rounds of an equal number of steps; a round's ratio compares neighbours in time, so it
holds on a machine whose speed drifts. Printed are medians over the rounds. All keep freed memory
(lightning_optreg/runs/memory.py), or chance would decide between them.
"""

import argparse
import contextlib
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_optreg import ImageClassifier
from lightning_optreg.callbacks import Curves, ExactResume, Throughput
from lightning_optreg.data import CIFAR10DataModule, FashionMNISTDataModule, ImageDataModule
from lightning_optreg.data.transforms import PCAColorJitter, RandomCrop, RandomHorizontalFlip
from lightning_optreg.loggers import RunCSVLogger
from lightning_optreg.nets import LeNet5, ResNet
from lightning_optreg.runs.memory import keep_freed_memory

BATCH = 128
WARM_UP = 5


class Stopwatch(Callback):
    """Time the training steps after the first few, from one step's start to the last one's end."""

    def __init__(self) -> None:
        self.seconds_per_step = 0.0

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == WARM_UP:
            self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, module: Any, out: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx > WARM_UP:
            self.seconds_per_step = (time.perf_counter() - self.start) / (batch_idx + 1 - WARM_UP)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)


def quiet_trainer(**options: Any) -> Trainer:
    return Trainer(
        max_epochs=1,
        accelerator="cpu",
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        **options,
    )


def callbacks_of_recipes(folder: str, watch: Callback) -> list[Callback]:
    """What a recipe of this project has unless it says otherwise, and a stopwatch behind it."""
    return [
        ExactResume(),
        Curves(),
        Throughput(),
        ModelCheckpoint(folder, save_last=True),
        TQDMProgressBar(refresh_rate=10),
        watch,
    ]


def ours(net: nn.Module, data: ImageDataModule, steps: int, folder: str, **options: Any) -> float:
    watch = Stopwatch()
    model_options = {key: options.pop(key) for key in ("channels_last", "compile") if key in options}
    model = ImageClassifier(net, optimizer=sgd, num_classes=10, **model_options)
    trainer = quiet_trainer(
        limit_train_batches=steps,
        logger=RunCSVLogger(folder),
        callbacks=callbacks_of_recipes(folder, watch),
        default_root_dir=folder,
        **options,
    )
    trainer.fit(model, datamodule=data)
    return watch.seconds_per_step


def plain_loop(net: nn.Module, images: Tensor, labels: Tensor, steps: int) -> float:
    optimizer = sgd(net.parameters())
    order = torch.randperm(len(images))[: steps * BATCH]
    net.train()
    start = 0.0
    for step, index in enumerate(order.split(BATCH)):
        if step == WARM_UP:
            start = time.perf_counter()
        loss = nn.functional.cross_entropy(net(images[index]), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.perf_counter() - start) / (step + 1 - WARM_UP)


class UsualModule(LightningModule):
    """A LightningModule as tutorials write it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        scores = self.net(x)
        loss = nn.functional.cross_entropy(scores, y)
        self.log("train_loss", loss, prog_bar=True)
        self.log("train_acc", (scores.argmax(1) == y).float().mean(), prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return sgd(self.parameters())


def usual_way(net: nn.Module, dataset: Dataset[Any], steps: int, folder: str) -> float:
    watch = Stopwatch()
    loader = DataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=2)
    trainer = quiet_trainer(limit_train_batches=steps, callbacks=[watch], default_root_dir=folder)
    trainer.fit(UsualModule(net), loader)
    return watch.seconds_per_step


class UsualDataset(Dataset[Any]):
    """What torchvision's FashionMNIST and CIFAR10 do: a PIL image each, through the transforms."""

    def __init__(self, images: Tensor, labels: Tensor, padding: int | None) -> None:
        """Crop with so many pixels of padding, and flip; `None` for neither."""
        from torchvision.transforms import v2

        self.arrays = images.permute(0, 2, 3, 1).squeeze(-1).contiguous().numpy()
        self.labels = labels.tolist()
        augment = []
        if padding is not None:
            augment = [v2.RandomCrop(images.shape[-1], padding=padding), v2.RandomHorizontalFlip()]
        self.transform = v2.Compose(
            [
                *augment,
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize([0.5] * images.shape[1], [0.25] * images.shape[1]),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        from PIL import Image

        return self.transform(Image.fromarray(self.arrays[index])), self.labels[index]


def random_cifar10(folder: Path) -> Path:
    """Write files in CIFAR-10's binary layout with random pixels; speed does not depend on what they show."""
    binary = folder / "cifar-10-batches-bin"
    binary.mkdir()
    records = torch.randint(0, 256, (10_000, 3073), dtype=torch.uint8)
    records[:, 0] %= 10
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (binary / f"{name}.bin").write_bytes(records.numpy().tobytes())
    return folder


class Problem(NamedTuple):
    """What is trained, and for how many steps in a round."""

    name: str
    net: Callable[[], nn.Module]
    data: Callable[[], ImageDataModule]
    padding: int
    steps: int
    usual_steps: int  # of (c), which is slower


def problems(data_dir: str | None, steps: int, folder: Path) -> list[Problem]:
    def augment(padding: int) -> list[Any]:
        return [RandomCrop(padding=padding), RandomHorizontalFlip(), PCAColorJitter()]

    few = max(WARM_UP + 15, steps // 10)
    return [
        Problem(
            "LeNet-5, Fashion-MNIST 28 x 28 x 1, batch 128",
            lambda: LeNet5(num_classes=10, input_shape=(1, 28, 28)),
            lambda: FashionMNISTDataModule(data_dir=data_dir, batch_size=BATCH, augment=augment(2)),
            2,
            steps,
            steps // 2,
        ),
        Problem(
            "ResNet-20, 32 x 32 x 3, batch 128",
            lambda: ResNet(depth=20, num_classes=10, input_shape=(3, 32, 32)),
            lambda: CIFAR10DataModule(
                data_dir=str(folder), batch_size=BATCH, augment=augment(4), verify_checksum=False
            ),
            4,
            few,
            few,
        ),
    ]


def loaded(data: ImageDataModule) -> tuple[Tensor, Tensor]:
    """All training images and labels, as the datamodule's loader has them."""
    data.prepare_data()
    data.setup("fit")
    loader = data.train_dataloader()
    return loader.images, loader.labels


def measure(problem: Problem, rounds: int, with_options: bool) -> None:
    images, labels = loaded(problem.data())
    floats = images.float().div_(255).sub_(0.5).div_(0.25)
    last = torch.channels_last
    floats_last = floats.contiguous(memory_format=last)
    usual = UsualDataset(images, labels, problem.padding)
    variants: dict[str, Callable[[str], float]] = {
        LIMIT: lambda _: plain_loop(problem.net(), floats, labels, problem.steps),
        OURS: lambda folder: ours(problem.net(), problem.data(), problem.steps, folder, channels_last=True),
        USUAL: lambda folder: usual_way(problem.net(), usual, problem.usual_steps, folder),
        "(b) in channels-last": lambda _: plain_loop(
            problem.net().to(memory_format=last), floats_last, labels, problem.steps
        ),
    }
    for option, values in (OPTIONS if with_options else {"default layout": {}}).items():
        variants[f"(a) in {option}"] = lambda folder, values=values: ours(
            problem.net(), problem.data(), problem.steps, folder, **values
        )
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            with tempfile.TemporaryDirectory() as folder, progress_bars_hidden():
                seconds[name].append(variant(folder))
    limit = seconds[LIMIT]
    print(f"\n{problem.name}: medians of {rounds} rounds, {torch.get_num_threads()} threads")
    print(f"{'':34}{'ms a step':>10}{'images/s':>10}{'speed / (b)':>13}")
    for name, values in seconds.items():
        ratio = statistics.median(b / v for b, v in zip(limit, values, strict=True))
        median = statistics.median(values)
        print(f"{name:34}{1e3 * median:10.2f}{BATCH / median:10.0f}{ratio:13.2f}")
    against = [c / a for a, c in zip(seconds[OURS], seconds[USUAL], strict=True)]
    print(f"(a) is {statistics.median(against):.2f} x as fast as (c)")


LIMIT, OURS, USUAL = "(b) plain loop, no augmentation", "(a) this project", "(c) usual Lightning"

OPTIONS: dict[str, dict[str, Any]] = {
    "default layout": {},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "channels-last, bf16-mixed": {"channels_last": True, "precision": "bf16-mixed"},
    "torch.compile": {"compile": True},
    "channels-last, torch.compile": {"channels_last": True, "compile": True},
    "all three": {"channels_last": True, "precision": "bf16-mixed", "compile": True},
}


@contextlib.contextmanager
def progress_bars_hidden() -> Iterator[None]:
    """Let them be drawn, which takes time, but not seen."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data_dir", help="folder with Fashion-MNIST (default: the system's)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300, help="steps of LeNet-5 a round")
    parser.add_argument("--only", choices=["lenet5", "resnet20"])
    parser.add_argument("--options", action="store_true", help="measure what makes training faster too")
    args = parser.parse_args()
    keep_freed_memory()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")  # (c) is advised to use other settings
    with tempfile.TemporaryDirectory() as temporary:
        chosen = problems(args.data_dir, args.steps, random_cifar10(Path(temporary)))
        for problem, name in zip(chosen, ("lenet5", "resnet20"), strict=True):
            if args.only in (None, name):
                measure(problem, args.rounds, args.options)


if __name__ == "__main__":
    main()
