"""A monitored value: what counts as an improvement, and states of earlier checkpoints."""

import math
from typing import Any, Literal

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from lightning_optreg.callbacks import AdamRestarts, AdamToSGD, EarlyStopping
from lightning_optreg.callbacks._monitored import Monitored, logged_value


@pytest.mark.parametrize("mode", ["min", "max"])
def test_an_improvement_is_more_than_the_least_change(mode: Literal["min", "max"]) -> None:
    sign = 1.0 if mode == "min" else -1.0
    monitored = Monitored("Part", mode, min_delta=0.25)
    seen = [1.0, 0.75, 0.5, math.nan, math.inf, 0.5]
    assert [monitored.improves(sign * value) for value in seen] == [True, False, True, False, False, False]
    assert monitored.best == sign * 0.5
    assert monitored.bad_checks == 3


def test_it_begins_anew() -> None:
    monitored = Monitored("Part", "min")
    assert monitored.best is None
    assert monitored.improves(1.0)
    assert not monitored.improves(2.0)
    monitored.forget()
    assert (monitored.best, monitored.bad_checks) == (None, 0)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_it_goes_on_from_a_state(mode: Literal["min", "max"]) -> None:
    monitored, resumed = Monitored("Part", mode, 0.1), Monitored("Part", mode, 0.1)
    for value in (0.5, 0.4, 0.6, 0.55):
        monitored.improves(value)
    resumed.load_state_dict({**monitored.state_dict(), "another": 1})
    assert (resumed.best, resumed.bad_checks) == (monitored.best, monitored.bad_checks)
    assert resumed.improves(0.65) == monitored.improves(0.65)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "up"}, r"^Part: mode must be min or max, got 'up'$"),
        ({"mode": "min", "min_delta": -1.0}, r"^Part: min_delta must be >= 0, got -1\.0$"),
        ({"mode": "min", "min_delta": math.inf}, r"^Part: min_delta must be >= 0, got inf$"),
    ],
)
def test_values_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Monitored("Part", **arguments)


def test_a_value_that_is_not_logged_is_refused() -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(MisconfigurationException, match=r"^Part: monitor 'loss' is not among the logged va"):
        logged_value(trainer, "loss", "Part")


# States as versions before this one wrote them; with mode "max" AdamRestarts and AdamToSGD kept -best.
RESTARTS = {"restarts": 1, "best": -0.75, "bad_checks": 2, "weights": {}}
TO_SGD = {"switched": False, "due": False, "best": -0.75, "bad_checks": 2, "average": 0.5, "steps": 3}
STOPPING = {
    "wait_count": 1,
    "stopped_epoch": 0,
    "best_score": 0.7,
    "patience": 2**31,
    "checks": 4,
    "average": 0.0,
    "train_errors": [0.5],
    "strip_end": 0.6,
    "rises": 1,
    "quantities": {"rises": 1.0},
    "best": 0.75,
    "weights": {},
}


@pytest.mark.parametrize(
    ("callback", "state"),
    [
        (AdamRestarts("val", mode="max"), RESTARTS),
        (AdamToSGD(monitor="val", mode="max"), TO_SGD),
        (EarlyStopping("val", mode="max", criterion="UP", strip=2, successive=2), STOPPING),
    ],
    ids=["AdamRestarts", "AdamToSGD", "EarlyStopping"],
)
def test_callbacks_take_states_of_earlier_versions(callback: Any, state: dict[str, Any]) -> None:
    callback.load_state_dict(state)
    assert callback._monitored.best == 0.75
    # Lightning's part of the state adds its own keys.
    assert {name: callback.state_dict()[name] for name in state} == state
