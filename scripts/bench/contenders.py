"""Trainings whose accuracy is noted as they go: a recipe of this project, usual Lightning, and timm's script.

Each is a function of a `Task`, which `time_to_accuracy.py` calls in a process of its own.
"""

import csv
import runpy
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
import yaml
from lightning.pytorch import Callback, Trainer, seed_everything
from throughput import UsualDataset, UsualModule, loaded
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_optreg import data, nets
from lightning_optreg.cli.main_cli import run
from lightning_optreg.data import ImageDataModule

USUAL_RATE = 0.1  # with Nesterov momentum 0.9, weight decay 5e-4 and a cosine, as in most repositories
TIMM_NET = "the_recipes_net"  # under which timm knows the network


class Task(NamedTuple):
    """What a contender trains.

    Attributes:
        recipe: A recipe of this project; the others take its network, its data and its batch size.
        seed: Of the run.
        data_dir: Where the data are, if not where the program looks itself.
        epochs: Of the contenders that are not the recipe.
        timm: timm's repository, with `train.py`.
        options: Other options of `fit`, of the recipe.
    """

    recipe: Path
    seed: int
    data_dir: str | None
    epochs: int
    timm: Path | None
    options: Sequence[str] = ()


class Clock(Callback):
    """Notes when each validation ended, since the fit began, and its accuracy."""

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self.points: list[tuple[float, float]] = []

    def setup(self, trainer: Trainer, module: Any, stage: str) -> None:
        if stage == "fit":
            self.start = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        if not trainer.sanity_checking:
            accuracy = 100 * float(trainer.callback_metrics[self.metric])
            self.points.append((time.perf_counter() - self.start, accuracy))


class Result(NamedTuple):
    """Accuracies in percent: of validation after each epoch, with seconds; of test images at the end."""

    points: list[tuple[float, float]]
    test: float


def recipe(task: Task) -> Result:
    """Train by `fit`, with all that the recipe has."""
    clock = Clock("val/accuracy")
    with tempfile.TemporaryDirectory() as folder:
        options = [f"--seed_everything={task.seed}", f"--trainer.default_root_dir={folder}"]
        options += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
        options += task.options
        if task.data_dir is not None:
            options.append(f"--data.data_dir={task.data_dir}")
        cli = run(["fit", f"--config={task.recipe}", *options], [clock])
        cli.trainer.logger = None
        (figures,) = cli.trainer.test(cli.model, cli.datamodule, verbose=False)
    return Result(clock.points, 100 * figures["test/accuracy"])


class Usual(UsualModule):
    """A LightningModule as tutorials write it, with a cosine over the run."""

    def __init__(self, net: nn.Module, steps: int) -> None:
        super().__init__(net)
        self.steps = steps

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val_acc", (self.net(x).argmax(1) == y).float().mean())

    def test_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("test_acc", (self.net(x).argmax(1) == y).float().mean())

    def configure_optimizers(self) -> Any:
        sgd = torch.optim.SGD(
            self.parameters(), lr=USUAL_RATE, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, self.steps)
        return {"optimizer": sgd, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}


def usual(task: Task) -> Result:
    """Train the recipe's network by Lightning and torchvision: an image at a time, two loading processes."""
    seed_everything(task.seed)
    module = data_of(task)
    size: Any = module.batch_size
    images, labels = loaded(module)
    held_out: Any = module.val_dataloader()
    parts: dict[str, Any] = {
        "train": (images, labels),
        "val": (held_out.images, held_out.labels),
        "test": test_images(module),
    }
    padding = images.shape[-1] // 8
    sets = {
        name: UsualDataset(part[0], part[1], padding if name == "train" else None)
        for name, part in parts.items()
    }
    loaders = {
        name: DataLoader(
            each,
            size if name == "train" else 1000,
            shuffle=name == "train",
            num_workers=2,
            persistent_workers=True,
        )
        for name, each in sets.items()
    }
    clock = Clock("val_acc")
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=task.epochs,
            callbacks=[clock],
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        it = Usual(net_of(task.recipe, images.shape[1:]), task.epochs * len(loaders["train"]))
        trainer.fit(it, loaders["train"], loaders["val"])
        (figures,) = trainer.test(it, loaders["test"], verbose=False)
    return Result(clock.points, 100 * figures["test_acc"])


def timm(task: Task) -> Result:
    """Train the recipe's network by timm's `train.py` on all training images; test it after each epoch."""
    if task.timm is None or not (task.timm / "train.py").is_file():
        raise FileNotFoundError(f"--timm must be a checkout of timm with train.py, got {task.timm}")
    module = data_of(task, val_fraction=0.0)
    images, labels = loaded(module)
    channels, side = images.shape[1], images.shape[-1]
    if channels != 1:
        raise ValueError("--timm: only for recipes of Fashion-MNIST; torchvision wants CIFAR-10 in pickles")
    with tempfile.TemporaryDirectory() as folder:
        root = torchvision_files(images, labels, test_images(module), Path(folder, "data"))
        command = [sys.executable, __file__, str(task.timm), str(task.recipe), str(channels), str(side)]
        device = "cuda" if torch.cuda.is_available() else "cpu"
        options = (
            f"--model {TIMM_NET} --dataset torch/fashion_mnist --num-classes 10 --workers 2 "
            f"--input-size {channels} {side} {side} --crop-pct 1.0 --scale 0.8 1.0 --color-jitter 0 "
            f"--seed {task.seed} --mean {'0.5 ' * channels} --std {'0.25 ' * channels} --device {device} "
            f"-b {module.batch_size} --opt sgd --lr {USUAL_RATE} --weight-decay 5e-4 --sched cosine "
            f"--sched-on-updates --warmup-epochs 1 --epochs {task.epochs} --cooldown-epochs 0 "
            "--experiment run --log-interval 1000"
        )
        command += [*options.split(), "--data-dir", str(root), "--output", folder]
        points = list(watched(command, Path(folder, "run", "summary.csv")))
    return Result(points, points[-1][1])


def watched(command: list[str], table: Path) -> Iterator[tuple[float, float]]:
    """Run timm's script; note when each epoch's row came, since it began to train."""
    with tempfile.TemporaryFile("w+") as said, subprocess.Popen(command, stdout=said, stderr=said) as process:
        start, seen, ended = None, 0, False
        while not ended:
            ended = process.poll() is not None
            said.seek(0)
            text = said.read()
            if start is None and "Scheduled epochs" in text:  # printed just before the first batch
                start = time.perf_counter()
            rows = list(csv.DictReader(table.open())) if table.exists() else []
            for row in rows[seen:]:
                yield time.perf_counter() - (start or 0.0), float(row["eval_top1"])
            seen = len(rows)
            time.sleep(0.1)
    if process.returncode or not seen:
        raise RuntimeError(f"timm's train.py ended with status {process.returncode}: {text[-2000:]}")


def torchvision_files(images: Tensor, labels: Tensor, test: tuple[Tensor, Tensor], folder: Path) -> Path:
    """Write grey images where torchvision's class of Fashion-MNIST looks for them."""
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, (pictures, classes) in {"train": (images, labels), "t10k": test}.items():
        for kind, values in (("images-idx3", pictures[:, 0]), ("labels-idx1", classes.to(torch.uint8))):
            header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
            (raw / f"{name}-{kind}-ubyte").write_bytes(header + values.numpy().tobytes())
    return folder


def data_of(task: Task, **changes: Any) -> ImageDataModule:
    """The recipe's data, without its augmentation."""
    given = yaml.safe_load(task.recipe.read_text())["data"]
    arguments = {**given.get("init_args", {}), "augment": [], "data_dir": task.data_dir, **changes}
    module: ImageDataModule = getattr(data, given["class_path"])(**arguments)
    return module


def test_images(module: ImageDataModule) -> tuple[Tensor, Tensor]:
    module.setup("test")
    loader: Any = module.test_dataloader()
    return loader.images, loader.labels


def net_of(recipe: Path, input_shape: tuple[int, ...]) -> nn.Module:
    """The recipe's network."""
    given = yaml.safe_load(recipe.read_text())["model"]["net"]
    given = {"class_path": given} if isinstance(given, str) else given
    net: nn.Module = getattr(nets, given["class_path"])(
        num_classes=10, input_shape=input_shape, **given.get("init_args", {})
    )
    return net


CONTENDERS = {"recipe": recipe, "usual": usual, "timm": timm}


def main() -> None:
    """Run timm's `train.py` with the recipe's network among its models."""
    folder, recipe_file, channels, side, *options = sys.argv[1:]
    sys.path.insert(0, folder)
    from timm.models import register_model  # type: ignore[import-not-found]

    def the_recipes_net(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        net: Any = net_of(Path(recipe_file), (int(channels), int(side), int(side)))
        net.num_classes = 10
        return net  # type: ignore[no-any-return]

    module = ModuleType("timm.models.optreg")  # timm looks it up, and files by its last name
    sys.modules[module.__name__] = module
    the_recipes_net.__module__ = module.__name__
    register_model(the_recipes_net)
    sys.argv = [str(Path(folder, "train.py")), *options]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
