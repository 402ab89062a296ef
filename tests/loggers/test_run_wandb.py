"""What Weights & Biases is told, read from the records of offline runs."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_optreg.__main__ import main
from lightning_optreg.callbacks.records.histograms import Histograms
from lightning_optreg.loggers import RunCSVLogger, RunWandbLogger, log_config
from tests.small_runs import quiet_trainer

pytestmark = pytest.mark.usefixtures("blank_curves")

wandb = pytest.importorskip("wandb")

OVERLAYS = Path(__file__).parents[2] / "configs" / "methods"

CONFIG: dict[str, Any] = {
    "seed_everything": 7,
    "optimizer": {
        "class_path": "torch.optim.SGD",
        "init_args": {"lr": 0.1, "momentum": 0.9, "nesterov": False},
    },
    "model": {"net": {"class_path": "ResNet", "init_args": {"depth": 20, "input_shape": [1, 28, 28]}}},
    "trainer": {
        "max_epochs": 2,
        "callbacks": [{"class_path": "ModelCheckpoint", "init_args": {"mode": "min"}}],
    },
    "ckpt_path": None,
}


def records(run_folder: Path) -> Iterator[Any]:
    """The protobuf records of a `.wandb` file: a LevelDB log, which cuts long records into chunks."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = run_folder.glob("*.wandb")
    data, position, pending = path.read_bytes(), 7, b""  # 7 bytes of file header
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:  # a block's end too short for a chunk's header
            position += left
            continue
        length = int.from_bytes(data[position + 4 : position + 6], "little")
        if position + 7 + length > len(data):
            return  # it is still being written
        kind = data[position + 6]  # 1 whole, 2 first, 3 middle, 4 last
        pending += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield Record.FromString(pending)
            pending = b""


def nest(values: dict[str, Any], items: Any) -> dict[str, Any]:
    """Put items with keys of several parts into nested dictionaries."""
    for item in items:
        at = values
        *path, last = item.nested_key or [item.key]
        for key in path:
            at = at.setdefault(key, {})
        at[last] = json.loads(item.value_json)
    return values


class Run:
    """One offline run as W&B would show it."""

    def __init__(self, folder: Path) -> None:
        self.config: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.artifacts: list[Any] = []
        self.is_complete = False
        for record in records(folder):
            match record.WhichOneof("record_type"):
                case "run":
                    self.id = record.run.run_id
                    nest(self.config, record.run.config.update)
                case "config":
                    nest(self.config, record.config.update)
                case "history":
                    self.history.append(nest({}, record.history.item))
                case "artifact":
                    self.artifacts.append(record.artifact)
                case "exit":
                    self.is_complete = True

    def values(self, name: str) -> list[Any]:
        return [row[name] for row in self.history if name in row]


def runs(folder: Path) -> list[Run]:
    """The runs below a folder, oldest first; wandb's own process may still be writing the last of them."""
    deadline = time.monotonic() + 30
    while True:
        found = [Run(path) for path in sorted(folder.glob("wandb/offline-run-*"))]
        if all(run.is_complete for run in found):
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"a run below {folder} has no last record")
        time.sleep(0.02)


class Model(LightningModule):
    """Its hyperparameters bear a name that the configuration has too."""

    def __init__(self, optimizer: str = "of the module") -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Linear(3, 2)

    @override
    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.net(batch).square().mean()
        self.log("train/loss", loss)
        return loss

    @override
    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val/loss", self.net(batch).square().mean())

    @override
    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("test/loss", self.net(batch).square().mean())

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.net.parameters(), lr=0.01)


def loader() -> DataLoader[Tensor]:
    return DataLoader(torch.ones(8, 3), batch_size=2)  # type: ignore[arg-type]


def make_trainer(folder: Path, *loggers: Any, callbacks: Sequence[Callback] = (), **settings: Any) -> Trainer:
    checkpoint = ModelCheckpoint(folder / "checkpoints", monitor="val/loss", save_last=True)
    return quiet_trainer(
        enable_checkpointing=True,
        logger=list(loggers),
        callbacks=[checkpoint, *callbacks],
        num_sanity_val_steps=0,
        **{"max_epochs": 2, **settings},
    )


def fit(trainer: Trainer, ckpt_path: Path | None = None) -> None:
    log_config(trainer.loggers, CONFIG)
    trainer.fit(Model(), loader(), loader(), ckpt_path=ckpt_path, weights_only=True)
    wandb.finish()


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    start_afresh()
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staged"))  # copies of artifacts until the upload
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "settings"))
    yield
    start_afresh()


def start_afresh() -> None:
    """Make wandb forget its run and its settings, which it reads from the environment only once a process."""
    wandb.finish()
    wandb.teardown()


def test_fit_sends_configuration_history_gradients_and_the_best_checkpoint(tmp_path: Path) -> None:
    logger = RunWandbLogger(tmp_path, project="proof")
    trainer = make_trainer(tmp_path, logger, callbacks=[Histograms(of="all", every_n_steps=3)])
    fit(trainer)
    (run,) = runs(tmp_path)

    # The module's own hyperparameter `optimizer` is not written over the configuration's.
    assert {key: run.config[key] for key in CONFIG} == CONFIG

    assert len(run.values("train/loss")) == 8
    assert len(run.values("val/loss")) == 2
    at = [row["trainer/global_step"] for row in run.history if "train/loss" in row]
    assert at == list(range(8))

    for kind in ("gradients", "parameters"):
        shown = [row for row in run.history if f"{kind}/net.weight" in row]
        assert [row["trainer/global_step"] for row in shown] == [2, 5]
        for row in shown:
            assert row[f"{kind}/net.weight"]["_type"] == "histogram"
            assert sum(row[f"{kind}/net.weight"]["values"]) == 6  # as many as the weight has entries

    assert run.artifacts
    assert {artifact.type for artifact in run.artifacts} == {"model"}
    (best,) = [artifact for artifact in run.artifacts if "best" in artifact.aliases]
    checkpoint = trainer.checkpoint_callback
    assert isinstance(checkpoint, ModelCheckpoint)
    assert json.loads(best.metadata)["original_filename"] == Path(checkpoint.best_model_path).name
    (file,) = best.manifest.contents
    assert Path(file.local_path).read_bytes() == Path(checkpoint.best_model_path).read_bytes()


class Rising(Model):
    """Its first epoch is its best."""

    @override
    def on_validation_epoch_end(self) -> None:
        self.log("val/loss", float(self.current_epoch + 1))

    @override
    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        pass


@pytest.mark.parametrize(
    ("first", "log_model"),
    [("best", True), pytest.param("last", True, marks=pytest.mark.slow), ("last", "all")],
)
def test_best_is_what_the_monitored_callback_calls_so_and_latest_the_last(
    first: str, log_model: Any, tmp_path: Path
) -> None:
    """Two epochs, a kill, and a third: its process has no better checkpoint than the one on disk."""

    def trainer(epochs: int, name: str) -> Trainer:
        both = [
            ModelCheckpoint(tmp_path / "kept", filename="best", monitor="val/loss"),
            ModelCheckpoint(tmp_path / "kept", filename="last", enable_version_counter=False),
        ]
        another = ModelCheckpoint(tmp_path / "kept", filename="{epoch}", monitor="train/loss", mode="max")
        made = make_trainer(tmp_path, RunWandbLogger(tmp_path / name, log_model=log_model), max_epochs=epochs)
        made.callbacks = [one for one in made.callbacks if not isinstance(one, ModelCheckpoint)]
        made.callbacks += [*(both if first == "best" else both[::-1]), another]
        return made

    trainer(2, "begun").fit(Rising(), loader(), loader())
    wandb.finish()
    trainer(3, "resumed").fit(Rising(), loader(), loader(), ckpt_path=tmp_path / "kept" / "last.ckpt")
    wandb.finish()
    for name in ("begun", "resumed"):
        (run,) = runs(tmp_path / name)
        at: dict[str, str] = {}
        for artifact in run.artifacts:  # an alias stays where it was given last
            at |= dict.fromkeys(artifact.aliases, json.loads(artifact.metadata)["original_filename"])
        assert at == {"best": "best.ckpt", "latest": "last.ckpt"}, name


def test_no_alias_best_where_nothing_is_compared(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, RunWandbLogger(tmp_path), max_epochs=1)
    trainer.checkpoint_callback.monitor = None  # type: ignore[union-attr]
    fit(trainer)
    (run,) = runs(tmp_path)
    assert {alias for artifact in run.artifacts for alias in artifact.aliases} == {"latest"}


def test_no_artifact_unless_asked_for(tmp_path: Path) -> None:
    fit(make_trainer(tmp_path, RunWandbLogger(tmp_path, log_model=False)))
    (run,) = runs(tmp_path)
    assert not run.artifacts


@pytest.mark.parametrize("first", ["csv", pytest.param("wandb", marks=pytest.mark.slow)])
def test_resumed_in_the_same_folder_it_is_the_same_run(first: str, tmp_path: Path) -> None:
    def loggers() -> list[Any]:
        both = [RunCSVLogger(tmp_path), RunWandbLogger(tmp_path)]
        return both if first == "csv" else both[::-1]

    fit(make_trainer(tmp_path, *loggers(), max_epochs=1))
    last = tmp_path / "checkpoints" / "last.ckpt"
    fit(make_trainer(tmp_path, *loggers(), max_epochs=2), ckpt_path=last)
    fit(make_trainer(tmp_path, *loggers(), max_epochs=3), ckpt_path=last)

    begun, *resumed = runs(tmp_path)
    assert [run.id for run in resumed] == [begun.id] * 2
    assert [run.values("trainer/global_step")[0] for run in (begun, *resumed)] == [0, 4, 8]
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 1 + 3 * (4 + 1)


def test_a_test_afterwards_joins_the_run(tmp_path: Path) -> None:
    fit(make_trainer(tmp_path, RunWandbLogger(tmp_path)))
    trainer = make_trainer(tmp_path, RunWandbLogger(tmp_path))
    trainer.test(Model(), loader(), verbose=False)
    wandb.finish()
    fitted, tested = runs(tmp_path)
    assert tested.id == fitted.id
    assert len(tested.values("test/loss")) == 1


def test_fit_twice_in_one_process(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, RunWandbLogger(tmp_path), max_epochs=1)
    model = Model()
    trainer.fit(model, loader(), loader())
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model, loader(), loader())
    wandb.finish()
    (run,) = runs(tmp_path)
    assert len(run.values("train/loss")) == 8


def test_without_a_folder_every_run_is_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two scripts that happen to start in one folder have nothing to do with each other."""
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        trainer = make_trainer(tmp_path, RunWandbLogger(project="proof"), max_epochs=1)
        trainer.fit(Model(), loader(), loader())
        wandb.finish()
    first, second = runs(tmp_path)
    assert first.id != second.id
    assert not list(tmp_path.rglob("wandb_run_id.txt"))
    (tmp_path / "wandb_run_id.txt").write_text("kept\n")  # as earlier versions left it
    assert RunWandbLogger().version is None
    assert RunWandbLogger(".").version == "kept"  # the folder is asked for
    assert RunWandbLogger(id="given").version == "given"


def test_an_id_that_is_given_wins(tmp_path: Path) -> None:
    (tmp_path / "wandb_run_id.txt").write_text("kept\n")
    assert RunWandbLogger(tmp_path).version == "kept"
    logger = RunWandbLogger(tmp_path, id="given")
    assert logger.version == logger.experiment.id == "given"
    assert (tmp_path / "wandb_run_id.txt").read_text() == "given\n"


def test_disabled_leaves_nothing(tmp_path: Path) -> None:
    RunWandbLogger(tmp_path, mode="disabled").log_metrics({"loss": 1.0}, step=0)
    assert list(tmp_path.iterdir()) == []


def test_without_an_account_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where wandb keeps keys
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    folder = tmp_path / "run"
    with pytest.raises(MisconfigurationException, match=r"did not start: .*mode: offline"):
        _ = RunWandbLogger(folder, mode="online").experiment
    assert not folder.exists()


def test_configuration_reaches_lightnings_logger_nested(tmp_path: Path) -> None:
    logger = WandbLogger(save_dir=tmp_path)
    log_config([logger], {"seed_everything": 1})
    log_config([logger], CONFIG)  # as a resumed run does, with another value
    wandb.finish()
    (run,) = runs(tmp_path)
    assert {key: run.config[key] for key in CONFIG} == CONFIG


@pytest.mark.parametrize("first", ["csv", pytest.param("wandb", marks=pytest.mark.slow)])
def test_command_line_twice_into_one_folder(
    first: str, fashion_mnist_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTNING_OPTREG_RUN", "")  # the program sets it; so it is unset afterwards
    overlay = OVERLAYS / "wandb.yaml"
    if first == "wandb":
        turned = yaml.safe_load(overlay.read_text())
        loggers = [*turned["trainer"].pop("logger+"), {"class_path": "RunCSVLogger"}]
        turned["trainer"]["logger"] = loggers
        overlay = tmp_path / "turned.yaml"
        overlay.write_text(yaml.safe_dump(turned))
    root = tmp_path / "runs"

    def program(command: str, *options: str) -> None:
        settings = {
            "config": [str(overlay), str(OVERLAYS / "histograms.yaml")],
            "model.net": ["SoftmaxRegression"],
            "data": ["FashionMNISTDataModule"],
            "data.data_dir": [str(fashion_mnist_dir)],
            "data.verify_checksum": ["false"],
            "trainer.accelerator": ["cpu"],
            "trainer.enable_progress_bar": ["false"],
            "trainer.default_root_dir": [str(root)],
        }
        words = [word for key, values in settings.items() for value in values for word in (f"--{key}", value)]
        assert main([command, *words, *options]) == 0
        wandb.finish()

    program("fit", "--trainer.max_epochs=1")
    program("fit", "--trainer.max_epochs=2", "--ckpt_path=last")
    program("test", "--ckpt_path=best")

    assert os.listdir(root) == ["version_0"]
    folder = root / "version_0"
    begun, resumed, tested = runs(folder)
    assert begun.id == resumed.id == tested.id
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert {key: begun.config[key] for key in config} == config
    assert resumed.config["trainer"]["max_epochs"] == 2
    assert [len(run.values("val/accuracy")) for run in (begun, resumed, tested)] == [1, 1, 0]
    assert len(tested.values("test/accuracy")) == 1
    assert any("best" in artifact.aliases for artifact in resumed.artifacts)
    rows = (folder / "metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 2 + 1  # a header, two rows an epoch, one of the test
