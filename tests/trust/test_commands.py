"""The commands that read checkpoints and configurations, with payloads in them."""

import itertools
import json
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_optreg.__main__ import main
from tests.cli.tools import SHORT, short
from tests.trust.payloads import MODULE, PAYLOADS, Command, Trap, popen, spec

pytestmark = pytest.mark.usefixtures("blank_curves")

FEW = ("a command", "a shell by a trusted path", "a module that is imported", "only a path", "YAML in text")


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trap:
    return Trap(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def trained(fashion_mnist_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the command line."""
    root = tmp_path_factory.mktemp("trained")
    assert main(["fit", *short(fashion_mnist_dir, root)]) == 0
    return root / "version_0" / "checkpoints" / "last.ckpt"


def doctored(trained: Path, path: Path, change: Callable[[dict[str, Any]], object]) -> str:
    """A copy of the checkpoint with something changed."""
    checkpoint = torch.load(trained, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, path)
    return str(path)


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line with which a command ends."""
    capsys.readouterr()
    assert main(list(argv)) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    return said[0]


def linear(payload: Any) -> dict[str, Any]:
    """A class that may be named, with a payload for an argument that is declared as nothing."""
    return spec("torch.nn.Linear", in_features=1, out_features=1, device=payload)


def in_network(payload: Any) -> Callable[[dict[str, Any]], object]:
    return lambda checkpoint: checkpoint["hyper_parameters"].update(
        net=linear([{"a": payload}]), loss=payload
    )


def in_data(payload: Any) -> Callable[[dict[str, Any]], object]:
    def change(checkpoint: dict[str, Any]) -> None:
        checkpoint["callbacks"]["SaveConfig"]["config"]["data"]["init_args"]["augment"] = [payload]

    return change


def output(folder: Path, command: str) -> list[str]:
    return ["--output", str(folder / ("a.onnx" if command == "export" else "a.png"))]


@pytest.mark.parametrize("payload", FEW)
@pytest.mark.parametrize("command", ["export", "plot landscape"])
def test_checkpoints_of_export_and_landscape(
    command: str, payload: str, trained: Path, trap: Trap, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = [in_network] if command == "export" else [in_network, in_data]
    for change in changes:
        path = doctored(trained, trap.folder / "a.ckpt", change(PAYLOADS[payload](trap)))
        said = refused(capsys, *command.split(), "--ckpt_path", path, *output(trap.folder, command))
        assert path in said
        assert not trap.was_sprung
        assert MODULE not in sys.modules


def test_a_package_that_the_user_names_is_exported(
    trained: Path, trap: Trap, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Lightning 2.6 calls methods that jsonargparse 4.53 deprecates
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    (trap.folder / "package_of_the_users.py").write_text(
        "from lightning_optreg.nets import SoftmaxRegression\nclass Mine(SoftmaxRegression): pass\n"
    )

    def change(checkpoint: dict[str, Any]) -> None:
        checkpoint["hyper_parameters"]["net"]["class_path"] = "package_of_the_users.Mine"

    path = doctored(trained, trap.folder / "a.ckpt", change)
    command = ["export", "--ckpt_path", path, *output(trap.folder, "export")]
    said = refused(capsys, *command)
    assert "net: package_of_the_users.Mine" in said
    assert "--allow package_of_the_users" in said
    assert "package_of_the_users" not in sys.modules
    assert main([*command, "--allow", "another", "package_of_the_users"]) == 0


def test_checkpoints_of_a_trajectory_are_read_as_tensors(
    trained: Path, trap: Trap, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trap.folder / "trajectory"
    folder.mkdir()
    torch.save({"state_dict": {}, "net": Command(trap.mark)}, folder / "a.ckpt")
    command = ["plot", "landscape", "--ckpt_path", str(trained), "--trajectory", str(folder)]
    said = refused(capsys, *command, *output(trap.folder, "plot landscape"))
    assert "could run code" in said
    assert "weights_only" not in said
    assert not trap.was_sprung


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict", "export", "plot landscape"])
def test_pickled_checkpoints_are_refused_without_torchs_advice(
    command: str,
    trained: Path,
    trap: Trap,
    fashion_mnist_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = doctored(trained, trap.folder / "a.ckpt", lambda c: c.update(more=Command(trap.mark)))
    options = ["--ckpt_path", path]
    if command in ("export", "plot landscape"):
        options += output(trap.folder, command)
    else:
        # asked for or not
        options += [*short(fashion_mnist_dir, trap.folder / "runs"), "--weights_only=false"]
    said = refused(capsys, *command.split(), *options)
    assert "reading that could run code" in said
    assert "weights_only=False" not in said
    assert not trap.was_sprung


@pytest.mark.parametrize("command", ["fit", "test"])
def test_hyperparameters_play_no_part_where_a_configuration_is_given(
    command: str, trained: Path, trap: Trap, fashion_mnist_dir: Path
) -> None:
    path = doctored(trained, trap.folder / "a.ckpt", in_network(popen(trap)))
    assert main([command, *short(fashion_mnist_dir, trap.folder / "runs"), "--ckpt_path", path]) == 0
    assert not trap.was_sprung


def test_a_checkpoint_deletes_nothing_outside_its_folder(
    trained: Path, trap: Trap, fashion_mnist_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = trap.folder / "notes"
    notes.write_text("")

    def change(checkpoint: dict[str, Any]) -> None:
        for name, state in checkpoint["callbacks"].items():
            if name.startswith("ModelCheckpoint"):
                state["best_k_models"] = {f"{state['dirpath']}/../../{notes.name}": torch.tensor(0.0)}

    path = doctored(trained, trap.folder / "a.ckpt", change)
    said = refused(capsys, "fit", *short(fashion_mnist_dir, trap.folder / "runs"), "--ckpt_path", path)
    assert "which leaves its folder" in said
    assert notes.exists()


# ---- configurations ----------------------------------------------------------------------------------------

USERS = """
from typing import Any, Callable
from lightning_optreg.nets import SoftmaxRegression

class Mine(SoftmaxRegression):
    def __init__(self, num_classes=10, input_shape=(1, 28, 28), anything: Any = None, untyped=None,
                 call: Callable | None = None, **kwargs):
        super().__init__(num_classes, tuple(input_shape))
        if call is not None:
            call("a word")
"""


@pytest.fixture
def users_own(trap: Trap) -> str:
    """A network of the user's, which takes anything."""
    (trap.folder / "module_of_the_users.py").write_text(USERS)
    return "module_of_the_users.Mine"


@pytest.mark.parametrize("payload", ["a command", "an archive", "torch hub", "only a path", "YAML in text"])
def test_arguments_of_no_type_build_nothing(
    payload: str, trap: Trap, users_own: str, fashion_mnist_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value = PAYLOADS[payload](trap)
    arguments = {"anything": value, "untyped": [[value], {"a": value}]}
    config = {"class_path": users_own, "init_args": arguments, "dict_kwargs": {"more": value}}
    file = trap.folder / "a.yaml"
    file.write_text(yaml.safe_dump({"model": {"net": config}}))
    others = short(fashion_mnist_dir, trap.folder / "runs")
    options = [option for option in others if not option.startswith("--model.net")]
    if main(["fit", "--config", str(file), *options]) != 0:  # no data, but what nobody should name
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith("error: model.net")
        assert said.endswith("entry of the import path denylist.")
    assert not trap.was_sprung


CALLABLES = ("os.system", "builtins.eval", "torch.os.system", "torch.hub.load")


@pytest.mark.parametrize("function", CALLABLES)
@pytest.mark.parametrize("place", ["model.net", "optimizer", "lr_scheduler", "model.loss", "data"])
def test_functions_that_make_something_else_are_refused(
    place: str, function: str, trap: Trap, fashion_mnist_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*short(fashion_mnist_dir, trap.folder / "runs"), f"--{place}={function}"]
    assert place.split(".")[-1] in refused(capsys, "fit", *options)


@pytest.mark.parametrize("function", CALLABLES[:3])
def test_a_place_for_any_function_takes_none_that_runs_code(
    function: str, trap: Trap, users_own: str, fashion_mnist_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = short(fashion_mnist_dir, trap.folder / "runs", net=users_own)
    assert "call" in refused(capsys, "fit", *options, f"--model.net.call={function}")


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_configuration_held_to_safe(
    payload: str, trap: Trap, fashion_mnist_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value = PAYLOADS[payload](trap)
    file = trap.folder / "a.yaml"
    commands = itertools.cycle(["fit", "validate", "test", "predict"])
    for command, config in zip(
        commands,
        [
            {"model": {"net": value}},
            {"model.net": linear([value]), "model.loss": value},
            {"trainer": {"callbacks+": [value]}},
            {"data": {"class_path": "FashionMNISTDataModule", "init_args": {"augment": [value]}}},
            {"optimizer": {"class_path": "SGD", "init_args": {"lr": 0.1}}, "lr_scheduler": value},
        ],
        strict=False,
    ):
        file.write_text(yaml.safe_dump(config))
        options = [command, "--safe", *short(fashion_mnist_dir, trap.folder / "runs"), "--config", str(file)]
        assert str(file) in refused(capsys, *options)
        assert not trap.was_sprung
        assert MODULE not in sys.modules


def test_safe_reads_what_the_parser_reads(
    trap: Trap, fashion_mnist_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However a configuration is named, and wherever the files lie to which it refers."""
    fit = ["fit", "--safe", *short(fashion_mnist_dir, trap.folder / "runs")]
    strange = trap.folder / "strange.yaml"
    strange.write_text(yaml.safe_dump({"model": {"net": f"{MODULE}.Mine"}}))
    for options in (
        [f"-c{strange}"],
        [f"-c={strange}"],
        ["--config", f"file://{strange}"],
        ["--config", f"simplecache::file://{strange}"],
        ["--config", "-"],
        ["--config", "~/strange.yaml"],
        ["--config", f"{{model: {{net: {MODULE}.Mine}}}}"],
        ["--config", str(trap.folder)],
    ):
        with monkeypatch.context() as patch:
            patch.setenv("HOME", str(trap.folder))
            assert "config" in refused(capsys, *fit, *options)
        assert not trap.was_sprung, options
    for settings in ("settings.yaml", "./settings.yaml", "~/settings.yaml"):
        for config in (
            {"model": {"net": settings}},
            {"optimizer": settings},
            {"trainer": {"callbacks": [settings]}},
        ):
            strange.write_text(yaml.safe_dump(config))
            with monkeypatch.context() as patch:
                patch.setenv("HOME", str(trap.folder))
                assert "is a file" in refused(capsys, *fit, "--config", str(strange))
            assert not trap.was_sprung, config
    strange.write_text("trainer: '{default_root_dir: /somewhere}'")
    assert "/somewhere" in refused(capsys, *fit, "--config", str(strange))


def test_other_ways_round_safe(
    trap: Trap, users_own: str, fashion_mnist_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = str(trap.folder / "settings.yaml")
    file = trap.folder / "a.yaml"
    fit = ["fit", *short(fashion_mnist_dir, trap.folder / "runs")]
    for config in (
        {"model": {"net": settings}},
        {"data": settings},
        {"trainer": {"callbacks": settings}},
        {"trainer": {"callbacks": [settings]}},
        {"config": settings},
        {"safe": False, "model": {"net": f"{MODULE}.Mine"}},
        {"allow": [MODULE], "model": {"net": f"{MODULE}.Mine"}},
        {"trainer": {"default_root_dir": "/somewhere"}},
        {"trainer": {"callbacks+": [spec("ModelCheckpoint", dirpath="../elsewhere")]}},
        {"trainer": {"strategy": spec("Hogwild", address="10.9.8.7:6379")}},  # to join a stranger's cluster
        {"trainer": {"strategy": spec("DDPStrategy", cluster_environment=settings)}},
    ):
        file.write_text(yaml.safe_dump(config))
        assert str(file) in refused(capsys, *fit, "--config", str(file), "--safe")
    for option in (f"--model.net={MODULE}.Mine", f"--model.net.help={MODULE}.Mine", f"--model={settings}"):
        assert "error: command line: model" in refused(capsys, *fit, option, "--safe=true")
    assert not trap.was_sprung
    assert MODULE not in sys.modules
    assert "--allow needs --safe" in refused(capsys, *fit, "--allow", MODULE)
    assert "os is a part of Python" in refused(capsys, *fit, "--safe", "--allow", "os")
    assert main([*fit, "--safe", f"--model.net={users_own}", "--allow", "module_of_the_users"]) == 0


CONFIGS = sorted(
    p
    for folder in ("methods", "cifar10", "fashion_mnist", "imagenet")
    for p in Path("configs", folder).glob("*.yaml")
)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_recipes_are_safe(config: Path) -> None:
    from lightning_optreg.cli.safety import check_command
    from lightning_optreg.trust import Trust

    check_command(["fit", "--config", str(config)], Trust(bare=True))


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.filename=../x"),
        ("--trainer.logger=CSVLogger --trainer.logger.save_dir=x", "--trainer.logger.name=../x"),
        ("--trainer.logger=CSVLogger --trainer.logger.save_dir=x", "--trainer.logger.version=/x"),
        ("--trainer.callbacks+=Curves", "--trainer.callbacks.filename=..\\x.png"),
        ("--trainer.callbacks+=Curves", "--trainer.callbacks.filename=/x.png"),
        ("--trainer.callbacks+=PredictionWriter", "--trainer.callbacks.path=a/../../x.csv"),
    ],
)
def test_names_stay_in_the_runs_folder(
    part: str, name: str, tmp_path: Path, fashion_mnist_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "fit", *short(fashion_mnist_dir, tmp_path / "runs"), *part.split(), name)
    assert "must be inside its folder" in said
    assert not (tmp_path / "runs").exists()


# ---- describe ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "net", ["subprocess.Popen", "os.system", "builtins.exec", "torch.hub.load", "logging.FileHandler"]
)
def test_describe_builds_only_networks(net: str, trap: Trap, capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--net.args", f"touch {trap.mark}"], ["--net.filename", str(trap.mark)], []):
        assert net in refused(capsys, "describe", "--net", net, "--input_shape", "1", "2", "2", *options)
    assert not trap.was_sprung


def test_describe_builds_nothing_for_an_argument_of_no_type(trap: Trap, users_own: str) -> None:
    payload = f"--net.anything={json.dumps(popen(trap))}"
    assert main(["describe", "--net", users_own, payload, "--input_shape", "1", "28", "28"]) == 0
    assert not trap.was_sprung


# ---- compare -----------------------------------------------------------------------------------------------


def study(data: Path, **changes: Any) -> dict[str, Any]:
    """A study of one short run."""
    trainer = {
        word.partition("=")[0][len("--trainer.") :]: yaml.safe_load(word.partition("=")[2])
        for word in SHORT
        if "trainer" in word
    }
    trainer.pop("max_epochs")
    base = {
        "data": spec("FashionMNISTDataModule", data_dir=str(data), verify_checksum=False, batch_size=8),
        "model": {"net": "SoftmaxRegression"},
        "trainer": {**trainer, "callbacks": []},
    }
    return {
        "name": "study",
        "base": [base],
        "methods": {"a": {}},
        "values": [0.1],
        "seeds": [0],
        "epochs": 1,
        **changes,
    }


@pytest.mark.parametrize("payload", FEW)
def test_a_study_held_to_safe(
    payload: str, trap: Trap, fashion_mnist_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = trap.folder / "study.yaml"
    value = PAYLOADS[payload](trap)
    for method in ({"model": {"net": linear([value]), "loss": value}}, {"trainer": {"callbacks+": [value]}}):
        file.write_text(yaml.safe_dump(study(fashion_mnist_dir, methods={"a": method})))
        command = ["compare", "--config", str(file), "--output", str(trap.folder / "out"), "--safe"]
        assert "methods.a: " in refused(capsys, *command)
        assert not trap.was_sprung
        assert MODULE not in sys.modules


def test_a_safe_study_runs_and_its_storage_is_data(
    trap: Trap, fashion_mnist_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = trap.folder / "study.yaml", trap.folder / "out"
    file.write_text(yaml.safe_dump(study(fashion_mnist_dir)))
    command = ["compare", "--config", str(file), "--output", str(out), "--workers", "1", "--safe"]
    assert main(command) == 0
    hostile = [popen(trap), [[1], 2, 3], "x" * 9]
    with sqlite3.connect(out / "study.db") as database:
        kept = dict(database.execute("select key, value_json from trial_user_attributes").fetchall())
        for key in ("run", "record"):
            for value in hostile:
                database.execute(
                    "update trial_user_attributes set value_json = ? where key = ?", (json.dumps(value), key)
                )
                database.commit()
                assert "was not written by compare" in refused(capsys, *command, "--report_only")
            database.execute(
                "update trial_user_attributes set value_json = ? where key = ?", (kept[key], key)
            )
            database.commit()
        record = json.loads(kept["record"])
        for key, value in {
            "method": "<b>",
            "value": "1",
            "points": [{"epoch": "1"}],
            "test": {"a": "b"},
            "more": 1,
        }.items():
            changed = json.dumps({**record, key: value})
            database.execute(
                "update trial_user_attributes set value_json = ? where key = 'record'", (changed,)
            )
            database.commit()
            assert "was not written by compare" in refused(capsys, *command, "--report_only")
    assert not trap.was_sprung


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "a\\b", "..", "", "C:x", "~", "a\nb"])
def test_the_name_of_a_study_is_that_of_a_folder(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study(tmp_path, name=name)))
    assert "name must be the name of one folder" in refused(
        capsys, "compare", "--config", str(file), "--plan"
    )


def test_labels_of_methods_are_folders_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "study.yaml"
    for labels, message in (
        (["a b", "a_b"], "would share a folder"),
        (["a\u2028"], "text that can be printed"),
    ):
        file.write_text(yaml.safe_dump(study(tmp_path, methods={label: {} for label in labels})))
        assert message in refused(capsys, "compare", "--config", str(file), "--plan")
    from lightning_optreg.studies.plan import Run

    assert Run("..", 0.1, 0).key == "__/0.1/seed0"
