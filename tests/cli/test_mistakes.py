"""Mistyped command lines, one table: each is answered in a few lines that name the culprit, and status 2.

Nothing is written for them, and no data are read: the data files of every row are broken.
"""

import shlex
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lightning_optreg.__main__ import main

# Before a row's own options. The files of the data are broken: an answer that names them came too late.
BASE = (
    "--data=FashionMNISTDataModule --data.data_dir=data --data.verify_checksum=false --model.net=SoftmaxRegression "
    "--trainer.accelerator=cpu --trainer.max_epochs=1"
).split()
GOOD = "trainer:\n  max_epochs: 2\n"
STUDY = """\
name: small
base: [{data: {class_path: FashionMNISTDataModule}, model: {net: {class_path: MLP}}}]
methods:
  sgd: {optimizer: {class_path: torch.optim.SGD}}
values: [0.1, 0.01]
seeds: [0]
epochs: 1
"""


@dataclass(frozen=True)
class Mistake:
    """A mistyped command line.

    Attributes:
        line: What was typed; `fit` and its like get `BASE` behind the command.
        says: Words that the answer must hold: the culprit, and the right value where there is one near.
        files: What files hold, beside `good.yaml` and `study.yaml`, by their names.
    """

    line: str
    says: tuple[str, ...]
    files: dict[str, str | bytes | None] = field(default_factory=dict)


def wrong(line: str, *says: str, **files: str | bytes | None) -> Mistake:
    """A row; `b=...` is the content of `b.yaml`, None makes it a folder."""
    return Mistake(line, says, {f"{name}.yaml": content for name, content in files.items()})


TWO = "fit --config good.yaml --config b.yaml"
KEYS = "mapping"

FILES = [
    wrong(TWO, "b.yaml", "empty", b=""),
    wrong(TWO, "b.yaml", "empty", b="\n\n# nothing yet\n"),
    wrong(TWO, "b.yaml", "empty", b="---\n...\n"),
    wrong(TWO, "b.yaml", "line 2", "tab", b="trainer:\n\tmax_epochs: 3\n"),
    wrong(TWO, "b.yaml", KEYS, "list", b="- trainer\n- model\n"),
    wrong(TWO, "b.yaml", KEYS, "'hello'", b="hello\n"),
    wrong(TWO, "b.yaml", KEYS, "3", b="3\n"),
    wrong(TWO, "b.yaml", "line 2", "undefined alias", "'fast'", b="trainer:\n  max_epochs: *fast\n"),
    wrong("fit --config b.yaml --config good.yaml", "b.yaml", "line 1", b="trainer: [\n"),
    wrong("fit --config=good.yaml --config b.yaml", "b.yaml", "empty", b=""),
    wrong("fit -c good.yaml --config=b.yaml", "b.yaml", "empty", b=""),
    wrong("fit --config b.yaml --config=c.yaml", "b.yaml", "empty", b="", c="- 1\n"),
    wrong("fit --config good.yaml --config b.yaml --config good.yaml", "b.yaml", "empty", b=""),
    wrong("fit --config good.yaml --config b.yaml", "b.yaml", "trainer.max_epoch", "trainer.max_epochs", b="trainer: {max_epoch: 3}\n"),
    wrong(TWO, "b.yaml", "UTF-8", b="trainer:\n  max_epochs: 3\n".encode("utf-16")),
    wrong(TWO, "b.yaml", "UTF-8", b="# café\ntrainer:\n  max_epochs: 3\n".encode("latin-1")),
    wrong(TWO, "b.yaml", b=b"\x89PNG\r\n\x1a\n\x00\x00\x00"),
    wrong(TWO, "b.yaml", b=b"trainer:\x00\n  max_epochs: 3\n"),
    wrong(TWO, "b.yaml", "folder", b=None),
    wrong("fit --config goood.yaml", "goood.yaml", "good.yaml"),
    wrong("fit --config good.yaml --config bad.yaml", "bad.yaml"),
    wrong("fit --config good", "'good'", "good.yaml"),
    wrong("fit --config good.yml", "'good.yml'", "good.yaml"),
    wrong("fit --config", "config", "argument"),
    wrong("fit --config --trainer.max_epochs 3", "config", "argument"),
    wrong("fit --config=", "config"),
    wrong("fit --config ''", "config"),
    wrong("fit --config 3", "config", "'3'"),
    wrong("fit --cofig good.yaml", "--cofig", "--config"),
    wrong("fit good.yaml", "good.yaml", "--config"),
    wrong("fit --config good.yaml b.yaml", "b.yaml", "--config", b=GOOD),
    wrong(TWO, "b.yaml", "'trainer'", "twice", "line 3", b="trainer:\n  max_epochs: 3\ntrainer:\n  devices: 1\n"),
    wrong(TWO, "b.yaml", "'max_epochs'", "twice", "line 3", b="trainer:\n  max_epochs: 3\n  max_epochs: 5\n"),
    wrong(TWO, "b.yaml", "'lr'", "twice", b="optimizer:\n  class_path: Adam\n  init_args:\n    lr: 0.1\n    lr: 0.2\n"),
    wrong(TWO, "b.yaml", "'monitor'", "twice", b="trainer:\n  callbacks:\n  - class_path: EarlyStopping\n    init_args: {monitor: val/loss, monitor: val/accuracy}\n"),
    wrong(TWO, "b.yaml", "itself", b="trainer: &a\n  max_epochs: *a\n"),
    wrong(TWO, "b.yaml", "line 3", b="trainer:\n    max_epochs: 3\n   devices: 1\n"),
    wrong(TWO, "b.yaml", "line 1", b="trainer: {max_epochs: 3\n"),
    wrong(TWO, "b.yaml", "line 2", b='trainer:\n  default_root_dir: "runs\n'),
    wrong(TWO, "b.yaml", "line 2", b="trainer:\n  max_epochs 3\n  devices: 1\n"),
    wrong(TWO, "b.yaml", "document", b="trainer: {max_epochs: 3}\n---\ntrainer: {max_epochs: 3}\n"),
    wrong(TWO, "b.yaml", "!!python", b="trainer: !!python/object/apply:os.getcwd []\n"),
    wrong(TWO, "b.yaml", "'trainer'", KEYS, "3", b="trainer: 3\n"),
    wrong(TWO, "b.yaml", "'trainer'", KEYS, "list", b="trainer: [max_epochs, 3]\n"),
    wrong(TWO, "b.yaml", "'trainer'", KEYS, "list", b="trainer:\n- max_epochs: 3\n- devices: 1\n"),
    wrong(TWO, "b.yaml", "'trainer'", KEYS, "'max_epochs=3'", b="trainer: max_epochs=3\n"),
    wrong(TWO, "b.yaml", "'trainer'", KEYS, "True", b="trainer: true\n"),
    wrong(TWO, "b.yaml", "'model'", KEYS, "list", b="model:\n- net: LeNet5\n"),
    wrong(TWO, "b.yaml", "'model'", KEYS, "'LeNet5'", b="model: LeNet5\n"),
    wrong(TWO, "b.yaml", "max_epochs", "trainer.max_epochs", b="trainer:\nmax_epochs: 3\n"),
    wrong(TWO, "b.yaml", "init_args", "optimizer", b="optimizer:\n  class_path: Adam\ninit_args:\n  lr: 0.1\n"),
    wrong(TWO, "b.yaml", "optimizer", "lr", b="optimizer:\n  class_path: Adam\n  lr: 0.1\n"),
    wrong(TWO, "b.yaml", "optimizer", "list", b="optimizer:\n- class_path: Adam\n"),
    wrong(TWO, "b.yaml", "optimizer", "3", b="optimizer: 3\n"),
    wrong(TWO, "b.yaml", "optimizer", "init_args", "list", b="optimizer:\n  class_path: Adam\n  init_args:\n  - lr: 0.1\n"),
    wrong(TWO, "b.yaml", "optimizer", "init_args", b="optimizer:\n  class_path: Adam\n  init_args: 0.1\n"),
    wrong(TWO, "b.yaml", "optimizer", "class_path", b="optimizer:\n  class: Adam\n  init_args: {lr: 0.1}\n"),
    wrong(TWO, "b.yaml", "optimizer", "class_path", b="optimizer:\n  class_path: [Adam]\n"),
    wrong(TWO, "b.yaml", "lr_scheduler", "3", b="lr_scheduler: 3\n"),
    wrong(TWO, "b.yaml", "data", "3", b="data: 3\n"),
    wrong(TWO, "b.yaml", "data", "list", b="data: [FashionMNISTDataModule]\n"),
    wrong(TWO, "b.yaml", "data", "'mnist'", b="data: mnist\n"),
    wrong(TWO, "b.yaml", "model.net", "3", b="model: {net: 3}\n"),
    wrong(TWO, "b.yaml", "model.net", "list", b="model: {net: [LeNet5]}\n"),
    wrong(TWO, "b.yaml", "trainer.callbacks", "3", b="trainer: {callbacks: 3}\n"),
    wrong(TWO, "b.yaml", "trainer.callbacks", b="trainer: {callbacks: {EarlyStopping: {monitor: val/loss}}}\n"),
    wrong(TWO, "b.yaml", "trainer.callbacks", b="trainer:\n  callbacks:\n  - EarlyStopping:\n      monitor: val/loss\n"),
    wrong(TWO, "b.yaml", "trainer.callbacks", b="trainer:\n  callbacks: [3]\n"),
    wrong(TWO, "b.yaml", "Trainer", "trainer", b="Trainer:\n  max_epochs: 3\n"),
    wrong(TWO, "b.yaml", "maxepochs", "max_epochs", b="trainer:\n  maxepochs: 3\n"),
    wrong(TWO, "b.yaml", "max-epochs", "max_epochs", b="trainer:\n  max-epochs: 3\n"),
    wrong(TWO, "b.yaml", "trainer.max_epochs", "'3 epochs'", b="trainer:\n  max_epochs: 3 epochs\n"),
    wrong(TWO, "b.yaml", "trainer.max_epochs", "[3]", b="trainer:\n  max_epochs: [3]\n"),
    wrong(TWO, "b.yaml", "trainer.val_check_interval", "0", b="trainer:\n  val_check_interval: 0\n"),
    wrong(TWO, "b.yaml", "Infinity", b="trainer:\n  gradient_clip_val: Infinity\n"),
]  # fmt: skip

WORDS = [
    wrong("fit --trainer.max-epochs 3", "--trainer.max-epochs", "--trainer.max_epochs"),
    wrong("fit -trainer.max_epochs 3", "-trainer.max_epochs", "--trainer.max_epochs"),
    wrong("fit —trainer.max_epochs 3", "—trainer.max_epochs", "--trainer.max_epochs"),
    wrong("fit –trainer.max_epochs=3", "–trainer.max_epochs", "--trainer.max_epochs"),
    wrong("fit trainer.max_epochs=3", "trainer.max_epochs=3", "--trainer.max_epochs"),
    wrong("fit --trainer.max_epochs = 3", "trainer.max_epochs", "'='"),
    wrong("fit --trainer.max_epochs= 3", "trainer.max_epochs", "''"),
    wrong("fit --trainer.max_epochs =3", "trainer.max_epochs", "'=3'"),
    wrong("fit --trainer.max_epochs", "trainer.max_epochs", "argument"),
    wrong("fit --trainer.max_epochs --trainer.devices 1", "trainer.max_epochs", "argument"),
    wrong("fit --trainer.max_epochs 3 5", "'5'", "--"),
    wrong("fit --max_epochs 3", "--max_epochs", "--trainer.max_epochs"),
    wrong("fit --trainer.epochs 3", "--trainer.epochs", "--trainer.max_epochs"),
    wrong("fit --epochs 3", "--epochs", "--trainer.max_epochs"),
    wrong("fit --lr 0.1", "--lr", "--optimizer.lr"),
    wrong("fit --batch_size 8", "--batch_size", "--data.batch_size"),
    wrong("fit --net LeNet5", "--net", "--model.net"),
    wrong("fit --seed 3", "--seed", "--seed_everything"),
    wrong("fit --model LeNet5", "model", "LeNet5", "--model.net"),
    wrong("fit --trainer 3", "trainer", "3"),
    wrong("fit --trainer [3]", "trainer", "[3]"),
    wrong("fit --trainer.MAX_EPOCHS 3", "--trainer.MAX_EPOCHS", "--trainer.max_epochs"),
    wrong("fit --Trainer.max_epochs 3", "--Trainer.max_epochs", "--trainer.max_epochs"),
    wrong("fit --trainer_max_epochs 3", "--trainer_max_epochs", "--trainer.max_epochs"),
    wrong("fit --trainer..max_epochs 3", "--trainer..max_epochs", "--trainer.max_epochs"),
    wrong("fit ---trainer.max_epochs 3", "---trainer.max_epochs", "--trainer.max_epochs"),
    wrong("fit -- trainer.max_epochs 3", "trainer.max_epochs"),
    wrong("fit --trainer.max_epochs \"'3'\"", "trainer.max_epochs", "'3'"),
    wrong("fit --trainer.max_epochs true", "trainer.max_epochs", "'true'"),
    wrong("fit --trainer.max_epochs 1.5", "trainer.max_epochs", "int", "'1.5'"),
    wrong("fit --trainer.max_epochs 1e2", "trainer.max_epochs", "int", "'1e2'"),
    wrong("fit --trainer.max_epochs [3]", "trainer.max_epochs", "[3]"),
    wrong("fit --trainer.max_epochs {a: 3}".replace("{a: 3}", "'{a: 3}'"), "trainer.max_epochs"),
    wrong("fit --trainer.max_epochs 3,000", "trainer.max_epochs", "'3,000'"),
    wrong("fit --trainer.max_epochs 3x", "trainer.max_epochs", "'3x'"),
    wrong("fit --trainer.max_epochs None", "trainer.max_epochs", "null", "'None'"),
    wrong("fit --trainer.enable_progress_bar no_thanks", "enable_progress_bar", "bool", "'no_thanks'"),
    wrong("fit --optimizer.lr true", "optimizer.lr", "float", "true"),
    wrong("fit --optimizer.lr 0,1", "optimizer.lr", "float", "'0,1'"),
    wrong("fit --optimizer.lr [0.1]", "optimizer.lr", "[0.1]"),
    wrong("fit --optimizer.lr 1e", "optimizer.lr", "'1e'"),
    wrong("fit --optimizer SGD lr=0.1", "lr=0.1", "--"),
    wrong("fit fit", "'fit'"),
    wrong("fit test", "'test'"),
    wrong("fit --optimizer adam --optimizer.lr 0.1", "optimizer", "'adam'", "Adam"),
    wrong("fit --optimizer SGD --optimizer.weight_decai 0.1", "optimizer.weight_decai", "weight_decay"),
    wrong("fit --optimizer Adam --optimizer.momentum 0.9", "optimizer.momentum", "Adam"),
    wrong("fit --optimizer.learning_rate 0.1", "optimizer.learning_rate", "SGD", "lr"),
    wrong("fit --optimizer ./adam.py", "optimizer", "adam.py"),
    wrong("fit --model.net lenet5", "model.net", "'lenet5'", "LeNet5"),
    wrong("fit --model.net Resnet20", "model.net", "'Resnet20'", "ResNet"),
    wrong("fit --model.net nets/lenet5.py", "model.net", "nets/lenet5.py"),
    wrong("fit --model.net ''", "model.net"),
    wrong("fit --model.net torch.optim.SGD", "model.net", "torch.optim.SGD"),
    wrong("fit --model.net lightning_optreg.nets.LeNet6", "model.net", "LeNet6", "LeNet5"),
    wrong("fit --model.net lightning_optreg.net.LeNet5", "model.net", "lightning_optreg.net"),
    wrong("fit --data fashion_mnist", "data", "'fashion_mnist'", "FashionMNISTDataModule"),
    wrong("fit --data FashionMNIST", "data", "'FashionMNIST'", "FashionMNISTDataModule"),
    wrong("fit --data cifar10", "data", "'cifar10'", "CIFAR10DataModule"),
    wrong("fit --data.data-dir x", "data-dir", "data_dir"),
    wrong("fit --lr_scheduler cosine", "lr_scheduler", "'cosine'", "Cosine"),
    wrong("fit --scheduler StepLR", "--scheduler", "--lr_scheduler"),
    wrong("fit --lr_scheduler StepLR --lr_scheduler.gama 0.1 --lr_scheduler.step_size 3", "lr_scheduler.gama", "gamma"),
    wrong("fit --model.loss crossentropy", "model.loss", "'crossentropy'", "CrossEntropyLoss"),
    wrong("fit --trainer.callbacks EarlyStoping", "trainer.callbacks", "'EarlyStoping'", "EarlyStopping"),
    wrong("fit --trainer.callbacks earlystopping", "trainer.callbacks", "EarlyStopping"),
    wrong("fit --trainer.callbacks+ MaxNrm", "trainer.callbacks", "'MaxNrm'", "MaxNorm"),
    wrong("fit --trainer.callback+=MaxNorm", "--trainer.callback", "--trainer.callbacks"),
    wrong("fit --trainer.callbacks.patience 3", "trainer.callbacks", "patience"),
    wrong("fit --trainer.logger tensorboard", "trainer.logger", "'tensorboard'", "TensorBoardLogger"),
    wrong("fit --model.net MLP --model.net.hidden 300", "model.net.hidden", "300"),
    wrong("fit --model.net MLP --model.net.activation relu6x", "MLP", "activation", "relu6x", "ReLU6"),
    wrong("fit --model.net MLP --model.net.dropout 50", "dropout", "50"),
    wrong("fit --optimizer '{class_path: Adam, init_args: {lr: 1, lr: 2}}'", "optimizer", "'lr'", "twice"),
    wrong("fit --data.normalize meanstd", "data.normalize", "mean_std", "'meanstd'"),
    wrong("fit --print_confg", "--print_confg", "--print_config"),
    wrong("fit --hlep", "--hlep", "--help"),
    wrong("fit --ckpt_path", "ckpt_path", "argument"),
]  # fmt: skip

RANGES = [
    wrong("fit --trainer.max_epochs -5", "trainer.max_epochs", ">= -1", "-5"),
    wrong("fit --trainer.min_epochs -1", "trainer.min_epochs", ">= 0", "-1"),
    wrong("fit --trainer.min_epochs 5 --trainer.max_epochs 3", "min_epochs", "max_epochs", "5", "3"),
    wrong("fit --trainer.min_steps -1", "trainer.min_steps", ">= 0", "-1"),
    wrong("fit --trainer.max_steps -5", "trainer.max_steps", ">= -1", "-5"),
    wrong("fit --trainer.max_steps 1.5", "trainer.max_steps", "int", "'1.5'"),
    wrong("fit --trainer.max_time abc", "trainer.max_time", "abc", "00:12:00:00"),
    wrong("fit --trainer.max_time 1:00", "trainer.max_time", "1:00", "00:12:00:00"),
    wrong("fit --trainer.max_time '{hour: 1}'", "trainer.max_time", "hour", "hours"),
    wrong("fit --trainer.max_time 30", "trainer.max_time", "30"),
    wrong("fit --trainer.limit_train_batches -1", "trainer.limit_train_batches", "-1"),
    wrong("fit --trainer.limit_train_batches 1.5", "trainer.limit_train_batches", "1.5"),
    wrong("fit --trainer.limit_train_batches nan", "trainer.limit_train_batches", "nan"),
    wrong("fit --trainer.limit_val_batches -0.1", "trainer.limit_val_batches", "-0.1"),
    wrong("fit --trainer.limit_val_batches 50%", "trainer.limit_val_batches", "50%"),
    wrong("test --trainer.limit_test_batches -3", "trainer.limit_test_batches", "-3"),
    wrong("predict --trainer.limit_predict_batches 2.5", "trainer.limit_predict_batches", "2.5"),
    wrong("fit --trainer.overfit_batches -1", "trainer.overfit_batches", "-1"),
    wrong("fit --trainer.overfit_batches 1.5", "trainer.overfit_batches", "1.5"),
    wrong("fit --trainer.val_check_interval 0", "trainer.val_check_interval", "> 0", "0"),
    wrong("fit --trainer.val_check_interval 0.0", "trainer.val_check_interval", "> 0", "0"),
    wrong("fit --trainer.val_check_interval -1", "trainer.val_check_interval", "-1"),
    wrong("fit --trainer.val_check_interval 1.5", "trainer.val_check_interval", "1.5"),
    wrong("fit --trainer.val_check_interval nan", "trainer.val_check_interval", "nan"),
    wrong("fit --trainer.val_check_interval often", "trainer.val_check_interval", "often"),
    wrong("fit --trainer.check_val_every_n_epoch -1", "trainer.check_val_every_n_epoch", ">= 1", "-1"),
    wrong("fit --trainer.num_sanity_val_steps -2", "trainer.num_sanity_val_steps", ">= -1", "-2"),
    wrong("fit --trainer.log_every_n_steps -1", "trainer.log_every_n_steps", ">= 0", "-1"),
    wrong("fit --trainer.accumulate_grad_batches 0", "trainer.accumulate_grad_batches", ">= 1", "0"),
    wrong("fit --trainer.accumulate_grad_batches 1.5", "trainer.accumulate_grad_batches", "int", "'1.5'"),
    wrong("fit --trainer.gradient_clip_val nan", "trainer.gradient_clip_val", "float", "'nan'"),
    wrong("fit --trainer.gradient_clip_val -0.5", "trainer.gradient_clip_val", ">= 0", "-0.5"),
    wrong("fit --trainer.gradient_clip_val inf", "trainer.gradient_clip_val", "inf"),
    wrong("fit --trainer.gradient_clip_algorithm nrom", "trainer.gradient_clip_algorithm", "nrom", "norm"),
    wrong("fit --trainer.num_nodes 0", "trainer.num_nodes", ">= 1", "0"),
    wrong("fit --trainer.num_nodes -1", "trainer.num_nodes", ">= 1", "-1"),
    wrong("fit --trainer.devices 0", "trainer.devices", "0"),
    wrong("fit --trainer.devices -3", "trainer.devices", "-3"),
    wrong("fit --trainer.devices abc", "trainer.devices", "abc"),
    wrong("fit --trainer.devices 1.5", "trainer.devices", "1.5"),
    wrong("fit --trainer.devices []", "trainer.devices", "[]"),
    wrong("fit --trainer.devices 99999999999999999999", "trainer.devices", "99999999999999999999"),
    wrong("fit --trainer.accelerator gpu", "trainer.accelerator", "gpu", "cpu"),
    wrong("fit --trainer.accelerator cuda", "trainer.accelerator", "cuda", "cpu"),
    wrong("fit --trainer.accelerator tpu", "trainer.accelerator", "tpu", "cpu"),
    wrong("fit --trainer.accelerator GPU", "trainer.accelerator", "GPU", "gpu"),
    wrong("fit --trainer.accelerator cpuu", "trainer.accelerator", "cpuu", "cpu"),
    wrong("fit --trainer.precision 12", "trainer.precision", "12", "16"),
    wrong("fit --trainer.precision fp16", "trainer.precision", "fp16"),
    wrong("fit --trainer.precision half", "trainer.precision", "half"),
    wrong("fit --trainer.strategy dppp", "trainer.strategy", "dppp", "ddp"),
    wrong("fit --trainer.strategy DDP", "trainer.strategy", "DDP", "ddp"),
    wrong("fit --trainer.profiler simpel", "trainer.profiler", "simpel", "simple"),
    wrong("fit --trainer.fast_dev_run -1", "trainer.fast_dev_run", ">= 0", "-1"),
    wrong("fit --trainer.reload_dataloaders_every_n_epochs -1", "trainer.reload_dataloaders_every_n_epochs", ">= 0", "-1"),
    wrong("fit --trainer.deterministic maybe", "trainer.deterministic", "maybe"),
    wrong("fit --trainer.max_epochs 99999999999999999999", "trainer.max_epochs", "99999999999999999999"),
    wrong("fit --trainer.max_steps 99999999999999999999", "trainer.max_steps", "99999999999999999999"),
    wrong("fit --trainer.accumulate_grad_batches 99999999999999999999", "trainer.accumulate_grad_batches", "99999999999999999999"),
    wrong("fit --trainer.limit_train_batches 99999999999999999999", "trainer.limit_train_batches", "99999999999999999999"),
    wrong("fit --data.batch_size 99999999999999999999", "data.batch_size", "99999999999999999999"),
    wrong("fit --data.num_workers 99999999999999999999", "data.num_workers", "99999999999999999999"),
    wrong("fit --model.net MLP --model.net.hidden [99999999999999999999]", "model.net.hidden", "99999999999999999999"),
    wrong("fit --seed_everything 99999999999999999999", "seed_everything", "99999999999999999999"),
    wrong("fit --seed_everything -1", "seed_everything", ">= 0", "-1"),
    wrong("fit --seed_everything 1.5", "seed_everything", "1.5"),
    wrong("fit --data.batch_size -1", "batch_size", ">= 1", "-1"),
    wrong("fit --data.batch_size 1.5", "batch_size", "1.5"),
    wrong("fit --data.val_fraction nan", "val_fraction", "nan"),
    wrong("fit --data.val_fraction 20", "val_fraction", "[0, 1)", "20"),
    wrong("fit --optimizer.lr nan", "optimizer.lr", "nan"),
    wrong("fit --optimizer.lr inf", "optimizer.lr", "inf"),
    wrong("fit --optimizer.lr -0.1", "optimizer", "-0.1"),
    wrong("fit --optimizer.momentum -1", "optimizer", "momentum", "-1"),
    wrong("fit --optimizer.weight_decay nan", "optimizer.weight_decay", "nan"),
    wrong("fit --optimizer Adam --optimizer.lr 1e-3 --optimizer.betas [0.9,1.5]", "optimizer", "1.5"),
    wrong("fit --optimizer Adam --optimizer.lr 1e-3 --optimizer.betas 0.9", "optimizer.betas", "0.9"),
    wrong("fit --optimizer Adam --optimizer.eps nan", "optimizer.eps", "nan"),
    wrong("fit --lr_scheduler StepLR --lr_scheduler.step_size 0", "lr_scheduler", "step_size", "0"),
    wrong("fit --lr_scheduler StepLR --lr_scheduler.step_size 3 --lr_scheduler.gamma nan", "lr_scheduler.gamma", "nan"),
    wrong("fit --trainer.callbacks+=MaxNorm --trainer.callbacks.max_norm=-1", "MaxNorm", "max_norm", "-1"),
    wrong("fit --trainer.callbacks+=GradientNoise --trainer.callbacks.eta=nan", "GradientNoise", "eta", "nan"),
    wrong("fit --trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=val/loss --trainer.callbacks.mode=mim", "EarlyStopping", "mode", "mim", "min"),
    wrong("fit --trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=val/loss --trainer.callbacks.patience=-1", "EarlyStopping", "patience", "-1"),
    wrong("fit --trainer.callbacks+=ModelCheckpoint --trainer.callbacks.save_top_k=-2", "save_top_k", ">= -1", "-2"),
    wrong("fit --trainer.enable_checkpointing false --trainer.default_root_dir good.yaml", "good.yaml"),
]  # fmt: skip


def watching(callback: str, *more: str) -> str:
    words = "".join(f" --trainer.callbacks.{word}" for word in more)
    return f"fit --trainer.callbacks+={callback}{words}"


MONITORS = [
    wrong(watching("EarlyStopping", "monitor=val_loss"), "EarlyStopping", "'val_loss'", "val/loss"),
    wrong(watching("EarlyStopping", "monitor=val_acc"), "EarlyStopping", "'val_acc'", "val/accuracy"),
    wrong(watching("EarlyStopping", "monitor=loss"), "EarlyStopping", "'loss'", "val/loss"),
    wrong(watching("EarlyStopping", "monitor=accuracy"), "EarlyStopping", "'accuracy'", "val/accuracy"),
    wrong(watching("EarlyStopping", "monitor=Val/Loss"), "EarlyStopping", "'Val/Loss'", "val/loss"),
    wrong(watching("EarlyStopping", "monitor=val-loss"), "EarlyStopping", "'val-loss'", "val/loss"),
    wrong(watching("EarlyStopping", "monitor=''"), "EarlyStopping", "monitor", "''"),
    wrong(watching("EarlyStopping", "monitor=test/accuracy"), "EarlyStopping", "'test/accuracy'", "val/accuracy"),
    wrong(watching("ModelCheckpoint", "monitor=val_accuracy", "filename=x"), "ModelCheckpoint", "'val_accuracy'", "val/accuracy"),
    wrong(watching("ModelCheckpoint", "monitor=validation/loss", "filename=x"), "ModelCheckpoint", "'validation/loss'", "val/loss"),
    wrong(watching("ModelCheckpoint", "monitor=train_loss", "filename=x"), "ModelCheckpoint", "'train_loss'", "train/loss"),
    wrong(watching("AdamRestarts", "monitor=val_loss"), "AdamRestarts", "'val_loss'", "val/loss"),
    wrong(watching("AdamToSGD", "monitor=val_loss"), "AdamToSGD", "'val_loss'", "val/loss"),
    wrong("fit --lr_scheduler ReduceLROnPlateau --lr_scheduler.monitor val_loss", "lr_scheduler", "'val_loss'", "val/loss"),
    wrong("fit --lr_scheduler ReduceLROnPlateau --lr_scheduler.monitor loss", "lr_scheduler", "'loss'", "val/loss"),
    wrong("fit --model.lr_monitor val_loss --lr_scheduler torch.optim.lr_scheduler.ReduceLROnPlateau", "'val_loss'", "val/loss"),
    wrong(TWO, "EarlyStopping", "'val_loss'", "val/loss", b="trainer:\n  callbacks:\n  - class_path: EarlyStopping\n    init_args: {monitor: val_loss}\n"),
]  # fmt: skip

CHECKPOINTS = [
    wrong("test --ckpt_path bset", "'bset'", "best"),
    wrong("test --ckpt_path lst", "'lst'", "last"),
    wrong("fit --ckpt_path atuo", "'atuo'", "auto"),
    wrong("test --ckpt_path Best", "'Best'", "best"),
    wrong("test --ckpt_path folder.yaml", "folder.yaml", "folder", folder=None),
    wrong("test --ckpt_path b.yaml", "b.yaml", b=""),
    wrong("test --ckpt_path b.yaml", "b.yaml", b="just text\n"),
    wrong("fit --ckpt_path b.yaml", "b.yaml", b=b"\x89PNG\r\n\x1a\n" + bytes(2000)),
    wrong("test --ckpt_path runs/version_0/best.ckpt", "runs/version_0/best.ckpt"),
    wrong("predict --ckpt_path auto", "ckpt_path", "auto", "best"),
    wrong("test --ckpt_path 3", "'3'"),
    wrong("test --ckpt_path best", "best", "runs"),
    wrong("validate --ckp_path best", "--ckp_path", "--ckpt_path"),
    wrong("test --checkpoint best", "--checkpoint", "--ckpt_path"),
    wrong("test --reset_optimizer true", "reset_optimizer"),
    wrong("fit --reset_optimizer true", "reset_optimizer", "ckpt_path"),
]  # fmt: skip

COMMANDS = [
    wrong("trian", "'trian'", "fit"),
    wrong("train --config good.yaml", "'train'", "did you mean fit?"),
    wrong("eval", "'eval'", "did you mean test?"),
    wrong("Fit", "'Fit'", "fit"),
    wrong("--config good.yaml fit", "--config", "fit", "before"),
    wrong("--trainer.max_epochs 3 fit", "--trainer.max_epochs", "fit"),
    wrong("--fit", "--fit", "fit"),
    wrong("-fit", "-fit", "fit"),
    wrong("good.yaml", "good.yaml", "--config"),
    wrong("--verison", "--verison", "--version"),
    wrong("fit,test", "fit,test"),
    wrong("''", "''"),
    wrong("plot", "kind", "surface", "dynamics", "landscape"),
    wrong("plot surfce --output a.png", "'surfce'", "surface"),
    wrong("plot --output a.png", "--output", "surface"),
    wrong("plot surface", "--output"),
    wrong("plot surface --output a.jpg", "--output", "a.jpg", ".png"),
    wrong("plot surface --output", "--output", "argument"),
    wrong("plot surface --output a.png --surface beal", "--surface", "beal", "beale"),
    wrong("plot surface --output a.png --steps many", "--steps", "many"),
    wrong("plot surface --output a.png --steps -3", "--steps", "-3"),
    wrong("plot surface --outptu a.png", "--outptu", "--output"),
    wrong("plot surface a.png", "a.png", "--output"),
    wrong("plot surface dynamics --output a.png", "dynamics"),
    wrong("plot dynamics --output a.gif", "--output", "a.gif"),
    wrong("plot landscape --output a.png", "--ckpt_path"),
    wrong("plot landscape --ckpt_path bset --output a.png", "'bset'", "best"),
    wrong("plot landscape --ckpt_path good.yaml --output a.png", "good.yaml"),
    wrong("plot landscape --ckpt_path b.yaml --output a.png", "b.yaml", "folder", b=None),
    wrong("plot landscape --ckpt_path x.ckpt --output a.png --radius nan", "--radius", "nan"),
    wrong("plot landscape --ckpt_path x.ckpt --output a.png --points 1", "--points", "1"),
    wrong("describe", "--net", "LeNet5"),
    wrong("describe LeNet5", "LeNet5", "--net"),
    wrong("describe --net", "--net", "argument"),
    wrong("describe --net lenet5", "'lenet5'", "LeNet5"),
    wrong("describe --net ResNet --net.dpeth 20", "--net.dpeth", "--net.depth"),
    wrong("describe --net ResNet --depth 20", "--depth", "--net.depth"),
    wrong("describe --net ResNet --net.depth 21", "depth", "21", "6n + 2"),
    wrong("describe --net ResNet --net.depth deep", "depth", "deep", "int"),
    wrong("describe --net LeNet5 --input_shape 3 32", "--input_shape", "3 32"),
    wrong("describe --net LeNet5 --input_shape 3 32 x", "--input_shape", "3 32 x"),
    wrong("describe --net LeNet5 --input_shape 0 32 32", "--input_shape", "0 32 32"),
    wrong("describe --net LeNet5 --input_shape 1 2 2", "LeNet5", "2"),
    wrong("describe --net LeNet5 --input_shape", "--input_shape"),
    wrong("describe --net LeNet5 --input-shape 1 28 28", "--input-shape", "--input_shape"),
    wrong("describe --net LeNet5 --batch_size 0", "--batch_size", ">= 1", "0"),
    wrong("describe --net LeNet5 --batch_size 99999999999999999999", "batch_size", "99999999999999999999"),
    wrong("describe --net LeNet5 --input_shape 1 99999999999999999999 28", "input_shape", "99999999999999999999"),
    wrong("describe --net LeNet5 --batch_size x", "--batch_size", "'x'"),
    wrong("describe --net LeNet5 extra", "extra"),
    wrong("describe --net torchvision.models.resnet19", "resnet19", "resnet18"),
    wrong("describe --net os.getcwd", "os.getcwd"),
    wrong("describe --net nets/lenet5.py", "nets/lenet5.py"),
    wrong("describe --nte LeNet5", "--nte", "--net"),
    wrong("export", "--ckpt_path", "--output"),
    wrong("export --ckpt_path best", "--output"),
    wrong("export --ckpt_path bset --output a.onnx", "'bset'", "best"),
    wrong("export --ckpt_path x.ckpt --output nowhere/deep/a.onnx", "--output", "nowhere/deep"),
    wrong("export --ckpt_path x.ckpt --output a.txt", "--output", "a.txt", ".onnx"),
    wrong("export --ckpt_path x.ckpt --outptu a.onnx", "--outptu", "--output"),
    wrong("export --ckpt_path x.ckpt --output a.onnx --input_shape 3 32", "--input_shape", "3"),
    wrong("export --ckpt_path x.ckpt --output a.onnx --input_shape 0 32 32", "--input_shape", "0"),
    wrong("export --ckpt_path good.yaml --output a.onnx", "good.yaml"),
    wrong("export --ckpt_path b.yaml --output a.onnx", "b.yaml", "folder", b=None),
    wrong("export x.ckpt a.onnx", "x.ckpt", "--ckpt_path"),
    wrong("export --ckpt_path x.ckpt --output b.yaml", "--output", "b.yaml", b=None),
]  # fmt: skip


def study(old: str, new: str) -> str:
    assert old in STUDY
    return STUDY.replace(old, new)


PLAN = "compare --config b.yaml --plan"
COMPARE = [
    wrong("compare", "--config"),
    wrong("compare --config", "--config", "argument"),
    wrong("compare study.yaml", "study.yaml", "--config"),
    wrong("compare --config studdy.yaml", "studdy.yaml", "study.yaml"),
    wrong("compare --config .", "config"),
    wrong("compare --confg study.yaml", "--confg", "--config"),
    wrong("compare --config study.yaml --plann", "--plann", "--plan"),
    wrong("compare --config study.yaml --workers 0", "workers", ">= 1", "0"),
    wrong("compare --config study.yaml --workers two", "--workers", "'two'"),
    wrong("compare --config good.yaml", "good.yaml", "trainer", "name"),
    wrong(PLAN, "b.yaml", "empty", b=""),
    wrong(PLAN, "b.yaml", KEYS, b="- a\n"),
    wrong(PLAN, "b.yaml", "line 2", "tab", b="name: x\n\tbase: y\n"),
    wrong(PLAN, "b.yaml", "UTF-8", b=STUDY.encode("utf-16")),
    wrong(PLAN, "b.yaml", "'sgd'", "twice", b=study("values:", "  sgd: {optimizer: {class_path: Adam}}\nvalues:")),
    wrong(PLAN, "b.yaml", "'seeds'", "twice", b=STUDY + "seeds: [1]\n"),
    wrong(PLAN, "b.yaml", "name", b=study("name: small\n", "")),
    wrong(PLAN, "b.yaml", "base", b="name: small\nmethods: {}\nepochs: 1\n"),
    wrong(PLAN, "b.yaml", "methods", b="name: small\nbase: []\nepochs: 1\n"),
    wrong(PLAN, "b.yaml", "methods", KEYS, b="name: small\nbase: []\nmethods: [sgd]\nepochs: 1\n"),
    wrong(PLAN, "b.yaml", "epochs", "'one'", b=study("epochs: 1", "epochs: one")),
    wrong(PLAN, "b.yaml", "epochs", ">= 1", b=study("epochs: 1", "epochs: 0")),
    wrong(PLAN, "b.yaml", "epoch", "epochs", b=study("epochs", "epoch")),
    wrong(PLAN, "b.yaml", "values", b=study("[0.1, 0.01]", "[small, large]")),
    wrong(PLAN, "b.yaml", "values", b=study("[0.1, 0.01]", "[]")),
    wrong(PLAN, "b.yaml", "seeds", b=study("seeds: [0]", "seeds: 3")),
    wrong(PLAN, "b.yaml", "seeds", b=study("seeds: [0]", "seeds: [0, 0]")),
    wrong(PLAN, "b.yaml", "mode", "'best'", "max", b=STUDY + "mode: best\n"),
    wrong(PLAN, "b.yaml", "metric", "'val_accuracy'", "val/accuracy", b=STUDY + "metric: val_accuracy\n"),
    wrong(PLAN, "b.yaml", "metric", "'val/acuracy'", "val/accuracy", b=STUDY + "metric: val/acuracy\n"),
    wrong(PLAN, "b.yaml", "test_metric", "'test_acc'", "test/accuracy", b=STUDY + "test_metric: test_acc\n"),
    wrong(PLAN, "b.yaml", "reference", "'sdg'", "sgd", b=STUDY + "reference: sdg\n"),
    wrong(PLAN, "b.yaml", "base", "nowhere.yaml", b=study("base: [", "base: [nowhere.yaml, ")),
    wrong(PLAN, "c.yaml", "empty", b=study("base: [", "base: [c.yaml, "), c=""),
    wrong("compare --config b.yaml", "torch.optim.SDG", "SGD", b=study("torch.optim.SGD", "torch.optim.SDG")),
    wrong("compare --config b.yaml", "optimizer.lrr", b=STUDY + "tune: optimizer.init_args.lrr\n"),
]  # fmt: skip

TABLE = [*FILES, *WORDS, *RANGES, *MONITORS, *CHECKPOINTS, *COMMANDS, *COMPARE]


def name(mistake: Mistake) -> str:
    shown = mistake.files.get("b.yaml", "")
    return mistake.line if not shown else f"{mistake.line}: {shown!r}"[:110]


IDX = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def make_files(mistake: Mistake) -> None:
    """Write what a row finds in its folder."""
    Path("data").mkdir()
    for file in IDX:
        Path("data", f"{file}.gz").write_bytes(b"no data")
    for file, content in {"good.yaml": GOOD, "study.yaml": STUDY, **mistake.files}.items():
        if content is None:
            Path(file).mkdir()
        else:
            Path(file).write_bytes(content.encode() if isinstance(content, str) else content)


def listing(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.filterwarnings("ignore:.*without --ckpt_path")
@pytest.mark.parametrize("mistake", TABLE, ids=name)
def test_a_mistake_is_answered(
    mistake: Mistake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_files(mistake)
    before = listing(tmp_path)
    command, *options = shlex.split(mistake.line)
    base = BASE if command in ("fit", "validate", "test", "predict") else []
    status = main([command, *base, *options])
    out, err = capfd.readouterr()
    assert status == 2, out + err
    assert "Traceback" not in out + err
    assert listing(tmp_path) == before
    assert out == ""
    lines = [line for line in err.splitlines() if not line.startswith("Seed set to")]
    assert len(lines) <= 5, err
    (answer,) = (line for line in lines if line.startswith("error: "))
    assert [word for word in mistake.says if word not in answer] == [], answer
    assert len(answer) < 500
