"""Configuration files with a mistake, and mistyped names of such files."""

from tests.cli.mistake import GOOD, rows, wrong

TWO = "fit --config good.yaml --config b.yaml"
KEYS = "mapping"

NAMES = rows(
    """
fit --config goood.yaml  =>  goood.yaml | good.yaml
fit --config good.yaml --config bad.yaml  =>  bad.yaml
fit --config good  =>  'good' | good.yaml
fit --config good.yml  =>  'good.yml' | good.yaml
fit --config  =>  config | argument
fit --config --trainer.max_epochs 3  =>  config | argument
fit --config=  =>  config
fit --config ''  =>  config
fit --config 3  =>  config | '3'
fit --cofig good.yaml  =>  --cofig | --config
fit good.yaml  =>  good.yaml | --config
"""
)

FILES = [
    wrong(
        TWO, "b.yaml", "'Adan'", "Optimizer", "Adam", b="optimizer: {class_path: Adan, init_args: {lr: 1}}\n"
    ),
    wrong(TWO, "b.yaml", "'trainer'", "nothing below it", b="trainer:\nmodel:\n  net: LeNet5\n"),
    wrong(TWO, "b.yaml", "'trainer'", "nothing below it", b="trainer:\n"),
    wrong(TWO, "b.yaml", "'trainer.devices'", "twice", b="trainer.devices: 3\ntrainer: {devices: 1}\n"),
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
    wrong(
        "fit --config good.yaml --config b.yaml",
        "b.yaml",
        "trainer.max_epoch",
        "trainer.max_epochs",
        b="trainer: {max_epoch: 3}\n",
    ),
    wrong(TWO, "b.yaml", "UTF-8", b="trainer:\n  max_epochs: 3\n".encode("utf-16")),
    wrong(TWO, "b.yaml", "UTF-8", b="# café\ntrainer:\n  max_epochs: 3\n".encode("latin-1")),
    wrong(TWO, "b.yaml", b=b"\x89PNG\r\n\x1a\n\x00\x00\x00"),
    wrong(TWO, "b.yaml", b=b"trainer:\x00\n  max_epochs: 3\n"),
    wrong(TWO, "b.yaml", "folder", b=None),
    wrong("fit --config good.yaml b.yaml", "b.yaml", "--config", b=GOOD),
    wrong(
        TWO, "b.yaml", "'trainer'", "twice", "line 3", b="trainer:\n  max_epochs: 3\ntrainer:\n  devices: 1\n"
    ),
    wrong(TWO, "b.yaml", "'max_epochs'", "twice", "line 3", b="trainer:\n  max_epochs: 3\n  max_epochs: 5\n"),
    wrong(
        TWO,
        "b.yaml",
        "'lr'",
        "twice",
        b="optimizer:\n  class_path: Adam\n  init_args:\n    lr: 0.1\n    lr: 0.2\n",
    ),
    wrong(
        TWO,
        "b.yaml",
        "'monitor'",
        "twice",
        b="trainer:\n  callbacks:\n  - class_path: EarlyStopping\n    init_args: {monitor: a, monitor: b}\n",
    ),
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
    wrong(TWO, "b.yaml", "'trainer'", "nothing below it", "indent", b="trainer:\nmax_epochs: 3\n"),
    wrong(
        TWO, "b.yaml", "init_args", "optimizer", b="optimizer:\n  class_path: Adam\ninit_args:\n  lr: 0.1\n"
    ),
    wrong(TWO, "b.yaml", "optimizer", "lr", b="optimizer:\n  class_path: Adam\n  lr: 0.1\n"),
    wrong(TWO, "b.yaml", "optimizer", "list", b="optimizer:\n- class_path: Adam\n"),
    wrong(TWO, "b.yaml", "optimizer", "3", b="optimizer: 3\n"),
    wrong(
        TWO,
        "b.yaml",
        "optimizer",
        "init_args",
        "list",
        b="optimizer:\n  class_path: Adam\n  init_args:\n  - lr: 0.1\n",
    ),
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
    wrong(
        TWO, "b.yaml", "trainer.callbacks", b="trainer: {callbacks: {EarlyStopping: {monitor: val/loss}}}\n"
    ),
    wrong(
        TWO,
        "b.yaml",
        "trainer.callbacks",
        b="trainer:\n  callbacks:\n  - EarlyStopping:\n      monitor: val/loss\n",
    ),
    wrong(TWO, "b.yaml", "trainer.callbacks", b="trainer:\n  callbacks: [3]\n"),
    wrong(TWO, "b.yaml", "Trainer", "trainer", b="Trainer:\n  max_epochs: 3\n"),
    wrong(TWO, "b.yaml", "maxepochs", "max_epochs", b="trainer:\n  maxepochs: 3\n"),
    wrong(TWO, "b.yaml", "max-epochs", "max_epochs", b="trainer:\n  max-epochs: 3\n"),
    wrong(TWO, "b.yaml", "trainer.max_epochs", "'3 epochs'", b="trainer:\n  max_epochs: 3 epochs\n"),
    wrong(TWO, "b.yaml", "trainer.max_epochs", "[3]", b="trainer:\n  max_epochs: [3]\n"),
    wrong(TWO, "b.yaml", "trainer.val_check_interval", "0", b="trainer:\n  val_check_interval: 0\n"),
    wrong(TWO, "b.yaml", "Infinity", b="trainer:\n  gradient_clip_val: Infinity\n"),
    wrong(
        TWO,
        "EarlyStopping",
        "'val_loss'",
        "val/loss",
        b="trainer:\n  callbacks:\n  - class_path: EarlyStopping\n    init_args: {monitor: val_loss}\n",
    ),
    wrong("test --ckpt_path folder.yaml", "folder.yaml", "folder", folder=None),
    wrong("test --ckpt_path b.yaml", "b.yaml", b=""),
    wrong("test --ckpt_path b.yaml", "b.yaml", b="just text\n"),
    wrong("fit --ckpt_path b.yaml", "b.yaml", b=b"\x89PNG\r\n\x1a\n" + bytes(2000)),
    wrong("plot landscape --ckpt_path b.yaml --output a.png", "b.yaml", "folder", b=None),
    wrong("export --ckpt_path b.yaml --output a.onnx", "b.yaml", "folder", b=None),
    wrong("export --ckpt_path x.ckpt --output b.yaml", "--output", "b.yaml", b=None),
]
