"""Settings that would start more processes than the machine has cores."""

import os
from pathlib import Path

import pytest
from jsonargparse import Namespace

import lightning_optreg.strategies  # noqa: F401  # so that their names are known
from lightning_optreg.__main__ import main
from lightning_optreg.cli import processes
from lightning_optreg.cli.processes import check_processes, check_started


def settings(devices: object, *, workers: int = 0, accelerator: str = "cpu", told: bool = False) -> Namespace:
    return Namespace(
        {
            "trainer": Namespace(devices=devices, accelerator=accelerator),
            "data.init_args.num_workers": workers,
            "oversubscribe": told,
        }
    )


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    else:
        monkeypatch.setattr(os, "cpu_count", lambda: 4)


@pytest.mark.usefixtures("four_cores")
def test_as_many_as_there_are_cores_are_allowed() -> None:
    for devices in ("auto", 1, 4, "4", [0, 1, 2, 3], "0,1"):
        check_processes(settings(devices))
    check_processes(settings(1, workers=32))


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize("devices", [5, "5", 99999, "99999", [0, 1, 2, 3, 4]])
@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_more_are_refused_unless_told(
    devices: object, accelerator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(processes.MPSAccelerator, "is_available", lambda: False)
    with pytest.raises(
        ValueError, match=r"^trainer\.devices must be <= 4, this machine's CPU cores, got \d+; "
    ):
        check_processes(settings(devices, accelerator=accelerator))
    check_processes(settings(devices, accelerator=accelerator, told=True))


@pytest.mark.usefixtures("four_cores")
def test_processes_that_load_data_are_counted_too() -> None:
    with pytest.raises(ValueError, match=r"^data\.num_workers must be <= 32, 8 for each .*, got 33; "):
        check_processes(settings(1, workers=33))
    check_processes(settings(1, workers=33, told=True))


@pytest.mark.usefixtures("four_cores")
def test_workers_that_a_strategy_starts_on_this_machine_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def with_workers(count: int | None, **more: object) -> Namespace:
        given = settings(1)
        given.trainer.strategy = Namespace(class_path="Downpour", init_args=Namespace(workers=count, **more))
        return given

    for allowed in (with_workers(4), with_workers(None), with_workers(99, address="10.0.0.1:6379")):
        check_processes(allowed)
    with pytest.raises(ValueError, match=r"^trainer\.strategy\.workers must be <= 4, .*, got 5; "):
        check_processes(with_workers(5))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    check_processes(with_workers(5))


@pytest.mark.parametrize(
    "strategy",
    ["Hogwild", Namespace(class_path="lightning_optreg.strategies.Downpour", init_args=Namespace())],
)
def test_workers_are_not_started_twice(strategy: object, monkeypatch: pytest.MonkeyPatch) -> None:
    check_started(Namespace(strategy=strategy))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    check_started(Namespace(strategy=strategy))  # one process
    monkeypatch.setenv("WORLD_SIZE", "2")
    for other in ("auto", "ddp", "LocalSGD"):
        check_started(Namespace(strategy=other))
    with pytest.raises(
        ValueError, match=r"^trainer\.strategy: \w+ starts its workers itself; .* 2 processes"
    ):
        check_started(Namespace(strategy=strategy))


def test_devices_of_an_accelerator_are_its_own_matter() -> None:
    check_processes(settings(99999, accelerator="gpu"))


@pytest.mark.parametrize(
    ("option", "says"),
    [("--trainer.devices=99999", "trainer.devices"), ("--data.num_workers=99999", "data.num_workers")],
)
def test_the_command_line_refuses_them_in_one_line(
    option: str, says: str, tmp_path: Path, fashion_mnist_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data=FashionMNISTDataModule", f"--data.data_dir={fashion_mnist_dir}", "--model.net=LeNet5"]
    runs = f"--trainer.default_root_dir={tmp_path / 'runs'}"
    assert main(["fit", *options, runs, "--trainer.accelerator=cpu", option]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {says} must be <= ")
    assert "got 99999; --oversubscribe true allows more" in line
    assert not (tmp_path / "runs").exists()
