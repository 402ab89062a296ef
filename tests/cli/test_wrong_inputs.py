"""Wrong inputs, one table: each ends with one readable line, status 2 and nothing left behind."""

import gzip
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_optreg.__main__ import main
from tests.cli.tools import short
from tests.conftest import write_idx

ROOT = Path(__file__).parents[2]
LENET = str(ROOT / "configs" / "fashion_mnist" / "lenet5.yaml")


@dataclass(frozen=True)
class Place:
    """Where a case runs.

    Attributes:
        folder: An empty folder, the working directory.
        data: A folder with the files of a small Fashion-MNIST, the case's own.
        cifar: The same of CIFAR-10.
        runs: The root of the runs. It does not exist.
        trained: A root with one finished run of SoftmaxRegression, the case's own.
    """

    folder: Path
    data: Path
    cifar: Path
    runs: Path
    trained: Path

    def file(self, name: str, text: str) -> str:
        """Write a file and return its path."""
        path = self.folder / name
        path.write_text(text)
        return str(path)


Arguments = Callable[[Place], list[str]]


@dataclass(frozen=True)
class Wrong:
    """A wrong input.

    Attributes:
        arguments: The command line; `fit` and `test` get the options of a short run before them.
        says: What the message must hold: key, value, what would do.
        status: The exit status.
    """

    arguments: list[str] | Arguments
    says: tuple[str, ...]
    status: int = 2


def overlay(text: str, *more: str) -> Arguments:
    """A fit with a configuration file of this content."""
    return lambda place: ["fit", "--config", place.file("wrong.yaml", text), *more]


def schedule(name: str, *arguments: str) -> list[str]:
    """A fit with a schedule."""
    return ["fit", f"--lr_scheduler={name}", *(f"--lr_scheduler.{argument}" for argument in arguments)]


def damaged(name: str, damage: Callable[[bytes], bytes]) -> Arguments:
    """A fit with one file of the data set changed."""

    def arguments(place: Place) -> list[str]:
        path = place.data / name
        path.write_bytes(damage(path.read_bytes()))
        return ["fit"]

    return arguments


def relabelled(change: Callable[[np.ndarray], np.ndarray]) -> Arguments:
    """A fit with other training labels."""

    def arguments(place: Place) -> list[str]:
        path = place.data / "train-labels-idx1-ubyte.gz"
        labels = np.frombuffer(gzip.decompress(path.read_bytes())[8:], dtype=np.uint8)
        write_idx(path, change(labels.copy()))
        return ["fit"]

    return arguments


def set_label(labels: np.ndarray) -> np.ndarray:
    labels[7] = 12
    return labels


def checkpoint(command: str, change: Callable[[Path], None] | None, *more: str) -> Arguments:
    """A command on the last checkpoint of the finished run, changed before."""

    def arguments(place: Place) -> list[str]:
        (path,) = place.trained.glob("version_0/checkpoints/last.ckpt")
        if change is not None:
            change(path)
        return [command, "--ckpt_path", str(path), *more]

    return arguments


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


def save_other(content: object) -> Callable[[Path], None]:
    return lambda path: torch.save(content, path)


# Names and keys, of which test_mistakes.py has a table too: these are slow tests.
NAMES: dict[str, Wrong] = {
    # ---- the command line ----------------------------------------------------------------------------------
    "unknown command": Wrong(["fti"], ("'fti'", "fit")),
    "unknown option before a command": Wrong(["--confg", "x.yaml"], ("'--confg'",)),
    "unknown option": Wrong(["fit", "--ckpt", "last"], ("--ckpt", "--ckpt_path")),
    "unknown group": Wrong(
        ["fit", "--trainr.max_epochs", "3"], ("--trainr.max_epochs", "--trainer.max_epochs")
    ),
    "unknown key of the trainer": Wrong(["fit", "--trainer.max_epoch", "3"], ("--trainer.max_epochs",)),
    "unknown key of the data": Wrong(
        ["fit", "--data.bach_size", "3"], ("data.bach_size", "FashionMNISTDataModule", "batch_size")
    ),
    "unknown argument of a network": Wrong(
        ["fit", "--model.net", "ResNet", "--model.net.dpeth", "20"], ("model.net.dpeth", "ResNet", "depth")
    ),
    "argument of another network": Wrong(
        ["fit", "--model.net", "MLP", "--model.net.depth", "20"], ("model.net.depth", "MLP", "hidden")
    ),
    "unknown argument of an optimizer": Wrong(
        ["fit", "--optimizer", "AdamW", "--optimizer.weight_decy", "0.1"],
        ("optimizer.weight_decy", "AdamW", "weight_decay"),
    ),
    "unknown argument of a schedule": Wrong(
        ["fit", "--lr_scheduler", "StepLR", "--lr_scheduler.stepsize", "3"],
        ("lr_scheduler.stepsize", "StepLR", "step_size"),
    ),
    "missing argument of a schedule": Wrong(
        ["fit", "--lr_scheduler", "StepLR"], ("lr_scheduler", "StepLR", "step_size")
    ),
    "unknown network": Wrong(["fit", "--model.net", "LeNet6"], ("model.net", "'LeNet6'", "LeNet5")),
    "unknown dataset": Wrong(
        ["fit", "--data", "CIFAR100DataModule"], ("data", "'CIFAR100DataModule'", "CIFAR10DataModule")
    ),
    "unknown optimizer": Wrong(["fit", "--optimizer", "SDG"], ("optimizer", "'SDG'", "SGD")),
    "unknown schedule": Wrong(
        ["fit", "--lr_scheduler", "CosineAnealingLR"],
        ("lr_scheduler", "'CosineAnealingLR'", "CosineAnnealingLR"),
    ),
    "unknown loss": Wrong(
        ["fit", "--model.loss", "MulticlasHingeLoss"], ("model.loss", "MulticlassHingeLoss")
    ),
    "unknown callback": Wrong(
        ["fit", "--trainer.callbacks+=EarlyStoping"], ("trainer.callbacks", "'EarlyStoping'", "EarlyStopping")
    ),
    "unknown argument of a callback": Wrong(
        ["fit", "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitr=val/loss"],
        ("trainer.callbacks.monitr", "EarlyStopping", "monitor"),
    ),
    "unknown logger": Wrong(["fit", "--trainer.logger", "WandLogger"], ("trainer.logger", "WandbLogger")),
    "unknown function of torchvision": Wrong(
        ["fit", "--model.net", "torchvision.models.resnet19"], ("model.net", "resnet19", "resnet18")
    ),
    "unknown package": Wrong(["fit", "--model.net", "no_such_package.Net"], ("model.net", "no_such_package")),
    "text for a number": Wrong(
        ["fit", "--trainer.max_epochs", "three"], ("trainer.max_epochs", "int", "'three'")
    ),
    "text for a learning rate": Wrong(["fit", "--optimizer.lr", "fast"], ("optimizer.lr", "float", "'fast'")),
    "text for a depth": Wrong(
        ["fit", "--model.net", "ResNet", "--model.net.depth", "deep"], ("model.net.depth", "int", "'deep'")
    ),
    "text for a batch size": Wrong(
        ["fit", "--data.batch_size", "many"], ("data.batch_size", "full", "'many'")
    ),
    "none of the choices": Wrong(
        ["fit", "--data.normalize", "mean-std"], ("data.normalize", "mean_std", "'mean-std'")
    ),
    "unknown precision": Wrong(
        ["fit", "--trainer.precision", "b16-mixed"], ("trainer.precision", "bf16-mixed")
    ),
    "option without value": Wrong(["fit", "--trainer.max_epochs"], ("trainer.max_epochs", "one argument")),
    "word that is no option": Wrong(["fit", "lenet5.yaml"], ("'lenet5.yaml'", "--")),
    # ---- configuration files -------------------------------------------------------------------------------
    "missing file": Wrong(
        lambda place: ["fit", "--config", LENET.replace("lenet5", "lenet")], ("lenet.yaml", "lenet5.yaml")
    ),
    "folder for a file": Wrong(lambda place: ["fit", "--config", str(place.folder)], ("config",)),
    "broken YAML": Wrong(
        overlay("trainer:\n  max_epochs: 3\n max_steps: [\n"), ("wrong.yaml", "YAML", "line 3")
    ),
    "YAML that is a list": Wrong(overlay("- trainer\n- model\n"), ("wrong.yaml", "mapping")),
    "empty YAML": Wrong(overlay(""), ("wrong.yaml", "mapping")),
    "binary file": Wrong(
        lambda place: ["fit", "--config", str(place.data / "train-labels-idx1-ubyte.gz")], ("train-labels",)
    ),
    "unknown group in a file": Wrong(
        overlay("modle:\n  net: LeNet5\n"), ("modle.net", "wrong.yaml", "model.net")
    ),
    "unknown key in a file": Wrong(
        overlay("trainer:\n  max_epoch: 3\n"), ("trainer.max_epoch", "wrong.yaml", "trainer.max_epochs")
    ),
    "unknown argument in a file": Wrong(
        overlay("model:\n  net:\n    class_path: ResNet\n    init_args:\n      dpeth: 20\n"),
        ("model.net.dpeth", "ResNet", "wrong.yaml", "depth"),
    ),
    "unknown callback in a file": Wrong(
        overlay("trainer:\n  callbacks+:\n  - EarlyStoping\n"),
        ("trainer.callbacks", "'EarlyStoping'", "wrong.yaml", "EarlyStopping"),
    ),
    "unknown argument of a transform in a file": Wrong(
        overlay(
            "data:\n  class_path: FashionMNISTDataModule\n  init_args:\n    augment:\n"
            "    - class_path: RandomCrop\n      init_args: {paddin: 2}\n"
        ),
        ("data.augment.paddin", "RandomCrop", "wrong.yaml", "padding"),
    ),
    "wrong type in a file": Wrong(
        overlay("optimizer:\n  class_path: Adam\n  init_args: {betas: 0.9}\n"),
        ("optimizer.betas", "0.9", "wrong.yaml"),
    ),
}

MISTAKES: dict[str, Wrong] = {
    # ---- values out of their range -------------------------------------------------------------------------
    "depth not 6n + 2": Wrong(
        ["fit", "--model.net", "ResNet", "--model.net.depth", "21"], ("ResNet", "depth", "6n + 2", "21")
    ),
    "probability above 1": Wrong(
        ["fit", "--model.net", "MLP", "--model.net.dropout", "1.5"], ("MLP", "dropout", "[0, 1)", "1.5")
    ),
    "unknown activation": Wrong(
        ["fit", "--model.net", "MLP", "--model.net.activation", "Relu6"],
        ("MLP", "activation", "ReLU6", "'Relu6'"),
    ),
    "validation share": Wrong(["fit", "--data.val_fraction", "2"], ("val_fraction", "[0, 1)", "2")),
    "batch of nothing": Wrong(["fit", "--data.batch_size", "0"], ("batch_size", ">= 1", "0")),
    "negative workers": Wrong(["fit", "--data.num_workers", "-1"], ("num_workers", ">= 0", "-1")),
    "crop larger than the image": Wrong(
        ["fit", "--data.augment+=RandomCrop", "--data.augment.size=99"], ("RandomCrop", "99")
    ),
    "negative learning rate": Wrong(["fit", "--optimizer.lr", "-1"], ("optimizer.lr", ">= 0", "-1")),
    "negative epochs": Wrong(["fit", "--trainer.max_epochs", "-5"], ("max_epochs", "-5")),
    "step size of a schedule": Wrong(
        ["fit", "--lr_scheduler", "StepLR", "--lr_scheduler.step_size", "0"],
        ("lr_scheduler.step_size", ">= 1", "0"),
    ),
    "length of a schedule": Wrong(
        [*schedule("OneCycleLR", "max_lr=0.1", "total_steps=3"), "--model.lr_interval=step"],
        ("lr_scheduler: ", "total_steps", "OneCycleLR", "2 steps", "3", "leave it out"),
    ),
    "length of a schedule by epochs": Wrong(
        [*schedule("OneCycleLR", "max_lr=1", "epochs=18", "steps_per_epoch=422"), "--model.lr_interval=step"],
        ("epochs * steps_per_epoch = 18 * 422 = 7596", "2 steps", "leave them out"),
    ),
    "half the length of a schedule": Wrong(
        schedule("OneCycleLR", "max_lr=1", "epochs=18"), ("epochs=18", "steps_per_epoch", "leave epochs out")
    ),
    "schedule longer than the run": Wrong(
        schedule("CosineAnnealingLR", "T_max=7"), ("T_max", "CosineAnnealingLR", "1 epochs", "7", "leave")
    ),
    "schedule shorter than the run": Wrong(
        [*schedule("PolynomialLR", "total_iters=5"), "--trainer.max_epochs=6"],
        ("total_iters", "PolynomialLR", "6 epochs", "5", "leave it out"),
    ),
    "schedule after a warm-up": Wrong(
        [
            *schedule("Warmup", "schedule=CosineAnnealingLR", "schedule.T_max=6", "warmup=2"),
            "--trainer.max_epochs=6",
        ],
        ("T_max", "4 epochs after the warm-up", "6", "leave it out"),
    ),
    "warm-up as long as the run": Wrong(
        schedule("Warmup", "schedule=CosineAnnealingLR"), ("warmup", "< the run's 1 epochs", "5")
    ),
    "schedule of a run without an end": Wrong(
        [*schedule("CosineAnnealingLR"), "--trainer.max_epochs=-1"],
        ("CosineAnnealingLR", "no known end", "T_max", "trainer.max_epochs", "max_steps"),
    ),
    "label smoothing": Wrong(
        ["fit", "--model.loss", "CrossEntropyLoss", "--model.loss.label_smoothing", "2"],
        ("label_smoothing", "2"),
    ),
    "frequency of the schedule": Wrong(["fit", "--model.lr_frequency", "0"], ("lr_frequency", ">= 1", "0")),
    "other number of classes": Wrong(
        ["fit", "--model.net.num_classes", "7"], ("model.net", "num_classes", "7", "10")
    ),
    "other number of classes for the model": Wrong(
        ["fit", "--model.num_classes", "7"], ("model.num_classes", "data.num_classes")
    ),
    "other image size": Wrong(
        ["fit", "--model.net.input_shape", "[3,32,32]"],
        ("model.net", "input_shape", "[3, 32, 32]", "[1, 28, 28]"),
    ),
    "image too small for the network": Wrong(
        ["fit", "--model.net", "LeNet5", "--data.augment+=RandomCrop", "--data.augment.size=8"],
        ("LeNet5", "8"),
    ),
    "loss of another kind": Wrong(["fit", "--model.loss", "MSELoss"], ("MSELoss", "(8, 10)", "(8,)")),
    "loss that is no number": Wrong(
        ["fit", "--model.loss", "CrossEntropyLoss", "--model.loss.reduction", "none"],
        ("CrossEntropyLoss", "(8,)", "reduction"),
    ),
    "network of other images, found in training": Wrong(
        ["fit", "--model.net", "torchvision.models.squeezenet1_1", "--data.val_fraction", "0"],
        ("network", "(8, 1, 28, 28)", "3 channels"),
    ),
    "no accumulation": Wrong(
        ["fit", "--trainer.accumulate_grad_batches", "0"], ("trainer.accumulate_grad_batches", ">= 1", "0")
    ),
    "negative clipping": Wrong(
        ["fit", "--trainer.gradient_clip_val", "-1"], ("trainer.gradient_clip_val", ">= 0", "-1")
    ),
    "no epochs between validations": Wrong(
        ["fit", "--trainer.check_val_every_n_epoch", "0"], ("trainer.check_val_every_n_epoch", ">= 1")
    ),
    "negative seed": Wrong(["fit", "--seed_everything", "-3"], ("seed_everything", ">= 0", "-3")),
    "optimizer under the model": Wrong(
        ["fit", "--model.optimizer", "Adam"], ("model.optimizer", "--optimizer")
    ),
    "network of other images": Wrong(
        ["fit", "--model.net", "torchvision.models.resnet18"], ("3 channels", "[8, 1, 28, 28]")
    ),
    "network without batch": Wrong(["fit", "--model.net", "torch.nn.Flatten"], ("scores", "(8, 784)", "10")),
    "no decay without weight decay": Wrong(
        ["fit", "--model.no_decay", "true", "--optimizer", "Rprop"], ("no_decay", "Rprop", "weight_decay")
    ),
    # ---- the trainer ---------------------------------------------------------------------------------------
    "monitor that does not exist": Wrong(
        ["fit", "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/acc"],
        ("val/acc", "val/accuracy"),
    ),
    "monitor of the schedule": Wrong(
        ["fit", "--lr_scheduler", "ReduceLROnPlateau", "--lr_scheduler.monitor", "val/los"],
        ("val/los", "val/loss"),
    ),
    "unknown strategy": Wrong(["fit", "--trainer.strategy", "dpp"], ("strategy", "'dpp'", "ddp")),
    "unknown accelerator": Wrong(["fit", "--trainer.accelerator", "tpuu"], ("accelerator", "tpuu", "tpu")),
    "no devices": Wrong(["fit", "--trainer.devices", "0"], ("devices", "0")),
    "no GPU": Wrong(["fit", "--trainer.accelerator", "gpu"], ("gpu",)),
    "no batches to train on": Wrong(
        ["fit", "--trainer.limit_train_batches", "-1"], ("limit_train_batches", "-1")
    ),
    "validate without validation images": Wrong(
        ["validate", "--data.val_fraction", "0"], ("val_fraction=0", "validate")
    ),
    # ---- data files ----------------------------------------------------------------------------------------
    "missing folder": Wrong(lambda place: ["fit", "--data.data_dir", "nowhere"], ("data_dir", "nowhere")),
    "file for a folder": Wrong(lambda place: ["fit", "--data.data_dir", LENET], ("data_dir", "lenet5.yaml")),
    "truncated file": Wrong(
        damaged("train-images-idx3-ubyte.gz", lambda b: b[:5000]), ("train-images", "gzip")
    ),
    "corrupted file": Wrong(
        damaged("train-images-idx3-ubyte.gz", lambda b: b[:3000] + bytes(200) + b[3200:]),
        ("train-images", "gzip"),
    ),
    "wrong magic number": Wrong(
        damaged(
            "train-images-idx3-ubyte.gz",
            lambda b: gzip.compress(b"\x00\x00\x0d\x03" + gzip.decompress(b)[4:]),
        ),
        ("train-images", "00 00 0d 03"),
    ),
    "more images than bytes": Wrong(
        damaged(
            "train-images-idx3-ubyte.gz",
            lambda b: gzip.compress(gzip.decompress(b)[:4] + struct.pack(">I", 900) + gzip.decompress(b)[8:]),
        ),
        ("train-images", "900 x 28 x 28"),
    ),
    "wrong checksum": Wrong(["fit", "--data.verify_checksum", "true"], ("md5", "verify_checksum")),
    "label out of range": Wrong(relabelled(set_label), ("train-labels", "label 12", "image 7", "0 to 9")),
    "fewer labels than images": Wrong(
        relabelled(lambda labels: labels[:500]), ("train-labels", "500 labels", "600")
    ),
    "empty folder of images": Wrong(
        lambda place: [
            "fit",
            "--data",
            "ImageFolderDataModule",
            "--data.data_dir",
            str(place.folder),
            "--data.image_size",
            "8",
        ],
        ("no subfolders", "per class"),
    ),
    "CIFAR-10 file of the wrong size": Wrong(
        lambda place: [
            *(["fit", "--data", "CIFAR10DataModule", "--data.data_dir"]),
            str(shorten(place.cifar, "data_batch_2.bin")),
        ],
        ("data_batch_2.bin", "bytes"),
    ),
    # ---- checkpoints ---------------------------------------------------------------------------------------
    "missing checkpoint": Wrong(["test", "--ckpt_path", "best.ckp"], ("ckpt_path", "'best.ckp'")),
    "last without a run": Wrong(["fit", "--ckpt_path", "last"], ("ckpt_path", "last", "default_root_dir")),
    "best without a run": Wrong(["test", "--ckpt_path", "best"], ("ckpt_path", "best", "default_root_dir")),
    "truncated checkpoint": Wrong(checkpoint("fit", truncate), ("ckpt_path", "last.ckpt", "damaged")),
    "empty checkpoint": Wrong(
        checkpoint("test", lambda path: path.write_bytes(b"") and None), ("ckpt_path", "last.ckpt")
    ),
    "text for a checkpoint": Wrong(
        checkpoint("test", lambda path: path.write_text("not a checkpoint") and None),
        ("ckpt_path", "last.ckpt"),
    ),
    "configuration for a checkpoint": Wrong(["test", "--ckpt_path", LENET], ("ckpt_path", "lenet5.yaml")),
    "tensor for a checkpoint": Wrong(
        checkpoint("fit", save_other(torch.zeros(3))), ("ckpt_path", "last.ckpt")
    ),
    "other file of torch's": Wrong(checkpoint("fit", save_other({"net": 3})), ("ckpt_path", "last.ckpt")),
    "checkpoint with code in it": Wrong(
        checkpoint("test", save_other({"state_dict": Path("x")})), ("ckpt_path", "last.ckpt")
    ),
    "checkpoint of another network": Wrong(
        checkpoint("fit", None, "--model.net", "MLP"), ("ckpt_path", "another network", "net.", "missing")
    ),
    "checkpoint of another depth": Wrong(
        checkpoint("test", None, "--model.net", "MLP", "--model.net.hidden", "[]"),
        ("another network", "net.l"),
    ),
    "checkpoint of other images": Wrong(
        checkpoint("fit", None, "--data.augment+=RandomCrop", "--data.augment.size=20"),
        ("another network", "(10, 784)", "(10, 400)"),
    ),
    # ---- what lies outside ---------------------------------------------------------------------------------
    "predictions in an unknown format": Wrong(
        ["predict", "--trainer.callbacks+=PredictionWriter", "--trainer.callbacks.path=scores.xlsx"],
        ("PredictionWriter", "scores.xlsx", "csv"),
    ),
    "runs where no folder can be": Wrong(
        ["fit", "--trainer.default_root_dir", "/proc/runs"], ("/proc/runs",)
    ),
    "runs in a file": Wrong(
        lambda place: ["fit", "--trainer.default_root_dir", place.file("runs_file", "")], ("runs_file",)
    ),
    "export without a checkpoint": Wrong(["export"], ("ckpt",)),
    "describe nothing": Wrong(["describe", "--net", "LeNet6"], ("LeNet6", "LeNet5")),
}


def shorten(folder: Path, name: str) -> Path:
    (path,) = folder.rglob(name)
    path.write_bytes(path.read_bytes()[:-100])
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, fashion_mnist_dir: Path) -> Path:
    root = tmp_path_factory.mktemp("finished")
    assert main(["fit", *short(fashion_mnist_dir, root)]) == 0
    return root


@pytest.fixture
def place(
    tmp_path: Path,
    fashion_mnist_dir: Path,
    cifar10_dir: Path,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Place:
    copies = {"data": fashion_mnist_dir, "cifar": cifar10_dir, "trained": finished}
    for name, folder in copies.items():
        shutil.copytree(folder, tmp_path / name)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return Place(work, *(tmp_path / name for name in ("data", "cifar", "runs", "trained")))


def files(folder: Path) -> dict[str, float | None]:
    """When each file was written; a run's folder is locked for a while, and looks as it did afterwards."""
    return {str(path): path.stat().st_mtime if path.is_file() else None for path in folder.rglob("*")}


# Mistakes of which others in the table are found in the same place of the program, in the same way.
ALIKE = (
    "depth not 6n + 2",
    "unknown activation",
    "batch of nothing",
    "step size of a schedule",
    "length of a schedule",
    "half the length of a schedule",
    "schedule shorter than the run",
    "warm-up as long as the run",
    "label smoothing",
    "other number of classes",
    "image too small for the network",
    "loss that is no number",
    "network of other images",
    "network without batch",
    "no accumulation",
    "negative epochs",
    "unknown accelerator",
    "file for a folder",
    "truncated file",
    "wrong magic number",
    "fewer labels than images",
    "best without a run",
    "empty checkpoint",
    "text for a checkpoint",
    "configuration for a checkpoint",
    "other file of torch's",
    "checkpoint of another depth",
    "runs in a file",
    "other image size",
    "frequency of the schedule",
    "schedule longer than the run",
    "length of a schedule by epochs",
    "monitor that does not exist",
    "no epochs between validations",
    "missing folder",
    "more images than bytes",
    "tensor for a checkpoint",
    "checkpoint of another network",
)
SLOW = (*NAMES, *ALIKE)
ROWS = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in (*MISTAKES, *NAMES)]


@pytest.mark.filterwarnings("ignore:.*the network is untrained")
@pytest.mark.parametrize("name", ROWS)
def test_a_mistake_is_one_line(name: str, place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    wrong = {**NAMES, **MISTAKES}[name]
    argv = wrong.arguments if isinstance(wrong.arguments, list) else wrong.arguments(place)
    if argv[0] in ("fit", "validate", "test", "predict"):
        argv = [argv[0], *short(place.data, place.runs), *argv[1:]]
    before = files(place.folder) | files(place.trained)
    status = main(argv)
    out, err = capfd.readouterr()
    messages = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status == wrong.status, err
    assert len(messages) == 1, err
    assert "Traceback" not in out + err
    assert [part for part in wrong.says if part not in messages[0]] == [], messages[0]
    assert len(messages[0]) < 800
    assert not place.runs.exists(), sorted(files(place.runs))
    assert files(place.folder) | files(place.trained) == before
