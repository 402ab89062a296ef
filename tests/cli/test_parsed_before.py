"""A process that parses many configurations that are alike gets for each what it would get alone."""

import io
from contextlib import redirect_stderr
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from typing_extensions import override

from lightning_optreg.cli import main_cli
from lightning_optreg.cli.parsed_before import ParsedBefore
from lightning_optreg.cli.parser import Parser, plain
from lightning_optreg.studies.plan import merge, put

CONFIGS = Path(__file__).parents[2] / "configs"


class _EndOfParsingError(Exception):
    pass


class _Parsing(main_cli.CLI):
    @override
    def instantiate_classes(self) -> None:
        raise _EndOfParsingError(repr(self.config), self.plain_config, list(self.parser.args))


class Process:
    """Parses configurations of runs of a study.

    Attributes:
        parsed: How many of them from the start.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.before, self.parsed = folder, ParsedBefore(), 0
        monkeypatch.setattr(main_cli, "CLI", _Parsing)
        parse = Parser.parse_path

        def counted(parser: Parser, path: Any, *args: Any, **kwargs: Any) -> Any:
            self.parsed += 1
            return parse(parser, path, *args, **kwargs)

        monkeypatch.setattr(Parser, "parse_path", counted)

    def parse(self, settings: dict[str, Any], name: str = "run") -> Any:
        """Parse with and without what was parsed before, and return it if that is the same."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        file = folder / "run.yaml"
        file.write_text(yaml.safe_dump(settings, sort_keys=False))
        words = ["fit", "--config", str(file), f"--trainer.default_root_dir={folder}", "--ckpt_path", "auto"]
        found = [_outcome(words, self.before)]
        count = self.parsed
        found.append(_outcome(words, None))
        self.parsed = count
        assert found[0] == found[1]
        return found[0]


def _outcome(words: list[str], before: ParsedBefore | None) -> Any:
    said = io.StringIO()
    with redirect_stderr(said):
        try:
            main_cli.run(words, (), before)
        except _EndOfParsingError as end:
            return end.args
        except SystemExit:
            return said.getvalue()
        except ValueError as error:
            return str(error)


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Process:
    return Process(tmp_path, monkeypatch)


def recipe(*files: str) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for file in files:
        settings = merge(settings, yaml.safe_load((CONFIGS / file).read_text()))
    trainer = settings["trainer"]
    trainer["callbacks"] = [*trainer.pop("callbacks", []), *trainer.pop("callbacks+", [])]
    return settings


def changed(settings: dict[str, Any], **values: Any) -> dict[str, Any]:
    settings = deepcopy(settings)
    for key, value in values.items():
        put(settings, key.split("__"), value)
    return settings


@pytest.mark.parametrize(
    "files",
    [
        ("fashion_mnist/softmax.yaml",),
        ("cifar10/resnet20.yaml", "methods/mix_up.yaml"),
        pytest.param(("fashion_mnist/lenet5.yaml", "methods/swa.yaml"), marks=pytest.mark.slow),
        pytest.param(("fashion_mnist/mlp.yaml", "methods/curriculum.yaml"), marks=pytest.mark.slow),
        pytest.param(("fashion_mnist/fast.yaml",), marks=pytest.mark.slow),
    ],
)
def test_seeds_folders_and_numbers(files: tuple[str, ...], process: Process) -> None:
    settings = recipe(*files)
    for seed in (0, 1, 2**32 - 1):
        process.parse(changed(settings, seed_everything=seed), f"seed{seed}")
    assert process.parsed == 1
    for rate in (0.2, 0.3):
        other = changed(settings, optimizer__init_args__lr=rate, trainer__max_epochs=3)
        _, values, _ = process.parse(changed(other, seed_everything=0), f"rate{rate}")
        assert values["optimizer"]["init_args"]["lr"] == rate
    assert process.parsed == 1
    process.parse(changed(settings, seed_everything=0), "seed0")  # what is kept has not changed
    assert process.parsed == 1


@pytest.mark.slow
def test_what_differs_otherwise_is_parsed_from_the_start(process: Process) -> None:
    settings = changed(recipe("fashion_mnist/softmax.yaml"), seed_everything=0)
    without = {key: value for key, value in settings.items() if key not in ("optimizer", "lr_scheduler")}
    others = [
        settings,
        changed(settings, optimizer={"class_path": "Adam"}),
        without,  # and the default is not that of one whose class was named
        {**without, "optimizer": {"init_args": {"lr": 0.3}}},
        changed(settings, optimizer__init_args__lr=1),  # not 1.0
        changed(settings, data__init_args__seed=None),
        changed(settings, trainer__deterministic=True),
        {key: value for key, value in settings.items() if key != "seed_everything"},
    ]
    for number, other in enumerate(others):
        process.parse(other, f"run{number}")
        assert process.parsed == number + 1
    for number, other in enumerate(others):
        process.parse(other, f"again{number}")
    assert process.parsed == len(others)


def test_a_wrong_number_is_refused_as_alone(process: Process) -> None:
    settings = changed(recipe("cifar10/resnet20.yaml"), seed_everything=0)
    process.parse(settings)
    for key, value, said in (
        ("model__net__init_args__depth", 20.5, "error: model.net.depth (of ResNet): must be int, got '20.5'"),
        ("trainer__max_epochs", -2, "trainer.max_epochs must be"),
    ):
        message = process.parse(changed(settings, **{key: value}))
        assert message.startswith(said)
    process.parse(settings)


@pytest.mark.slow
def test_files_and_lightnings_own_seeds_are_not_kept(
    process: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = tmp_path / "net.yaml"
    settings = changed(recipe("fashion_mnist/softmax.yaml"), model__net=str(net), seed_everything=0)
    for name in ("SoftmaxRegression", "LeNet5"):
        net.write_text(f"class_path: lightning_optreg.nets.{name}")
        _, values, _ = process.parse(settings)
        assert values["model"]["net"]["class_path"].endswith(name)
    settings = changed(recipe("fashion_mnist/softmax.yaml"), seed_everything=True)
    for seed in ("3", "4"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        _, values, _ = process.parse(settings)
        assert values["seed_everything"] == int(seed)


def test_plain_values_are_those_of_the_text() -> None:
    parser = Parser()
    parser.add_argument("--names", type=list[str])
    parser.add_argument("--numbers", type=list[float])
    names = ["1e3", "yes", "2020-01-01", "\U0001f600", "a: b", "two\nlines", ""]
    given = {"names": names, "numbers": [0.1, 1e-07, float("inf")]}
    assert plain(parser, parser.parse_object(given)) == given
    half = {"names": ["not UTF-8: \udcff"], "numbers": []}
    assert plain(parser, parser.parse_object(half)) == half
