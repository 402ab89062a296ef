"""Trials are chosen by Optuna, each once, and go on where a dead process left them."""

import math
from pathlib import Path
from typing import Any

import pytest

from lightning_optreg.studies.run_queue import Queue
from lightning_optreg.studies.search import Search
from tests.studies.search_tools import LR, queue, record, search, work_through
from tests.studies.tools import claimed, die

optuna = pytest.importorskip("optuna", reason="the extra 'tune' is not installed")

KEY = "optimizer.init_args.lr"


def near(values: dict[str, Any]) -> float:
    """Best at 0.1."""
    return -abs(math.log10(values[KEY]) + 1.0)


def test_each_trial_is_chosen_and_done_once(tmp_path: Path) -> None:
    it = queue(search(tmp_path), tmp_path)
    done = work_through(it, near)
    assert [number for number, _ in done] == [0, 1, 2, 3]
    assert len({values[KEY] for _, values in done}) == 4
    assert all(LR["low"] <= values[KEY] <= LR["high"] for _, values in done)
    assert it.unfinished() == []
    # Another start finds nothing to do; with more trials it goes on.
    assert work_through(queue(search(tmp_path), tmp_path), near) == []
    assert [n for n, _ in work_through(queue(search(tmp_path, trials=6), tmp_path), near)] == [4, 5]


@pytest.mark.slow
def test_the_sampler_learns(tmp_path: Path) -> None:
    """TPE's last trials are nearer to the best value than random ones are in the mean."""
    plan = search(tmp_path, trials=40, sampler={"name": "tpe", "n_startup_trials": 10})
    scores = [near(values) for _, values in work_through(queue(plan, tmp_path), near)]
    by_chance = -5 / 6  # the mean distance of a uniform number on [-3, 0] from -1
    assert sum(scores[-10:]) / 10 > by_chance / 2


def test_a_stopped_search_chooses_as_if_it_had_not_been(tmp_path: Path) -> None:
    plan = search(tmp_path, trials=8, sampler={"name": "tpe", "n_startup_trials": 3})
    (tmp_path / "straight").mkdir()
    straight = work_through(queue(plan, tmp_path / "straight"), near)
    stopped = []
    for _ in range(8):
        it = queue(plan, tmp_path)  # another process
        claim = claimed(it)
        it.choose(claim)
        it.give_back(claim)  # it is interrupted at once, and the trial done by the next start
        it.fill()
        claim = claimed(it)
        it.choose(claim)
        values = dict(claim.trial.params)
        stopped.append((int(claim.run.value), values))
        it.finish(claim, record(claim, [near(values)]))
    assert stopped == straight


def test_workers_of_one_seed_choose_different_settings(tmp_path: Path) -> None:
    plan = search(tmp_path, sampler="random")
    first, second = queue(plan, tmp_path), queue(plan, tmp_path)
    chosen = []
    for it in (first, second):
        claim = claimed(it)
        it.choose(claim)
        chosen.append(claim.trial.params[KEY])
    assert chosen[0] != chosen[1]
    (tmp_path / "again").mkdir()
    again = [values[KEY] for _, values in work_through(queue(plan, tmp_path / "again"), near)]
    assert again[:2] == chosen  # and the same ones in another run of the study


def test_a_trial_whose_process_died_keeps_its_settings(tmp_path: Path) -> None:
    plan = search(tmp_path)
    first, second = queue(plan, tmp_path), queue(plan, tmp_path)
    lost = claimed(first)
    settings, name = first.choose(lost)
    die(lost)
    claims = [claimed(second)]
    assert second.choose(claims[0]) == (settings, name)
    assert claims[0].run == lost.run  # hence its folder, with the checkpoint
    second.finish(claims[0], record(claims[0], [0.5]))
    assert len(work_through(second, near)) == 3
    assert len(second.records()) == 4
    assert second.unfinished() == []


def test_a_failed_trial_counts_and_is_not_repeated_in_the_same_start(tmp_path: Path) -> None:
    it = queue(search(tmp_path, trials=2), tmp_path)
    claim = claimed(it)
    it.choose(claim)
    failed = record(claim, [0.5], "failed")
    it.finish(claim, failed)
    assert [n for n, _ in work_through(it, near)] == [1]
    assert [run.state for run in it.unfinished()] == ["failed"]
    it.fill()  # the next start tries it again
    again = claimed(it)
    it.choose(again)
    assert (again.run, again.trial.params) == (claim.run, claim.trial.params)


def test_what_is_given_comes_first(tmp_path: Path) -> None:
    it = queue(search(tmp_path, first=[{KEY: 0.5}, {KEY: 0.02}]), tmp_path)
    done = work_through(it, near)
    assert [values[KEY] for _, values in done[:2]] == [0.5, 0.02]
    assert len(done) == 4


def test_a_grid_is_worked_off_by_several(tmp_path: Path) -> None:
    space = {KEY: {**LR, "points": 4}, "batch": {"choice": [1, 2]}}
    plan = search(tmp_path, search=space, sampler="grid", trials=None, first=[{KEY: 0.5, "batch": 2}])
    assert plan.size == 9
    queues = [queue(plan, tmp_path), queue(plan, tmp_path)]
    open_claims = [claimed(it) for it in queues]
    for it, claim in zip(queues, open_claims, strict=True):
        it.choose(claim)
        it.finish(claim, record(claim, [0.5]))
    work_through(queues[0], near)
    points = [trial.params for trial in queues[1].results().values()]
    assert points[0] == {KEY: 0.5, "batch": "2"}
    grid = [{KEY: lr, "batch": batch} for lr in (1e-3, 1e-2, 1e-1, 1.0) for batch in ("1", "2")]
    assert points[1:] == grid


def test_conditions_reach_the_settings(tmp_path: Path) -> None:
    choice = {name: {"class_path": name, "init_args": {}} for name in ("SGD", "Adam")}
    space = {
        "optimizer": {"choice": choice},
        "optimizer.init_args.momentum": {"low": 0.5, "high": 0.9, "when": {"optimizer": "SGD"}},
    }
    it = queue(search(tmp_path, search=space, trials=8, sampler="random"), tmp_path)
    seen = set()
    while (claim := it.claim()) is not None:
        optimizer = it.choose(claim).settings["optimizer"]
        seen.add(optimizer["class_path"])
        assert ("momentum" in optimizer["init_args"]) == (optimizer["class_path"] == "SGD")
        it.finish(claim, record(claim, [0.5]))
    assert seen == {"SGD", "Adam"}


def test_a_budget_of_passes_counts_what_was_used(tmp_path: Path) -> None:
    it = queue(search(tmp_path, trials=None, total_epochs=8), tmp_path)
    used = 0
    while (claim := it.claim()) is not None:
        it.choose(claim)
        accuracies = [0.5] if claim.run.value % 2 else [0.5, 0.6, 0.7]
        used += len(accuracies)
        it.finish(claim, record(claim, accuracies, "complete" if len(accuracies) == 3 else "pruned"))
    assert used == 8  # 3 + 1 + 3 + 1
    # A trial in progress counts with all that it may use.
    (tmp_path / "other").mkdir()
    plan = search(tmp_path, trials=None, total_epochs=6)
    queues = [queue(plan, tmp_path / "other") for _ in range(3)]
    assert [it.claim() is not None for it in queues] == [True, True, False]


def test_after_its_minutes_nothing_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("lightning_optreg.studies.run_queue.time.monotonic", lambda: clock[0])
    it = queue(search(tmp_path, trials=None, minutes=2), tmp_path)
    claim = claimed(it)
    clock[0] = 121.0
    assert it.claim() is None
    it.choose(claim)
    it.finish(claim, record(claim, [0.5]))  # what was begun is finished
    assert len(it.records()) == 1
    assert queue(it.plan, tmp_path).claim() is not None  # the next start has its own minutes


def test_another_search_of_the_name_is_refused(tmp_path: Path) -> None:
    queue(search(tmp_path), tmp_path)
    other = search(tmp_path, search={KEY: {**LR, "high": 2.0}})
    with pytest.raises(
        ValueError, match=r"search\.optimizer\.init_args\.lr\.high is 1\.0 there and 2\.0 here"
    ):
        queue(other, tmp_path)
    queue(search(tmp_path, trials=9, sampler="random", pruner="none"), tmp_path)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"trials": None}, "trials: missing; or give total_epochs or minutes"),
    ({"trials": 0}, "trials: must be > 0, got 0"),
    ({"minutes": -1}, "minutes: must be > 0, got -1"),
    ({"seed": -1}, "seed: must be >= 0, got -1"),
    ({"sampler": "tpo"}, "sampler: unknown name 'tpo'; did you mean tpe?"),
    ({"sampler": {"name": "tpe", "seed": 1}}, "sampler.seed: must be left out"),
    ({"sampler": {"name": "grid", "n": 1}}, "sampler.grid: takes no arguments, got n"),
    ({"sampler": "grid"}, "a grid needs `points`"),
    ({"pruner": "meridian"}, "pruner: unknown name 'meridian'; did you mean median?"),
    ({"first": [0.1]}, "first.0: must be a mapping"),
    ({"first": [{"lr": 0.1}]}, "first.0: 'lr' is not searched"),
    ({"first": [{KEY: 2.0}]}, "first.0: optimizer.init_args.lr = 2.0 is outside its range"),
    ({"search": {"optimizer.lr": LR, "optimizer.lr.x": LR}}, "search.optimizer.lr.x: "),
    ({"base": [{"trainer": {"devices": 2}}]}, "trainer.devices must be 1"),
    ({"metric": "val/acuracy"}, "did you mean val/accuracy"),
    ({"trails": 3}, "trails: unknown key; did you mean trials?"),
]


@pytest.mark.parametrize(("changes", "sentence"), WRONG)
def test_mistakes_are_named(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"study\.yaml") as error:
        search(tmp_path, **changes)
    assert sentence in str(error.value)


def test_optuna_s_own_arguments_are_checked_before_the_first_trial(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sampler\.tpe: .*n_start"):
        search(tmp_path, sampler={"name": "tpe", "n_start": 3}).check()
    with pytest.raises(ValueError, match=r"pruner\.median: "):
        search(tmp_path, pruner={"name": "median", "n_startup_trials": -1}).check()


def test_every_option_is_rehearsed(tmp_path: Path) -> None:
    nets = ["MLP", "LeNet5", "ResNet"]
    plan = search(tmp_path, search={"model.net": {"choice": nets}, KEY: LR}, first=[{KEY: 0.1}])
    settings = list(plan.rehearsals().values())
    assert [each["model"]["net"] for each in settings[:3]] == nets
    assert settings[3]["optimizer"]["init_args"]["lr"] == 0.1


def test_it_is_the_queue_of_a_search(tmp_path: Path) -> None:
    it: Queue[Search] = queue(search(tmp_path), tmp_path)
    assert it.plan.outline() == "small: 1 settings, tpe, median pruning, 3 passes a trial, at most 4 trials"
