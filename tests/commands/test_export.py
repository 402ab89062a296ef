import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningCLI
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_optreg import ImageClassifier
from lightning_optreg.__main__ import main
from lightning_optreg.data import ImageDataModule, ImageSet, RandomCrop, RandomHorizontalFlip, Source
from lightning_optreg.export import export_onnx
from lightning_optreg.export.onnx_file import OPSET
from lightning_optreg.layers import DropConnect, Dropout, GaussianNoise, NoiseLayer
from lightning_optreg.nets import MLP, EnResNet, LeNet5, ResNet

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


IMAGES = DataLoader(TensorDataset(torch.zeros(1, 1, 28, 28), torch.zeros(1, dtype=torch.int64)))


def run(path: Path, images: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"images": images.numpy()})
    return torch.from_numpy(scores)


@pytest.mark.slow
def test_any_number_of_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = ResNet(depth=8, input_shape=(3, 16, 16))
    net(torch.randn(8, 3, 16, 16))  # the running means are no longer 0
    module = ImageClassifier(net, channels_last=True, compile=True)
    path = tmp_path / "new" / "net.onnx"
    difference = export_onnx(module, path)
    assert difference is not None
    assert difference < 1e-4
    assert [file.name for file in path.parent.iterdir()] == ["net.onnx"]
    assert all(part.training for part in net.modules())
    net.eval()
    for count in (1, 2, 7):
        images = torch.randn(count, 3, 16, 16)
        torch.testing.assert_close(run(path, images), module(images), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_other_precision_and_no_check(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).bfloat16()
    assert export_onnx(net, tmp_path / "a.onnx", input_shape=(1, 2, 2), check=False) is None
    assert next(net.parameters()).dtype == torch.bfloat16
    images = torch.randn(3, 1, 2, 2)
    torch.testing.assert_close(run(tmp_path / "a.onnx", images), net.float()(images))


class Moody(nn.Module):
    """Gives other scores each time."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.layer(x.flatten(1))
        return scores + torch.rand_like(scores)


def test_a_file_that_differs_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_text("older")
    with pytest.raises(
        RuntimeError, match=r"export_onnx: the file's scores differ from the network's by "
    ) as error:
        export_onnx(Moody(), path, input_shape=(1, 2, 2))
    assert "the network (Moody) draws random numbers in evaluation" in str(error.value)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("net.onnx", "older")]


class Drawn(nn.Module):
    """Draws from a generator of its own, which cannot be exported."""

    def __init__(self) -> None:
        super().__init__()
        self.own = torch.Generator()

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) + torch.rand(len(x), 4, generator=self.own)


def averaging(layer: NoiseLayer) -> nn.Module:
    layer.sampling = True
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 64), layer, nn.ReLU(), nn.Linear(64, 2))


def averaged_weights() -> nn.Module:
    return nn.Sequential(nn.Flatten(), DropConnect(4, 8, samples=50))


def noisy_resnet() -> nn.Module:
    return EnResNet(input_shape=(1, 2, 2), noise_at_test=True)


@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (lambda: nn.Sequential(nn.Identity(), Drawn()), r"1 \(Drawn\)"),
        pytest.param(averaged_weights, r"1 \(DropConnect\)", marks=pytest.mark.slow),
        pytest.param(lambda: averaging(GaussianNoise(1.0)), r"2 \(GaussianNoise\)", marks=pytest.mark.slow),
        pytest.param(lambda: averaging(Dropout(0.5)), r"2 \(Dropout\)", marks=pytest.mark.slow),
        pytest.param(noisy_resnet, r"\S+ \(\w+\)", marks=pytest.mark.slow),
    ],
)
def test_a_network_that_draws_in_evaluation_is_named(make: Any, layer: str, tmp_path: Path) -> None:
    with pytest.raises(
        RuntimeError, match=rf"^export_onnx: .*: {layer} draws random numbers in evaluation"
    ) as error:
        export_onnx(make(), tmp_path / "net.onnx", input_shape=(1, 2, 2))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_lazy_layers_are_called_before(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="Sequential has lazy layers without a size; call it once"):
        export_onnx(nn.Sequential(nn.Flatten(), nn.LazyLinear(2)), tmp_path / "a.onnx", input_shape=(1, 2, 2))


# ---- what the images are -----------------------------------------------------------------------------------


class Colours(ImageDataModule):
    class_names, image_shape = ("a", "b"), (3, 4, 4)

    def locate(self, *, download: bool) -> Source:
        images = torch.randint(
            0, 256, (20, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
        )
        images[:, 1] //= 3
        return Source("colours", {"train": []}, lambda part: ImageSet(images, torch.arange(20) % 2))


def preprocessing(**options: Any) -> tuple[Colours, dict[str, Any]]:
    data = Colours(**options)
    assert data.preprocessing() is None
    data.setup("fit")
    said = data.preprocessing()
    assert said is not None
    assert data.state_dict()["preprocessing"] == said
    return data, said


def test_datamodules_say_how_images_are_normalised() -> None:
    data, said = preprocessing(augment=[RandomHorizontalFlip(), RandomCrop(2, padding=0)])
    assert data.statistics is not None
    assert said == {
        "normalize": "mean_std",
        "mean": data.statistics.mean.tolist(),
        "std": data.statistics.std.tolist(),
        "evaluation": [repr(RandomCrop(2, padding=0))],
    }
    assert set(preprocessing(normalize="mean")[1]) == {"normalize", "mean", "evaluation"}
    assert preprocessing(normalize="none")[1] == {"normalize": "none", "evaluation": []}
    data = Colours(normalize="mean_image")
    data.setup("fit")
    assert data.statistics is not None
    assert torch.equal((data.preprocessing() or {})["mean_image"], data.statistics.mean_image)


@pytest.mark.slow
def test_the_file_says_how_images_are_normalised_and_can_do_it(tmp_path: Path) -> None:
    data, said = preprocessing()
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    images = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    expected = net(data.pipeline.evaluate(images))
    for from_pixels in (True, False):
        path = tmp_path / f"{from_pixels}.onnx"
        export_onnx(net, path, input_shape=(3, 4, 4), preprocessing=said, from_pixels=from_pixels)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        metadata = session.get_modelmeta().custom_metadata_map
        assert {key: json.loads(metadata[key]) for key in said} == said
        assert metadata["input"] == ("uint8 pixels" if from_pixels else "normalised")
        mean, std = (torch.tensor(json.loads(metadata[key])).view(-1, 1, 1) for key in ("mean", "std"))
        given = images if from_pixels else (images / 255 - mean) / std
        torch.testing.assert_close(run(path, given), expected, rtol=1e-4, atol=1e-4)
    assert [(part.domain, part.version) for part in onnx.load(path).opset_import if part.domain == ""] == [
        ("", OPSET)
    ]
    documentation = Path(__file__).parents[2] / "docs" / "export.md"
    assert f"opset {OPSET}" in documentation.read_text()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (None, "from_pixels needs preprocessing"),
        ({"normalize": "mean_image", "evaluation": []}, "from_pixels does not work with a mean image"),
        (
            {"normalize": "none", "evaluation": ["PerImageStandardization()"]},
            "does not work with PerImageStandardization",
        ),
    ],
)
def test_normalisation_that_cannot_be_in_the_file(said: Any, message: str, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    with pytest.raises(ValueError, match=message):
        export_onnx(net, tmp_path / "a.onnx", input_shape=(3, 4, 4), preprocessing=said, from_pixels=True)
    assert not list(tmp_path.iterdir())


class Branching(nn.Module):
    """What it does depends on the values of the images."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


def test_a_network_that_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^export_onnx: Branching can't be exported: .+") as error:
        export_onnx(Branching(), tmp_path / "net.onnx", input_shape=(1, 2, 2))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("shape", "message"), [(None, "has no input_shape"), ((28, 28), "must be"), ((1, 0, 2), "must be")]
)
def test_wrong_shapes(shape: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        export_onnx(nn.Flatten(), tmp_path / "net.onnx", input_shape=shape)


def test_missing_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    hidden = {"onnxscript", "onnxruntime"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in hidden else find(name))
    with pytest.raises(ModuleNotFoundError) as error:
        export_onnx(MLP(), tmp_path / "net.onnx")
    assert str(error.value) == (
        "export_onnx: onnxscript and onnxruntime missing: pip install lightning-optreg[onnx]"
    )


@pytest.fixture(autouse=True, scope="module")
def quiet_jsonargparse() -> Iterator[None]:
    """Lightning 2.6 calls methods that jsonargparse 4.53 deprecates."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a checkpoint as the command line writes it."""
    root = tmp_path_factory.mktemp("runs")
    arguments = ["--model.net=LeNet5", "--model.net.num_classes=4", "--model.num_classes=4"]
    options = {
        "logger": False,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "default_root_dir": str(root),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["pytest"])
        cli = LightningCLI(
            ImageClassifier,
            run=False,
            seed_everything_default=False,
            args=arguments,
            save_config_callback=None,
            auto_configure_optimizers=False,
            trainer_defaults=options,
        )
    cli.trainer.validate(cli.model, IMAGES, verbose=False)
    cli.trainer.save_checkpoint(root / "version_0" / "checkpoints" / "best.ckpt")
    return root


def test_command(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "net.onnx"
    status = main(["export", "--ckpt_path", "best", "--default_root_dir", str(runs), "--output", str(output)])
    assert status == 0
    said = f"{output}: images (N, 1, 28, 28) -> scores (N, 4); differs from the checkpoint by "
    assert capsys.readouterr().out.startswith(said)
    module = ImageClassifier.load_from_checkpoint(runs / "version_0" / "checkpoints" / "best.ckpt")
    images = torch.randn(3, 1, 28, 28)
    torch.testing.assert_close(run(output, images), module.eval()(images), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_command_says_what_the_images_are(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, path = str(tmp_path / "net.onnx"), runs / "version_0" / "checkpoints" / "best.ckpt"
    assert main(["export", "--ckpt_path", str(path), "--output", output, "--from_pixels"]) == 2
    assert "does not say how its images are normalised" in capsys.readouterr().err
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["FashionMNISTDataModule"] = {
        "seed": 0,
        "preprocessing": {"normalize": "mean_std", "mean": [0.25], "std": [0.5], "evaluation": []},
    }
    torch.save(checkpoint, tmp_path / "new.ckpt")
    new = str(tmp_path / "new.ckpt")
    assert main(["export", "--ckpt_path", new, "--output", output, "--from_pixels"]) == 0
    said = "opset 18; takes uint8 pixels; normalize mean_std of pixels on [0, 1]: mean [0.25], std [0.5]"
    assert said in capsys.readouterr().out
    module = ImageClassifier.load_from_checkpoint(path)
    pixels = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    expected = module.eval()((pixels / 255 - 0.25) / 0.5)
    torch.testing.assert_close(run(Path(output), pixels), expected, rtol=1e-4, atol=1e-4)


def test_command_with_wrong_arguments(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(*arguments: str) -> str:
        status = main(["export", *arguments])
        assert status == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert said.count("\n") == 1
        return said

    output = str(tmp_path / "net.onnx")
    assert "--output" in error("--ckpt_path", "best")
    assert "'missing.ckpt'" in error("--ckpt_path", "missing.ckpt", "--output", output)
    assert "ckpt_path=last" in error(
        "--ckpt_path", "last", "--default_root_dir", str(runs), "--output", output
    )
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(b"PK")
    assert "is not a checkpoint" in error("--ckpt_path", str(broken), "--output", output)
    trainer = Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, default_root_dir=tmp_path)
    trainer.validate(ImageClassifier(LeNet5()), IMAGES, verbose=False)
    trainer.save_checkpoint(tmp_path / "python.ckpt")
    assert "does not say how its network is built" in error(
        "--ckpt_path", str(tmp_path / "python.ckpt"), "--output", output
    )
    assert not Path(output).exists()
