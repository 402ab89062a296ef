"""Which settings a search may choose, and what its YAML may say."""

from typing import Any

import pytest

from lightning_optreg.studies.search_space import Choice, Range, SearchSpace
from lightning_optreg.studies.space_file import read_search_space, read_values


def test_grids_are_even_in_what_is_searched() -> None:
    assert Range(0.0, 1.0, points=5).grid("lr") == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert Range(1e-4, 1.0, log=True, points=5).grid("lr") == [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    assert Range(0.1, 0.3, step=0.1).grid("lr") == [0.1, 0.2, 0.3]
    assert Range(1, 8, whole=True, step=3).grid("depth") == [1, 4, 7]
    assert Range(1, 3, whole=True).grid("depth") == [1, 2, 3]
    assert Range(1, 100, log=True, whole=True, points=3).grid("width") == [1, 10, 100]
    with pytest.raises(ValueError, match=r"search\.lr: a grid needs `points`"):
        Range(0.0, 1.0).grid("lr")


def test_a_grid_leaves_out_what_does_not_apply() -> None:
    space = read_search_space(
        {
            "optimizer": {"choice": ["SGD", "Adam"]},
            "momentum": {"low": 0, "high": 1, "points": 3, "when": {"optimizer": "SGD"}},
        }
    )
    points = [{"optimizer": "SGD", "momentum": m} for m in (0.0, 0.5, 1.0)]
    assert space.grid() == [*points, {"optimizer": "Adam"}]


def test_conditions_may_name_several_values_and_follow_each_other() -> None:
    space = read_search_space(
        {
            "net": {"choice": ["MLP", "LeNet5", "ResNet"]},
            "width": {"low": 1, "high": 2, "int": True, "when": {"net": ["LeNet5", "ResNet"]}},
            "depth": {"low": 1, "high": 2, "int": True, "when": {"net": "ResNet", "width": 2}},
        }
    )
    assert [tuple(point.values()) for point in space.grid()] == [
        ("MLP",),
        ("LeNet5", 1),
        ("LeNet5", 2),
        ("ResNet", 1),
        ("ResNet", 2, 1),
        ("ResNet", 2, 2),
    ]


def test_what_is_chosen_becomes_settings_of_fit() -> None:
    sgd = {"class_path": "SGD", "init_args": {"lr": 0.1}}
    space = read_search_space(
        {
            "optimizer": {"choice": [sgd, {"class_path": "torch.optim.Adam"}]},
            "nesterov": {"choice": [True, False, None]},
            "batch": {"choice": {"small": 16, "large": 512}},
            "epochs": {"low": 1, "high": 9, "int": True},
        }
    )
    chosen = {"optimizer": "SGD", "nesterov": "null", "batch": "large", "epochs": 3}
    settings = {"optimizer": sgd, "nesterov": None, "batch": 512, "epochs": 3}
    assert list(space.parts["optimizer"].grid("")) == ["SGD", "Adam"]
    assert space.settings(chosen) == settings
    assert read_values({**settings, "batch": "large"}, space) == chosen
    assert isinstance(read_values({"epochs": 3.0}, space)["epochs"], int)


@pytest.mark.parametrize(
    ("part", "value", "end"),
    [
        (Range(0.001, 1.0, log=True), 0.00101, "low end 0.001"),
        (Range(0.001, 1.0, log=True), 0.01, None),
        (Range(0.001, 1.0, log=True), 0.9, "high end 1"),
        (Range(0.0, 1.0), 0.001, "low end 0"),
        (Range(0.0, 1.0), 0.9, None),
        (Range(1, 8, whole=True), 8, "high end 8"),
        (Range(1, 8, whole=True), 7, None),
        (Choice({"a": 1, "b": 2}), "a", None),
    ],
)
def test_values_at_an_end_are_noticed(part: Range | Choice, value: Any, end: str | None) -> None:
    assert SearchSpace({"it": part}).ends({"it": value}) == ([] if end is None else [("it", end)])


@pytest.mark.parametrize("count", range(2, 5))
def test_corners_have_every_option(count: int) -> None:
    options = {str(i): i for i in range(count)}
    space = SearchSpace({"a": Choice(options), "b": Range(0.0, 1.0), "c": Choice({"x": 0, "y": 1})})
    corners = [space.corner(number) for number in range(count)]
    assert {corner["a"] for corner in corners} == set(options)
    assert {corner["b"] for corner in corners} == {0.0, 1.0}
    assert {corner["c"] for corner in corners} == {"x", "y"}


WRONG: list[tuple[Any, str]] = [
    ({}, "search: must name at least one setting"),
    ({"lr": 0.1}, r"search\.lr: must be a mapping such as .*, got 0\.1"),
    ({"a..b": {"low": 0, "high": 1}}, r"search\.a\.\.b: must be a dotted key"),
    ({"lr": {"low": 0, "hihg": 1}}, r"search\.lr\.hihg: unknown key; did you mean high\?"),
    ({"lr": {"choice": [1, 2], "low": 1}}, r"search\.lr\.low: unknown key"),
    ({"lr": {"low": 0}}, r"search\.lr\.high: missing"),
    ({"lr": {"low": 1, "high": 1}}, r"search\.lr\.high: must be > low = 1, got 1"),
    ({"lr": {"low": "x", "high": 1}}, r"search\.lr\.low: must be a finite number, got 'x'"),
    ({"lr": {"low": True, "high": 2}}, r"search\.lr\.low: must be a finite number, got True"),
    ({"lr": {"low": 0, "high": float("inf")}}, r"search\.lr\.high: must be a finite number, got inf"),
    ({"lr": {"low": 0, "high": 1, "log": True}}, r"search\.lr\.low: must be > 0 where log is true, got 0"),
    ({"lr": {"low": 1, "high": 2, "log": 1}}, r"search\.lr\.log: must be true or false, got 1"),
    ({"lr": {"low": 1, "high": 2, "step": 0}}, r"search\.lr\.step: must be > 0, got 0"),
    ({"lr": {"low": 1, "high": 2, "step": 1, "log": True}}, r"search\.lr\.step: must be left out where log"),
    ({"n": {"low": 0.5, "high": 2, "int": True}}, r"search\.n: low, high, step must be whole numbers"),
    ({"lr": {"low": 1, "high": 2, "points": 1}}, r"search\.lr\.points: must be a whole number >= 2, got 1"),
    ({"net": {"choice": ["MLP"]}}, r"search\.net\.choice: must be a list or mapping of at least two"),
    ({"net": {"choice": ["MLP", "MLP"]}}, r"search\.net\.choice: must be different"),
    ({"lr": {"low": 1, "high": 2, "when": "Adam"}}, r"search\.lr\.when: must be a mapping"),
    (
        {"lr": {"low": 1, "high": 2, "when": {"net": 1}}},
        r"search\.lr\.when: 'net' must be a key",
    ),
    (
        {"net": {"choice": ["A", "B"]}, "lr": {"low": 1, "high": 2, "when": {"net": "C"}}},
        r"search\.lr\.when\.net: 'C' is never chosen there",
    ),
]


@pytest.mark.parametrize(("search", "sentence"), WRONG)
def test_mistakes_are_named(search: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_search_space(search)


def test_numbers_that_yaml_reads_as_text_are_numbers() -> None:
    assert read_search_space({"lr": {"low": "1e-3", "high": "1e0", "log": True}}).parts["lr"] == Range(
        0.001, 1.0, log=True
    )
