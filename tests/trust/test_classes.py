"""Which classes a file may name."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import lightning_optreg
from lightning_optreg.trust import Trust, UntrustedError

OURS = ("nets", "layers", "losses", "optimizers", "schedulers", "callbacks", "data", "loggers")


@pytest.mark.parametrize("package", OURS)
def test_every_part_of_this_package_may_be_named(package: str) -> None:
    module = importlib.import_module(f"lightning_optreg.{package}")
    found = 0
    for name in module.__all__:
        part = getattr(module, name)
        bases = {base.__name__ for base in inspect.getmro(part)} if inspect.isclass(part) else set()
        if bases & {
            "Module",
            "Optimizer",
            "LRScheduler",
            "Callback",
            "Logger",
            "LightningDataModule",
            "BatchTransform",
            "Views",
        }:
            assert Trust().find(f"{module.__name__}.{name}") == [part]
            found += 1
    assert found > 0


@pytest.mark.parametrize(
    "path",
    [
        "torch.nn.ReLU",
        "torch.nn.modules.activation.ReLU",
        "torch.optim.Adam",
        "torch.optim.lr_scheduler.OneCycleLR",
        "torchvision.models.resnet18",
        "torchvision.models.ResNet",
        "torchvision.ops.MLP",
        "torchmetrics.Accuracy",
        "lightning.pytorch.callbacks.ModelCheckpoint",
        "lightning.pytorch.loggers.CSVLogger",
        "lightning.pytorch.cli.ReduceLROnPlateau",
    ],
)
def test_what_may_be_named(path: str) -> None:
    assert len(Trust().find(path)) == 1


def test_a_refusal_lists_every_kind_that_may_be_named() -> None:
    kinds = "network, loss, optimizer, schedule, data module, transform, set of views, callback, logger"
    for path in ("torch.load", "torch.fx.GraphModule", "lightning_optreg.data.Pacing"):
        with pytest.raises(UntrustedError, match=f"is not a {kinds} or strategy that a file may name, so it"):
            Trust().find(path)


@pytest.mark.parametrize(
    "path",
    [
        "torch.load",
        "torch.hub.load",
        "torch.jit.load",
        "torch.jit.ScriptModule",
        "torch.compile",
        "torch.package.PackageImporter",
        "torch.fx.GraphModule",
        "torch.utils.cpp_extension.load",
        "torch.utils.model_zoo.load_url",
        "torch.multiprocessing.spawn",
        "torch.distributed.nn.RemoteModule",
        "torch.nn.parallel.DistributedDataParallel",
        "torch.nn.functional.relu",
        "torch.nn.init.normal_",
        "torch.nn.modules.module.torch",
        "torch.nn.modules.module.OrderedDict",
        "torch.optim.lr_scheduler.partial",
        "torch.optim.optimizer.Callable",
        "torch.os.system",
        "torch.nn.os.system",
        "torch.utils.data.dataset.subprocess",
        "torchvision.models.get_model",
        "torchvision.models.list_models",
        "torchvision.models._api.get_model_builder",
        "torchvision.models.detection.fcos_resnet50_fpn",
        "torchvision.models.resnet._resnet",
        "torchvision.models.resnet.WeightsEnum",
        "torchvision.datasets.CIFAR10",
        "torchvision.transforms.v2.Lambda",
        "torchmetrics.text.BERTScore",
        "torchmetrics.multimodal.CLIPScore",
        "lightning.pytorch.Trainer",
        "lightning.pytorch.trainer.os",
        "lightning.pytorch.cli.LightningCLI",
        "lightning.pytorch.cli.instantiate_module",
        "lightning.pytorch.loggers.MLFlowLogger",
        "lightning.pytorch.loggers.WandbLogger",
        "lightning.fabric.utilities.cloud_io.get_filesystem",
        "lightning_optreg.cli.save_config.SaveConfig",
        "lightning_optreg.cli.main_cli.run",
        "lightning_optreg.studies.runner.do_run",
        "lightning_optreg.data.datamodule.os",
        "lightning_optreg.__main__.main",
        "lightning_optreg",
        "subprocess.Popen",
        "builtins.eval",
        "os",
        "",
        "a b",
        "torch.nn.",
        "torch..nn",
    ],
)
def test_what_may_not(path: str) -> None:
    try:
        found = Trust(bare=True).find(path)
    except UntrustedError:
        return
    assert found == []  # a bare name that is no class's


def test_allow_is_checked_and_reaches_no_further() -> None:
    assert Trust(["torch"]).find("torch.hub.load")  # the user's word
    with pytest.raises(UntrustedError):
        Trust(["torch.nn.functional"]).find("torch.hub.load")
    with pytest.raises(UntrustedError):
        Trust(["torchv"]).find("torchvision.models.get_model")
    for wrong in ("os", "builtins", "a b", "", "subprocess.Popen"):
        with pytest.raises(ValueError, match="allow: "):
            Trust([wrong])


SOURCES = sorted(Path(lightning_optreg.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(SOURCES[0].parents[0])))
def test_the_package_itself_runs_no_data(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in (
            "eval",
            "exec",
            "yaml.load",
            "yaml.unsafe_load",
            "pickle.load",
            "pickle.loads",
            "os.system",
        )
        if called == "torch.load":
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            # vetted_checkpoint hands on what the caller has said
            assert given.get("weights_only") == (
                "weights_only" if path.name == "checkpoints.py" and path.parent.name == "trust" else "True"
            )
        if called == "np.load":
            assert any(
                word.arg == "allow_pickle" and ast.unparse(word.value) == "False" for word in node.keywords
            )
