"""The results of a study's runs: plain data that a report is made from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = ["Point", "RunRecord", "StudyResult", "Unfinished"]


@dataclass(frozen=True)
class Point:
    """One evaluation of a run.

    Attributes:
        epoch: Passes over the training data done so far: 1.0 after the first.
        seconds: Training time so far, without validation.
        metrics: Values by their names, such as `train/loss` and `val/accuracy`.
    """

    epoch: float
    seconds: float
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class RunRecord:
    """One training run of a study.

    Attributes:
        method: Label, such as "Adam".
        value: Value of the tuned setting, such as the learning rate.
        seed: Seed of the run.
        status: "complete"; "pruned", when it was ended early because others did better; "diverged", when the
            loss was no longer finite; or "failed".
        points: Evaluations in the order of time.
        test: Metrics of the test; empty if the run is not complete.
        message: Why it failed.

    Example:
        >>> record = RunRecord("SGD", 0.1, 0, "complete", (Point(1.0, 2.5, {"val/loss": 0.5}),), {})
        >>> RunRecord.from_dict(record.to_dict()) == record
        True
    """

    method: str
    value: float
    seed: int
    status: Literal["complete", "pruned", "diverged", "failed"]
    points: tuple[Point, ...]
    test: Mapping[str, float]
    message: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain types that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "RunRecord":
        """Make a record from what `to_dict` returned, also after a round trip through JSON.

        Raises:
            ValueError: If it is not a record of a run.
        """
        try:
            points = tuple(
                Point(float(point["epoch"]), float(point["seconds"]), _numbers(point["metrics"]))
                for point in plain["points"]
            )
            record = cls(**{**plain, "points": points, "test": _numbers(plain["test"])})
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(f"not a record of a run ({error})") from error
        kinds = (str, (int, float), int, str, tuple, dict, str)
        for value, kind in zip(vars(record).values(), kinds, strict=True):
            if not isinstance(value, kind) or isinstance(value, bool):  # type: ignore[arg-type]  # of mixed types
                raise ValueError(f"not a record of a run ({value!r} is of the wrong type)")
        return record


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): float(value) for name, value in metrics.items()}


@dataclass(frozen=True)
class Unfinished:
    """A run of a study without a result.

    Attributes:
        run: Its name, such as "SGD, learning rate 0.1, seed 0".
        state: "failed"; "running", in another process; or "waiting" for a process.
        reason: Why it failed, which process does it, or why none does.
    """

    run: str
    state: Literal["failed", "running", "waiting"]
    reason: str


@dataclass(frozen=True)
class StudyResult:
    """All that a report shows.

    Attributes:
        name: Of the study.
        title: Its heading.
        tuned: Name of the tuned setting, such as "learning rate".
        metric: Metric by which runs are chosen, such as `val/accuracy`.
        mode: Whether the metric should be large ("max") or small ("min").
        test_metric: Metric that is reported for the chosen runs, such as `test/accuracy`.
        target: Value of `metric`; the report says when it is first reached. None: the report chooses one.
        description: Data, network, epochs and so on, shown unchanged.
        planned: Number of runs of the whole study.
        records: Records of the runs that have ended.
        settings: For methods that are not tuned by the common setting, the name of their own ("lambd"); None
            where nothing is tuned.
        reference: Method that the others are compared with in the picture of the ranking; None for none.
        unfinished: The runs without a result, failed ones too.
    """

    name: str
    title: str
    tuned: str
    metric: str
    mode: Literal["max", "min"]
    test_metric: str
    target: float | None
    description: Mapping[str, str]
    planned: int
    records: tuple[RunRecord, ...]
    settings: Mapping[str, str | None] = field(default_factory=dict)
    reference: str | None = None
    unfinished: tuple[Unfinished, ...] = ()
