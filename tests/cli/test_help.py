"""Help of Lightning's commands: a page at once, a part by its name, an option by its key, or all."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from lightning_optreg.__main__ import main
from lightning_optreg.cli.command_parser import command_parser
from lightning_optreg.cli.help.page import OPTIONS, page
from lightning_optreg.cli.help.part import arguments_of, find_class
from lightning_optreg.cli.help.short_names import names_of, parts, places

COMMANDS = ("fit", "validate", "test", "predict")
# What is not a setting, and what belongs to the class that another option names.
NO_SETTINGS = ("config", "print_config", "safe")
OF_A_CLASS = ("data.", "optimizer.")


def shown(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    assert main(list(words)) == status
    out, err = capsys.readouterr()
    assert (err if status == 0 else out) == ""
    return out or err


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_fits_on_a_screen(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = shown(capsys, command, "--help").splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 100
    assert sum(line.startswith("  --ckpt_path") for line in lines) == 1
    assert main([command, "--config", "no.yaml", "-h"]) == 0
    assert capsys.readouterr().out.splitlines() == lines


def test_the_page_names_parts_and_overlays() -> None:
    words = page("fit").replace(",", " ").split()
    assert {"LeNet5", "ResNet", "AdamW", "SWATS", "OneCycleLR", "MaxNorm", "max_norm", "ema"} <= set(words)
    assert "LeNet5" not in page("test")


def test_the_page_imports_nothing_heavy() -> None:
    code = (
        "import sys; from lightning_optreg.__main__ import main; main(['fit', '--help']);"
        "print([name for name in ('torch', 'lightning', 'numpy', 'jsonargparse') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("[]\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_the_page_is_one_with_that_default(command: str) -> None:
    parser = command_parser(command)
    defaults = parser.get_defaults(skip_validation=True)
    known = set(defaults.keys()) | {key.partition(".init_args")[0] for key in list(defaults.keys())}
    for option in OPTIONS:
        key = option.name.rstrip("+")
        if command not in option.commands or option.name in NO_SETTINGS:
            continue
        if key.startswith(OF_A_CLASS):
            place = key.partition(".")[0]
            name = "FashionMNISTDataModule" if place == "data" else "Adam"
            found = find_class(name)
            assert found is not None
            (action,) = [each for each in arguments_of(found[0], place) if each.dest == key]
            value = action.default
        else:
            assert key in known
            value = defaults.get(key)
        if option.default is not None:
            assert str(value).lower() == option.default, option.name


def test_every_short_name_is_a_class_of_its_module() -> None:
    for name, module, place in parts():
        found = find_class(name)
        assert found is not None, name
        assert isinstance(found[0], type), f"{module}.{name}"
        assert found[1] == place


def test_lists_of_torch_and_lightning_are_public_names() -> None:
    for place in places():
        for each in place.modules:
            if not each.own:
                module = __import__(each.module, fromlist=["__all__"])
                public = getattr(module, "__all__", dir(module))
                assert set(each.names) <= set(public), each.module


def test_a_part(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "fit", "--help", "ResNet")
    assert text.startswith("ResNet: The residual network")
    assert "--model.net.depth int " in text
    assert "Default: (1, 28, 28)." in " ".join(text.split())
    text = shown(capsys, "fit", "--help", "MaxNorm")
    assert "--trainer.callbacks+ MaxNorm" in text
    assert "--trainer.callbacks.max_norm float" in text
    text = shown(capsys, "test", "--help=FashionMNISTDataModule")
    assert "--data.batch_size int|full" in text
    assert "RandomHorizontalFlip" in text  # what --data.augment takes
    assert "--lr_scheduler.T_max" in shown(capsys, "fit", "--help", "CosineAnnealingLR")
    assert "params" not in shown(capsys, "fit", "--help", "Adam").split()
    assert "below init_args" in shown(capsys, "fit", "--help", "FGSM")


def test_a_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--model.net.num_classes int" in shown(capsys, "fit", "--help", "torchvision.models.resnet18")


def test_no_path_is_imported_with_safe(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "strange_module.py").write_text("raise SystemExit(7)")
    monkeypatch.syspath_prepend(tmp_path)
    assert "neither" in shown(capsys, "fit", "--safe", "--help", "strange_module.Net", status=2)
    assert "strange_module" not in sys.modules


def test_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "fit", "--help", "trainer.max_epochs")
    assert text.startswith("  --trainer.max_epochs int|null ")
    assert "--trainer.devices" not in text
    assert shown(capsys, "fit", "--help", "--trainer.max_epochs") == text
    text = shown(capsys, "fit", "--help", "trainer")
    assert {"--trainer.max_epochs", "--trainer.plugins"} <= set(text.split())
    assert "(default: runs)" in " ".join(text.split())
    assert "AirbenchNet, AlexNet" in " ".join(shown(capsys, "fit", "--help", "model.net").split())
    for word in ("config", "print_config", "safe"):
        assert f"--{word}" in shown(capsys, "fit", "--help", word)


def test_a_key_of_parts(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "fit", "--help", "model.net.depth")
    assert "ResNeXt:\n  --model.net.depth int|null" in text
    assert "LeNet5" not in text


def test_all(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "fit", "--help", "all")
    assert len(text.splitlines()) < 400
    words = text.replace(",", " ").replace(".", " ").split()
    assert words.count("AirbenchNet") == 1
    for internal in ("CarriedOnSchedule", "NonDynamicallyQuantizableLinear", "ResidualNetwork", "SUPPRESS"):
        assert internal not in text
    for option in ("--config", "--print_config", "--safe", "--allow", "--trainer.plugins", "--weights_only"):
        assert f"  {option} " in text
    assert "SGD(lr=0.1, momentum=0.9)" in text or "SGD, lr 0.1" in text


@pytest.mark.parametrize(
    ("name", "close"),
    [("ResNett", "ResNet"), ("optimzer.lr", "optimizer.lr"), ("trainer.max_epoch", "trainer.max_epochs")],
)
def test_an_unknown_name(name: str, close: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "fit", "--help", name, status=2)
    assert text.startswith(f"error: --help: {name!r} is neither a part nor an option; did you mean")
    assert close in text.partition("mean ")[2]
    assert text.count("\n") == 1


def test_names_of() -> None:
    assert names_of("trainer.max_epochs") == []
    assert "Adam" in names_of("optimizer")
    assert "Adam" not in names_of("optimizer", own=True)


OTHERS = ["attack", "configs", "describe", "export", "compare", "tune", "crossval"]
KINDS = ["surface", "dynamics", "landscape", "privacy", "scaling", "transport"]


@pytest.mark.parametrize("words", [*OTHERS, *(f"plot {kind}" for kind in KINDS)])
def test_the_help_of_other_commands(
    words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with suppress(SystemExit):  # of argparse's own help
        assert main([*words.split(), "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    usage, empty, *lines = out.splitlines()
    assert usage.startswith(f"usage: lightning-optreg {words} ")
    assert empty == ""  # the usage is one line
    assert max(map(len, lines)) <= 100
    assert not [line for line in lines if line.startswith("  -") and "  default:" in line]  # of what?
