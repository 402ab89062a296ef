"""A checkpoint is data: what it names is built only if it may be, and nothing else is imported."""

import argparse
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from lightning_optreg import ImageClassifier
from lightning_optreg.data import ImageDataModule
from lightning_optreg.nets import LeNet5
from lightning_optreg.trust import UntrustedError
from tests.trust.payloads import MODULE, PAYLOADS, SPOTS, Command, Trap, popen, spec

BUILDER = "lightning.pytorch.cli.instantiate_module"


@pytest.fixture(autouse=True)
def quiet_jsonargparse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning 2.6 calls methods that jsonargparse 4.53 deprecates."""
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trap:
    return Trap(tmp_path, monkeypatch)


def write(path: Path, hyperparameters: dict[str, Any], net: nn.Module | None = None, **more: Any) -> Path:
    """A checkpoint with these hyperparameters, as the command line would write it."""
    module = ImageClassifier(net or LeNet5())
    checkpoint = {
        "state_dict": module.state_dict(),
        "pytorch-lightning_version": "2.6.0",
        "global_step": 1,
        "hyper_parameters": {"_instantiator": BUILDER, **hyperparameters},
        **more,
    }
    torch.save(checkpoint, path)
    return path


@pytest.mark.parametrize("spot", SPOTS)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_strange_is_built_or_imported(payload: str, spot: str, trap: Trap) -> None:
    path = write(trap.folder / "a.ckpt", SPOTS[spot](PAYLOADS[payload](trap)))
    if payload == "only a path" and spot in ("an untyped argument", "a list", "a mapping"):
        with pytest.raises(
            ValueError, match=r"must be torch\.d|Invalid device"
        ):  # it is text there, and no device
            ImageClassifier.load_from_checkpoint(path)
    else:
        with pytest.raises(UntrustedError, match=r"a\.ckpt"):
            ImageClassifier.load_from_checkpoint(path)
    assert not trap.was_sprung
    assert MODULE not in sys.modules


OTHER_SPOTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "the class of the module": lambda payload: {
        "hyper_parameters": {"_instantiator": BUILDER, "_class_path": MODULE + ".Net"}
    },
    "the builder": lambda payload: {
        "hyper_parameters": {"_instantiator": "subprocess.Popen", "args": payload}
    },
    "an old key": lambda payload: {
        "hyper_parameters": {"_instantiator": BUILDER},
        "hparams": {"net": payload},
    },
    "an older key": lambda payload: {
        "hyper_parameters": {},
        "module_arguments": {"_instantiator": BUILDER, "net": payload},
    },
    "a key that nobody knows": lambda payload: {
        "hyper_parameters": {"_instantiator": BUILDER, "more": payload}
    },
    "the kind of the hyperparameters": lambda payload: {"hparams_type": 3},
    "no mapping": lambda payload: {"hyper_parameters": [payload]},
}


@pytest.mark.parametrize("spot", OTHER_SPOTS)
def test_other_parts_of_a_checkpoint(spot: str, trap: Trap) -> None:
    path = write(trap.folder / "a.ckpt", {}, **OTHER_SPOTS[spot](popen(trap)))
    with pytest.raises(UntrustedError, match=r"a\.ckpt"):
        ImageClassifier.load_from_checkpoint(path)
    assert not trap.was_sprung
    assert MODULE not in sys.modules


def test_a_settings_file_beside_the_checkpoint_is_not_read(trap: Trap) -> None:
    file = str(trap.folder / "settings.yaml")
    path = write(trap.folder / "a.ckpt", {"net": file})
    with pytest.raises(UntrustedError, match=r"net: .*settings\.yaml' is a file"):
        ImageClassifier.load_from_checkpoint(path)
    assert not trap.was_sprung


def test_a_loop_of_values_ends(trap: Trap) -> None:
    loop: list[Any] = []
    loop.append(loop)
    path = write(trap.folder / "a.ckpt", {"net": spec("torch.nn.Linear", device=loop)})
    with pytest.raises(argparse.ArgumentError):
        ImageClassifier.load_from_checkpoint(path)


def test_a_message_names_file_key_class_and_the_way_out(trap: Trap) -> None:
    path = write(trap.folder / "a.ckpt", {"net": spec(f"{MODULE}.Net")})
    with pytest.raises(UntrustedError) as raised:
        ImageClassifier.load_from_checkpoint(path)
    assert str(raised.value) == (
        f"'{path}': net: {MODULE}.Net is not of lightning_optreg, Lightning, torch, torchvision or "
        f'torchmetrics, so nothing of it is imported or built (allow=["{MODULE}"] trusts all of it)'
    )


NETS: dict[str, tuple[dict[str, Any], Callable[[], nn.Module]]] = {
    "ours": (spec("lightning_optreg.nets.LeNet5"), LeNet5),
    "torchvision's function": (spec("torchvision.models.squeezenet1_1"), torchvision.models.squeezenet1_1),
}


@pytest.mark.parametrize("name", NETS)
def test_what_may_be_built_is(name: str, tmp_path: Path) -> None:
    described, make = NETS[name]
    more = {
        "loss": spec("torch.nn.CrossEntropyLoss"),
        "optimizer": spec("torch.optim.AdamW", lr=0.01),
        "lr_scheduler": spec("torch.optim.lr_scheduler.StepLR", step_size=3),
    }
    net = make()
    path = write(tmp_path / "a.ckpt", {"net": described, **more}, net)
    for file in (path, str(path), io.BytesIO(path.read_bytes())):
        module = ImageClassifier.load_from_checkpoint(file, map_location="cpu")
        assert type(module.net) is type(net)
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), module.net.parameters(), strict=True))


def test_a_package_of_the_users_own_is_built_if_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "package_of_a_test.py").write_text(
        "import os\nfrom torch import nn\nfrom lightning_optreg.nets import LeNet5\nclass Own(LeNet5): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    path = write(tmp_path / "a.ckpt", {"net": spec("package_of_a_test.Own")})
    module = ImageClassifier.load_from_checkpoint(path, allow=["package_of_a_test"])
    assert type(module.net).__name__ == "Own"
    for strange in ("package_of_a_test.os.system", "package_of_a_test.nn.ReLU"):
        path = write(tmp_path / "b.ckpt", {"net": spec(strange)})
        with pytest.raises(UntrustedError, match=strange):
            ImageClassifier.load_from_checkpoint(path, allow=["package_of_a_test"])
    with pytest.raises(ValueError, match="allow: os is a part of Python"):
        ImageClassifier.load_from_checkpoint(path, allow=["os"])


def test_arguments_in_python_take_the_place_of_the_checkpoints(trap: Trap) -> None:
    path = write(trap.folder / "a.ckpt", {"net": popen(trap)})
    path.write_bytes(path.read_bytes())
    module = ImageClassifier.load_from_checkpoint(path, net=LeNet5())
    assert isinstance(module.net, LeNet5)
    assert not trap.was_sprung


def test_hyperparameters_from_a_file_are_looked_through_too(trap: Trap) -> None:
    path = write(trap.folder / "a.ckpt", {"net": spec("lightning_optreg.nets.LeNet5")})
    file = trap.folder / "hparams.yaml"
    file.write_text(f"_instantiator: {BUILDER}\nnet: {{class_path: {MODULE}.Net}}\n")
    with pytest.raises(UntrustedError, match=r"hparams\.yaml': net: "):
        ImageClassifier.load_from_checkpoint(path, hparams_file=file)
    file.write_text("net: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ValueError, match="not YAML of plain values"):
        ImageClassifier.load_from_checkpoint(path, hparams_file=file)
    assert not trap.was_sprung


def test_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    for arguments in ({"weights": "DEFAULT"}, {"pretrained": True}):
        path = write(
            tmp_path / "a.ckpt",
            {"net": {"class_path": "torchvision.models.resnet18", "dict_kwargs": arguments}},
        )
        with pytest.raises(UntrustedError, match=r"net\.\w+: .* would be downloaded"):
            ImageClassifier.load_from_checkpoint(path)


class Data(ImageDataModule):
    """A data module that keeps its arguments."""

    class_names, image_shape = ("a", "b"), (1, 4, 4)

    def __init__(self, data_dir: str | None = None, *, anything: Any = None) -> None:
        super().__init__(data_dir)
        self.save_hyperparameters()


def test_data_modules_are_built_as_carefully(trap: Trap) -> None:
    path = trap.folder / "a.ckpt"
    hyperparameters = {"_instantiator": BUILDER, "anything": popen(trap)}
    torch.save(
        {
            "state_dict": {},
            "pytorch-lightning_version": "2.6.0",
            "datamodule_hyper_parameters": hyperparameters,
        },
        path,
    )
    with pytest.raises(UntrustedError, match=r"a\.ckpt': anything: subprocess\.Popen"):
        Data.load_from_checkpoint(path)
    assert not trap.was_sprung


def test_pickled_objects_are_refused_without_torchs_advice(trap: Trap) -> None:
    path = trap.folder / "a.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": {"net": Command(trap.mark)}}, path)
    with pytest.raises(ValueError, match=r"it holds \w+\.system, and reading that could run code") as raised:
        ImageClassifier.load_from_checkpoint(path)
    assert "weights_only" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert not trap.was_sprung


@pytest.mark.parametrize("opened", [False, True], ids=["a path", "an open file"])
def test_a_damaged_file_is_not_loaded(opened: bool, tmp_path: Path) -> None:
    """torch itself reads a file with a changed byte of a weight."""
    net = LeNet5()
    path = write(tmp_path / "a.ckpt", {"net": spec("lightning_optreg.nets.LeNet5")}, net)
    content = path.read_bytes()
    weight = net.state_dict()["c1.weight"].numpy().tobytes()
    place = content.index(weight)
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    torch.load(path, weights_only=True)
    with pytest.raises(ValueError, match=r"is damaged \(Bad CRC-32"):
        ImageClassifier.load_from_checkpoint(io.BytesIO(path.read_bytes()) if opened else path)
