"""The parser's messages: what jsonargparse says, boiled down; each piece alone."""

from pathlib import Path

import pytest
from torch import nn

from lightning_optreg.cli.config_files import check_config
from lightning_optreg.cli.explain import init_arguments
from lightning_optreg.cli.given import chosen, file_of, typed
from lightning_optreg.cli.messages import boil_down, cause
from lightning_optreg.cli.parser import Parser
from lightning_optreg.nets import MLP, Network

NESTED = """Parser key "data":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'lightning.pytorch.core.datamodule.LightningDataModule'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'lightning_optreg.data.FashionMNISTDataModule':
        Parser key "augment":
          Does not validate against any of the Union subtypes
          Subtypes: [list[lightning_optreg.data.transforms.base.BatchTransform], <class 'NoneType'>]
          Errors:
            - Problem with given class_path 'lightning_optreg.data.RandomCrop':
                Parser key "padding":
                  Expected a <class 'int'>. Got value: q
            - Expected a <class 'NoneType'>
          Given value type: <class 'list'>
          Given value: [{'class_path': 'RandomCrop', 'init_args': {'padding': 'q'}}]
    - Expected a <class 'NoneType'>
  Given value type: <class 'dict'>
  Given value: {'class_path': 'FashionMNISTDataModule'}"""


def test_a_nested_cause() -> None:
    found = cause(NESTED)
    assert found.key == "data.augment.padding"
    assert found.class_path == "lightning_optreg.data.RandomCrop"
    assert found.allowed == ("int",)
    assert found.value == "q"
    assert found.text == ""


def test_a_plain_message_stays() -> None:
    assert boil_down("ResNet: depth must be 8, got 7\n") == "ResNet: depth must be 8, got 7"


def test_a_union_without_a_text_stays() -> None:
    message = "Does not validate against any of the Union subtypes\nErrors:\n  - Expected a <class 'int'>"
    assert boil_down(message) == message


def test_init_arguments_leave_out_what_the_program_gives() -> None:
    import torch

    assert init_arguments(MLP) == [
        "num_classes",
        "input_shape",
        "hidden",
        "activation",
        "dropout",
        "drop_connect",
        "batch_norm",
    ]
    assert "params" not in init_arguments(torch.optim.SGD)
    assert "lr" in init_arguments(torch.optim.SGD)
    assert init_arguments(torch.optim.lr_scheduler.StepLR) == ["step_size", "gamma", "last_epoch"]


def test_the_file_of_a_key(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("model:\n  net: {class_path: ResNet, init_args: {depth: 8}}\ntrainer: {max_epochs: 3}\n")
    second.write_text("trainer:\n  callbacks+:\n  - {class_path: A, init_args: {monitor: x}}\n")
    argv = ["fit", "--config", str(first), f"--config={second}", "--trainer.max_epochs", "5"]
    assert file_of(argv, "model.net.depth") == str(first)
    assert file_of(argv, "trainer.callbacks.monitor") == str(second)
    assert file_of(argv, "trainer.max_epochs") is None
    assert file_of(argv, "trainer.devices") is None


def test_right_files_are_read_as_before(tmp_path: Path) -> None:
    texts = {
        "anchor": b"model: &n {net: {class_path: LeNet5}}\nagain: *n\n",
        "merge": b"one: &one {a: 1, b: 2}\ntwo:\n  <<: *one\n  b: 3\n",
        "bom": b"\xef\xbb\xbftrainer: {max_epochs: 3}\n",
        "crlf": b"trainer:\r\n  max_epochs: 3\r\n",
        "json": b'{"trainer": {"max_epochs": 3}}',
        "other encoding in words": "# caf\u00e9\ntrainer: {max_epochs: 3}\n".encode(),
        "init_args alone": b"optimizer: {init_args: {lr: 1}}\n",
    }
    for name, text in texts.items():
        path = tmp_path / "file.yaml"
        path.write_bytes(text)
        check_config(path, name, {"trainer": ["max_epochs"]})


def test_what_was_typed_and_what_was_chosen(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text("model: {net: {class_path: MLP}}\n")
    argv = ["fit", "--config", str(file), "--trainer.max_epochs=1e2", "--trainer.max_epochs", "x"]
    assert typed(argv, "trainer.max_epochs") == "x"
    assert typed(argv, "model.net") is None
    assert chosen(argv, "model.net") == "MLP"
    assert chosen([*argv, "--model.net=ResNet"], "model.net") == "ResNet"


def parser() -> Parser:
    made = Parser()
    made.add_argument("--net", type=Network | nn.Module)
    made.add_argument("--epochs", type=int, default=1)
    return made


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--epoch", "3"], "unknown option --epoch; did you mean --epochs?"),
        (["--epochs", "x"], "epochs: must be int, got 'x'"),
        (
            ["--net", "LeNet"],
            "net: 'LeNet' is not a known Network; did you mean LeNet5 or AlexNet or ResNet?",
        ),
        (["--net", "LeNet5", "--net.pol=max"], "net.pol: LeNet5 has no argument 'pol'; did you mean pool?"),
        (
            ["--net", "LeNet5", "--net.pool=min"],
            "net.pool (of LeNet5): must be max, average or trainable, got 'min'",
        ),
        (["--net", "torch.nn.Linear"], "net: Linear needs in_features, out_features"),
        (["--net", "torch.optim.SGD"], "net: 'torch.optim.SGD' is not a known Network"),
    ],
)
def test_a_mistake_is_one_line(argv: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parser().parse_args(argv)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {line}")
    assert err.count("\n") == 1


def test_where_exits_are_not_wanted_it_raises() -> None:
    from jsonargparse import ArgumentError

    made = Parser(exit_on_error=False)
    made.add_argument("--epochs", type=int)
    with pytest.raises(ArgumentError, match="epochs"):
        made.parse_args(["--epochs", "x"])
