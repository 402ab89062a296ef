"""`fit`: what it builds from a configuration and what it leaves in the run's folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import wandb
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LearningRateFinder
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from lightning_optreg import ImageClassifier, losses, nets
from lightning_optreg.__main__ import main
from lightning_optreg.cli.main_cli import CLI, run
from tests.cli.tools import load, read, short

# Lightning's load_from_checkpoint calls what jsonargparse deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:\s*``instantiate_classes")

WRITTEN = {
    "config.yaml",
    "metrics.csv",
    "curves.png",
    "throughput.json",
    "checkpoints",
    "checkpoints/best.ckpt",
    "checkpoints/last.ckpt",
}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture
def options(fashion_mnist_dir: Path, tmp_path: Path, blank_curves: None) -> list[str]:
    return short(fashion_mnist_dir, tmp_path)


def fit(*arguments: str) -> CLI:
    return run(["fit", *arguments])


def test_a_fit_fills_a_folder_of_its_own(fashion_mnist_dir: Path, tmp_path: Path) -> None:
    options = short(fashion_mnist_dir, tmp_path)
    assert main(["fit", *options]) == 0
    assert main(["fit", *options]) == 0
    assert files(tmp_path / "version_0") == files(tmp_path / "version_1") == WRITTEN
    assert {path.name for path in tmp_path.iterdir()} == {"version_0", "version_1"}
    first, second = (load(tmp_path / f"version_{i}/checkpoints/last.ckpt") for i in (0, 1))
    for name, weight in first["state_dict"].items():
        assert torch.equal(weight, second["state_dict"][name])


def test_the_next_version_follows_the_highest(options: list[str], tmp_path: Path) -> None:
    (tmp_path / "version_7").mkdir()
    (tmp_path / "version_x").mkdir()
    assert fit(*options).run_folder == tmp_path / "version_8"


def test_its_configuration_can_be_read_back(options: list[str], tmp_path: Path) -> None:
    assert (
        main(["fit", *options, "--optimizer=Adam", "--lr_scheduler=StepLR", "--lr_scheduler.step_size=2"])
        == 0
    )
    saved = tmp_path / "version_0" / "config.yaml"
    assert read(saved)["optimizer"]["init_args"]["betas"] == [0.9, 0.999]  # the whole, with defaults
    assert main(["fit", "--config", str(saved)]) == 0
    assert read(tmp_path / "version_1" / "config.yaml") == read(saved)


def test_a_printed_configuration_can_be_read_back(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *options, "--optimizer=AdamW", "--print_config"]) == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert main(["fit", "--config", str(printed), "--print_config"]) == 0
    assert capsys.readouterr().out == printed.read_text()
    assert files(tmp_path) == {"printed.yaml"}


def test_later_files_are_laid_over_earlier_ones(options: list[str], tmp_path: Path) -> None:
    recipe, method = tmp_path / "recipe.yaml", tmp_path / "method.yaml"
    recipe.write_text(
        "optimizer: {class_path: Adam, init_args: {lr: 0.3, weight_decay: 0.1}}\n"
        "trainer:\n  gradient_clip_val: 2.0\n  callbacks: [{class_path: Timer}]\n"
    )
    method.write_text(
        "optimizer: {class_path: AdamW, init_args: {lr: 0.2}}\n"
        "trainer:\n  callbacks+: [{class_path: EarlyStopping, init_args: {monitor: val/loss}}]\n"
    )
    cli = fit(
        *options, "--config", str(recipe), "--config", str(method), "--trainer.callbacks+=LearningRateMonitor"
    )
    names = [type(callback).__name__ for callback in cli.trainer.callbacks]
    assert [name for name in names if name in ("Timer", "EarlyStopping", "LearningRateMonitor")] == [
        "Timer",
        "EarlyStopping",
        "LearningRateMonitor",
    ]
    assert "Throughput" not in names  # the recipe's list replaces the default one
    (optimizer,) = cli.trainer.optimizers
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.2, 0.1)
    assert cli.trainer.gradient_clip_val == 2.0


@pytest.mark.usefixtures("wandb_disabled")
@pytest.mark.parametrize(
    "first", ["TensorBoardLogger", pytest.param("CSVLogger", marks=pytest.mark.slow), "RunWandbLogger"]
)
def test_the_configuration_lies_in_the_folder_whichever_logger_comes_first(
    first: str, options: list[str], tmp_path: Path
) -> None:
    logger = tmp_path / "loggers.yaml"
    logger.write_text(
        f"trainer:\n  logger:\n  - {{class_path: {first}, init_args: {{save_dir: .}}}}\n  - RunCSVLogger\n"
    )
    for version in (0, 1):
        assert main(["fit", *options, "--config", str(logger)]) == 0
        folder = tmp_path / f"version_{version}"
        assert files(folder) >= {
            "config.yaml",
            "metrics.csv",
            "checkpoints/best.ckpt",
            "checkpoints/last.ckpt",
        }
        assert len(list(folder.rglob("*.ckpt"))) == 2
        wandb.finish()  # or it would go on in this process


def test_no_logger_and_no_callbacks_are_possible(options: list[str], tmp_path: Path) -> None:
    cli = fit(
        *options, "--trainer.logger=false", "--trainer.callbacks=null", "--trainer.enable_checkpointing=false"
    )
    assert files(tmp_path / "version_0") == {"config.yaml"}
    assert cli.trainer.loggers == []


def test_checkpoints_can_be_switched_off_alone(options: list[str], tmp_path: Path) -> None:
    assert main(["fit", *options, "--trainer.enable_checkpointing=false"]) == 0
    assert files(tmp_path / "version_0") == {"config.yaml", "metrics.csv", "curves.png", "throughput.json"}


def test_one_callback_needs_no_list(options: list[str], tmp_path: Path) -> None:
    cli = fit(*options, "--trainer.callbacks=ModelCheckpoint", "--trainer.callbacks.filename=only")
    assert "ModelCheckpoint" in [type(callback).__name__ for callback in cli.trainer.callbacks]
    assert files(tmp_path / "version_0" / "checkpoints") == {"only.ckpt"}


def test_a_dry_run_leaves_nothing(options: list[str], tmp_path: Path) -> None:
    assert main(["fit", *options, "--trainer.fast_dev_run=true"]) == 0
    assert files(tmp_path) == set()


@pytest.mark.parametrize("option", ["--data.val_fraction=0", "--trainer.limit_val_batches=0"])
def test_without_validation_the_last_checkpoint_is_kept(
    option: str, options: list[str], tmp_path: Path
) -> None:
    assert main(["fit", *options, option]) == 0
    assert files(tmp_path / "version_0" / "checkpoints") == {"last.ckpt"}


def names(few: tuple[str, ...], others: tuple[str, ...]) -> list[object]:
    """Names of one kind: those of other classes are found in the same way, and are slow tests."""
    return [*few, *(pytest.param(name, marks=pytest.mark.slow) for name in others)]


LOSSES: dict[str, type[nn.Module]] = {
    "CrossEntropyLoss": nn.CrossEntropyLoss,
    "MulticlassHingeLoss": losses.MulticlassHingeLoss,
    "SquaredLoss": losses.SquaredLoss,
    "torch.nn.MultiMarginLoss": nn.MultiMarginLoss,
}


@pytest.mark.parametrize(
    "name", names(("MulticlassHingeLoss", "torch.nn.MultiMarginLoss"), ("CrossEntropyLoss", "SquaredLoss"))
)
def test_losses_have_short_names(name: str, options: list[str]) -> None:
    cli = fit(*options, f"--model.loss={name}", "--trainer.fast_dev_run=1")
    assert isinstance(cli.model.loss, LOSSES[name])


@pytest.mark.parametrize("name", names(("LeNet5", "ResNet"), ("SoftmaxRegression", "MLP")))
def test_networks_have_short_names(name: str, options: list[str]) -> None:
    assert type(fit(*options, f"--model.net={name}", "--trainer.fast_dev_run=1").model.net) is getattr(
        nets, name
    )


@pytest.mark.parametrize(
    "name",
    names(
        ("SGD", "Adam"),
        (
            "AdamW",
            "NAdam",
            "RAdam",
            "Adamax",
            "Adagrad",
            "Adadelta",
            "RMSprop",
            "Rprop",
            "ASGD",
            "Adafactor",
        ),
    ),
)
def test_optimizers_have_short_names(name: str, options: list[str]) -> None:
    cli = fit(*options, f"--optimizer={name}", "--trainer.fast_dev_run=1")
    assert type(cli.trainer.optimizers[0]) is getattr(torch.optim, name)


@pytest.mark.filterwarnings("ignore:lr_scheduler. the run's 1 epochs end before")
@pytest.mark.parametrize(
    "schedule",
    names(
        # torch's, one that is as long as the run, one that watches a metric, and this package's
        (
            "StepLR step_size=2",
            "CosineAnnealingLR",
            "ReduceLROnPlateau monitor=val/loss",
            "WarmupMultiStepLR milestones=[1,2]",
        ),
        (
            "MultiStepLR milestones=[1,2]",
            "ExponentialLR gamma=0.9",
            "CosineAnnealingWarmRestarts T_0=2",
            "LinearLR",
            "PolynomialLR",
        ),
    ),
)
def test_schedules_have_short_names(schedule: str, options: list[str]) -> None:
    name, *arguments = schedule.split()
    settings = [f"--lr_scheduler.{argument}" for argument in arguments]
    cli = fit(*options, f"--lr_scheduler={name}", *settings, "--trainer.fast_dev_run=1")
    (config,) = cli.trainer.lr_scheduler_configs
    assert type(config.scheduler).__name__ == name
    assert config.interval == "epoch"
    assert config.monitor == ("val/loss" if name == "ReduceLROnPlateau" else None)


def test_a_plateau_watches_lr_monitor_if_it_has_no_monitor(options: list[str], tmp_path: Path) -> None:
    plateau = ["--lr_scheduler=ReduceLROnPlateau", "--model.lr_monitor=val/accuracy"]
    cli = fit(*options, *plateau)
    (config,) = cli.trainer.lr_scheduler_configs
    assert config.monitor == "val/accuracy"
    cli.trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = ImageClassifier.load_from_checkpoint(tmp_path / "a.ckpt")
    assert loaded.configure_optimizers()["lr_scheduler"]["monitor"] == "val/accuracy"
    inner = [
        "--lr_scheduler=Warmup",
        "--lr_scheduler.schedule=torch.optim.lr_scheduler.ReduceLROnPlateau",
        "--lr_scheduler.warmup=1",
    ]
    dry = [*options, "--trainer.fast_dev_run=1"]
    (config,) = fit(*dry, *inner, *plateau[1:]).trainer.lr_scheduler_configs
    assert config.monitor == "val/accuracy"
    (config,) = fit(*dry, *plateau, "--lr_scheduler.monitor=val/loss").trainer.lr_scheduler_configs
    assert config.monitor == "val/loss"


def test_a_schedule_can_count_steps(options: list[str]) -> None:
    cli = fit(
        *options,
        "--lr_scheduler=OneCycleLR",
        "--lr_scheduler.max_lr=1.0",
        "--model.lr_interval=step",
        "--trainer.limit_train_batches=3",
    )
    (config,) = cli.trainer.lr_scheduler_configs
    assert isinstance(config.scheduler, OneCycleLR)
    assert config.scheduler.last_epoch == 3


@pytest.mark.slow
def test_a_schedule_is_as_long_as_the_run(
    options: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its configuration leaves the length open: each run from it finds its own."""
    inner = "--lr_scheduler.schedule"
    schedule = ["--lr_scheduler=Warmup", "--lr_scheduler.warmup=1", f"{inner}=CosineAnnealingLR"]
    assert main(["fit", "--safe", *options, *schedule, "--trainer.max_epochs=3"]) == 0
    folder = tmp_path / "version_0"
    again = ["fit", "--config", str(folder / "config.yaml")]
    written = read(folder / "config.yaml")["lr_scheduler"]["init_args"]["schedule"]["init_args"]
    assert written["T_max"] is None
    assert main([*again, "--print_config"]) == 0
    assert "T_max: null" in capfd.readouterr().out
    assert main([*again, "--ckpt_path=auto"]) == 0
    path = folder / "checkpoints" / "last.ckpt"
    assert load(path)["lr_schedulers"][0]["schedule"]["T_max"] == 2
    loaded = ImageClassifier.load_from_checkpoint(path)
    assert loaded.configure_optimizers()["lr_scheduler"]["scheduler"].schedule.T_max == 2

    capfd.readouterr()
    for epochs in (4, 2):
        assert main([*again, f"--ckpt_path={path}", f"--trainer.max_epochs={epochs}"]) == 2
        (line,) = [each for each in capfd.readouterr().err.splitlines() if each.startswith("error: ")]
        assert f"T_max=2, but the run has {epochs - 1} epochs" in line
    assert files(tmp_path) == {"version_0", *(f"version_0/{name}" for name in WRITTEN)}
    cli = fit(*again[1:], "--trainer.max_epochs=4")
    assert cli.trainer.lr_scheduler_configs[0].scheduler.schedule.T_max == 3


def test_the_default_optimizer_is_momentum(options: list[str]) -> None:
    (optimizer,) = fit(*options).trainer.optimizers
    assert isinstance(optimizer, torch.optim.SGD)
    assert (optimizer.defaults["lr"], optimizer.defaults["momentum"]) == (0.1, 0.9)


def test_the_learning_rate_finder_works_with_the_named_optimizer(options: list[str]) -> None:
    cli = fit(
        *options,
        "--trainer.limit_train_batches=40",
        "--optimizer=Adam",
        "--optimizer.lr=1.0e-9",
        "--trainer.callbacks+=LearningRateFinder",
        "--trainer.callbacks.num_training_steps=40",
    )
    (finder,) = [callback for callback in cli.trainer.callbacks if isinstance(callback, LearningRateFinder)]
    assert finder.optimal_lr is not None
    (optimizer,) = cli.trainer.optimizers
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.param_groups[0]["lr"] == finder.optimal_lr.suggestion() != 1e-9


# ---- links -------------------------------------------------------------------------------------------------


def test_the_data_give_the_network_its_sizes(tmp_path: Path, options: list[str]) -> None:
    cli = fit(*options, "--data.augment+=RandomCrop", "--data.augment.size=20", "--model.net=MLP")
    assert cli.model.net.input_shape == (1, 20, 20)
    assert cli.model.hparams["net"]["init_args"]["input_shape"] == (1, 20, 20)
    again = ImageClassifier.load_from_checkpoint(tmp_path / "version_0/checkpoints/last.ckpt")
    assert isinstance(again.net, nets.MLP)
    assert again.net.input_shape == (1, 20, 20)


def test_what_the_data_say_may_be_said_again(options: list[str]) -> None:
    cli = fit(*options, "--model.net.num_classes=10", "--model.net.input_shape=[1,28,28]")
    assert cli.model.num_classes == 10


def test_three_classes(options: list[str], tmp_path: Path) -> None:
    from PIL import Image

    for k in range(3):
        folder = tmp_path / "images" / f"class{k}"
        folder.mkdir(parents=True)
        for i in range(12):
            Image.new("RGB", (12, 12), (80 * k, 10 * i, 20 * i)).save(folder / f"{i}.png")
    data = ["--data=ImageFolderDataModule", f"--data.data_dir={tmp_path / 'images'}", "--data.image_size=8"]
    rest = [option for option in options if not option.startswith("--data")]
    cli = fit(*rest, *data, "--data.batch_size=8")
    assert (cli.model.num_classes, cli.model.net.num_classes, cli.model.net.input_shape) == (3, 3, (3, 8, 8))


# A network of the user's that knows nothing of this package, in a module that can be imported.
OWN = """
from torch import nn

class Own(nn.Module):
    def __init__(self, width: int = 5):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.Linear(width, 10))

    def forward(self, x):
        return self.layers(x)

def make(num_classes: int, depth: int = 1) -> nn.Module:
    layers = [nn.Linear(784, 784) for _ in range(depth)]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(784, num_classes))
"""


@pytest.mark.parametrize("net", ["Own", "make"])
def test_a_network_of_the_users_trains_and_is_tested(
    net: str, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"own_{net}.py").write_text(OWN)
    argument = {"Own": "width=7", "make": "depth=2"}[net]
    arguments = [*options, f"--model.net=own_{net}.{net}", f"--model.net.{argument}"]
    assert main(["fit", *arguments]) == 0
    assert main(["fit", *arguments, "--ckpt_path=last", "--trainer.max_epochs=2"]) == 0
    assert main(["test", *arguments, "--ckpt_path=last"]) == 0
    saved = load(tmp_path / "version_0/checkpoints/last.ckpt")
    known = {"Own": {"width": 7}, "make": {"num_classes": 10, "depth": 2}}
    assert saved["hyper_parameters"]["net"]["init_args"] == known[net]
    ImageClassifier.load_from_checkpoint(tmp_path / "version_0/checkpoints/last.ckpt", allow=[f"own_{net}"])


def test_a_network_of_torchvisions_trains_and_is_tested(
    cifar10_dir: Path, tmp_path: Path, options: list[str]
) -> None:
    arguments = [*options, "--data=CIFAR10DataModule", f"--data.data_dir={cifar10_dir}"]
    arguments.append("--model.net=torchvision.models.squeezenet1_1")
    assert main(["fit", *arguments]) == 0
    assert main(["test", *arguments, "--ckpt_path=best"]) == 0
    again = ImageClassifier.load_from_checkpoint(tmp_path / "version_0/checkpoints/best.ckpt")
    assert again(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


@pytest.mark.slow
def test_two_processes_agree_on_the_folder(options: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lightning_optreg", "fit", *options]
    command += ["--trainer.strategy=ddp", "--trainer.devices=2", "--oversubscribe=true"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["version_0"]
    assert files(tmp_path / "version_0") == WRITTEN


def test_a_trainer_is_lightnings(options: list[str]) -> None:
    trainer = fit(*options, "--trainer.fast_dev_run=true").trainer
    assert isinstance(trainer, Trainer)
    assert [name for name in vars(type(trainer)) if callable(vars(type(trainer))[name])] == ["__init__"]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--optimizer", "Adam"], {"lr": 0.001, "betas": [0.9, 0.999]}),
        (["--optimizer=SWATS"], {"lr": 0.001, "switch_eps": 1e-05}),
        (["--optimizer", "SGD"], {"lr": 0.001, "momentum": 0.0}),
        (["--optimizer.lr", "0.05"], {"lr": 0.05, "momentum": 0.9}),
        ([], {"lr": 0.1, "momentum": 0.9}),
    ],
)
def test_an_optimizer_that_is_named_has_its_own_defaults(
    options: list[str], wanted: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    """And not the rate of the one that stands there otherwise."""
    assert main(["fit", *options, "--print_config"]) == 0
    given = yaml.safe_load(capsys.readouterr().out)["optimizer"]["init_args"]
    assert wanted.items() <= given.items()
