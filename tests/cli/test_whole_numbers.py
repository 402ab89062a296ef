"""Whole numbers stay whole where a type takes `int` and `float`: on the command line, in YAML, read again."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, Union, get_args

import lightning.pytorch as pl
import pytest
import yaml

from lightning_optreg.cli.parser import Parser
from lightning_optreg.cli.trainer import Trainer
from lightning_optreg.cli.whole_numbers import ints_first


def takes_both(annotation: Any) -> bool:
    return {int, float} <= set(get_args(annotation))


LIMITS = [
    name
    for name, parameter in inspect.signature(pl.Trainer.__init__).parameters.items()
    if takes_both(parameter.annotation)
]


class Part:
    """Types that take both, nested in others."""

    def __init__(
        self,
        one: float | int | None = None,  # as typing may have it for `Optional[Union[int, float]]`
        several: list[float | int] | None = None,
        named: dict[str, float | int] | None = None,
        pair: tuple[float | int, float | int] = (0, 0),
        rate: float = 0.5,
        text: str | int = "",
        devices: Union[list[int], str, int] = "auto",  # noqa: UP007
        steps: Sequence[float | int] = (),
    ) -> None: ...


@pytest.fixture(scope="module")
def parser() -> Parser:
    made = Parser()
    made.add_lightning_class_args(Trainer, "trainer")
    made.add_argument("--part", type=Part)
    made.add_class_arguments(Part, "group")
    made.add_argument("--limit", type=float | int | None)
    return made


def test_an_argument_that_is_added_alone(parser: Parser) -> None:
    assert repr(parser.parse_args(["--limit=1"]).limit) == "1"


def test_the_trainer_has_such_options() -> None:
    assert {"limit_train_batches", "overfit_batches", "val_check_interval", "gradient_clip_val"} <= set(
        LIMITS
    )


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize(("typed", "value"), [("1", 1), ("1.0", 1.0), ("2", 2), ("0.5", 0.5), ("1e0", 1.0)])
def test_an_option_of_the_trainer(
    name: str, typed: str, value: float, parser: Parser, tmp_path: Path
) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(f"trainer: {{{name}: {typed}}}\n")
    lines = [[f"--trainer.{name}", typed], [f"--trainer.{name}={typed}"]]
    configs = [parser.parse_args(line) for line in lines]
    read = parser.parse_path(str(file))
    again = parser.parse_string(parser.dump(configs[0], format="yaml"))
    for config in (*configs, read, again):
        assert type(config.trainer[name]) is type(value)
        assert config.trainer[name] == value


@pytest.mark.parametrize("key", ["part.init_args", "group"])
def test_any_class_and_nested_types(key: str, parser: Parser, tmp_path: Path) -> None:
    values = {
        "one": 1,
        "several": [1, 1.0, 2],
        "named": {"a": 1, "b": 1.0},
        "pair": [1, 1.0],
        "steps": [2, 2.0],
    }
    start = [f"--part={Part.__module__}.{Part.__qualname__}"] if key.startswith("part") else []
    option = key.partition(".")[0]
    words = [f"--{option}.{name}={value}" for name, value in values.items()]
    config = parser.parse_args([*start, *words])
    tree: Any = values
    if start:
        tree = {"class_path": f"{Part.__module__}.{Part.__qualname__}", "init_args": values}
    file = tmp_path / "file.yaml"
    file.write_text(yaml.safe_dump({option: tree}))
    read = parser.parse_path(str(file))
    again = parser.parse_string(parser.dump(read, format="yaml"))
    for one in (config, read, again):
        got = {name: one[f"{key}.{name}"] for name in values}
        got["pair"] = list(got["pair"])
        assert repr(got) == repr(values)


def test_nothing_else_changes_its_type(parser: Parser, tmp_path: Path) -> None:
    config = parser.parse_args(
        ["--group.rate=1", "--group.text=1", "--group.devices=2", "--trainer.devices=2"]
    )
    got = (config.group.rate, config.group.text, config.group.devices, config.trainer.devices)
    assert repr(got) == repr((1.0, "1", "2", "2"))
    file = tmp_path / "file.yaml"
    file.write_text("trainer: {devices: 2}\ngroup: {devices: '2', rate: 1, text: 1}\n")
    read = parser.parse_path(str(file))
    assert repr((read.group.rate, read.group.devices, read.trainer.devices)) == repr((1.0, "2", 2))


def test_what_is_no_union_of_both_stays() -> None:
    for typehint in (float, Optional[float], float | str, list[float], Union[int, float]):  # noqa: UP007, UP045
        assert ints_first(typehint) is typehint
