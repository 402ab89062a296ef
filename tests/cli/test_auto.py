"""One command for the first and every later start; SLURM's requeue; damaged checkpoints; runs in use."""

import os
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_optreg.__main__ import main
from lightning_optreg.cli.main_cli import run
from lightning_optreg.runs import AtomicCheckpointIO
from lightning_optreg.runs.checkpoints import read_checkpoint
from lightning_optreg.runs.run_lock import RunLock
from tests.cli.tools import load, short
from tests.resume_tools import assert_identical

pytestmark = [
    pytest.mark.usefixtures("blank_curves"),
    # The finished run that is trained once is copied to where each test continues it.
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    # said of damaged checkpoints, and asserted where it matters
    pytest.mark.filterwarnings("ignore:.*left out is"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, fashion_mnist_dir: Path) -> Path:
    root = tmp_path_factory.mktemp("finished")
    assert main(["fit", *short(fashion_mnist_dir, root), "--ckpt_path=auto"]) == 0
    return root


@pytest.fixture
def trained(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished / "version_0", tmp_path / "version_0")
    return tmp_path / "version_0"


@pytest.fixture
def options(fashion_mnist_dir: Path, tmp_path: Path) -> list[str]:
    return short(fashion_mnist_dir, tmp_path)


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make this process one of SLURM's job 77, after so many restarts."""

    def start(restarts: int) -> None:
        monkeypatch.setenv("SLURM_JOB_ID", "77")
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))

    return start


def spoil(path: Path) -> None:
    """Change a byte of a weight."""
    with zipfile.ZipFile(path) as archive:
        record = next(one for one in archive.infolist() if one.filename.endswith("/data/0"))
    content = bytearray(path.read_bytes())
    content[record.header_offset + 200] ^= 1
    path.write_bytes(content)


def further(checkpoint: Path, copy: Path, steps: int) -> Path:
    """A copy of a checkpoint that says to have made more steps."""
    content = load(checkpoint)
    content["global_step"] += steps
    torch.save(content, copy)
    return copy


def versions(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    (message,) = [line for line in err.splitlines() if line.startswith("error: ")]
    return message


# ---- auto --------------------------------------------------------------------------------------------------


def test_auto_begins_and_goes_on(
    options: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["fit", *options, "--ckpt_path=auto"]) == 0
    assert "ckpt_path=auto: no run under" in caplog.text
    assert main(["fit", *options, "--ckpt_path=auto", "--trainer.max_epochs=2"]) == 0
    assert f"ckpt_path=auto: goes on from {tmp_path}/version_0/checkpoints/" in caplog.text
    assert versions(tmp_path) == ["version_0"]
    assert load(tmp_path / "version_0/checkpoints/last.ckpt")["epoch"] == 1


def test_a_complete_run_is_said_to_be(
    trained: Path, options: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = {name: (trained / name).read_bytes() for name in ("metrics.csv", "checkpoints/last.ckpt")}
    assert main(["fit", *options, "--ckpt_path=auto"]) == 0
    assert "the run is complete, nothing was left to train" in caplog.text
    assert {name: (trained / name).read_bytes() for name in before} == before
    assert versions(tmp_path) == ["version_0"]


def test_auto_leaves_a_damaged_one_out_and_says_so(
    trained: Path, options: list[str], caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    last, best = trained / "checkpoints/last.ckpt", trained / "checkpoints/best.ckpt"
    os.utime(last)
    spoil(last)
    assert main(["fit", *options, "--ckpt_path=auto"]) == 0
    said = [str(warning.message) for warning in recwarn if "left out is" in str(warning.message)]
    assert len(said) == 1
    assert f"left out is {last} is damaged" in said[0]
    assert f"goes on from {best}" in caplog.text


def test_auto_does_not_begin_anew_over_damaged_ones(
    trained: Path, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in trained.glob("checkpoints/*.ckpt"):
        path.write_bytes(path.read_bytes()[:100])
    assert main(["fit", *options, "--ckpt_path=auto"]) == 2
    assert "can be resumed from" in error_of(capsys)
    assert versions(tmp_path) == ["version_0"]


@pytest.mark.parametrize("wanted", ["last", "file"])
def test_a_damaged_one_that_was_named_is_refused(
    wanted: str, trained: Path, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = trained / "checkpoints/last.ckpt"
    spoil(last)
    given = str(last) if wanted == "file" else wanted
    assert main(["fit", *options, f"--ckpt_path={given}"]) == 2
    message = error_of(capsys)
    assert f"{last} is damaged (Bad CRC-32" in message
    assert f"newest intact checkpoint: {trained}/checkpoints/best.ckpt" in message
    assert versions(tmp_path) == ["version_0"]


@pytest.mark.parametrize(
    "argv",
    [["test", "--ckpt_path=last"], ["export", "--ckpt_path=last", "--output=net.onnx"]],
    ids=lambda argv: str(argv[0]),
)
def test_every_reader_refuses_it(
    argv: list[str], trained: Path, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(trained / "checkpoints/last.ckpt")
    more = options if argv[0] == "test" else ["--default_root_dir", str(tmp_path)]
    assert main([argv[0], *more, *argv[1:]]) == 2
    assert "last.ckpt is damaged (Bad CRC-32" in error_of(capsys)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*has no checksums")
def test_every_reader_tells_any_damage(trained: Path) -> None:
    last = trained / "checkpoints/last.ckpt"
    whole, content = last.read_bytes(), load(last)
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    readers: list[Callable[[Path], Any]] = [
        read_checkpoint,
        lambda path: AtomicCheckpointIO().load_checkpoint(path, weights_only=True),
    ]
    refusals = []
    for number in range(100):
        place, length = moments.randrange(len(whole)), moments.choice([1, 1, 8, 4096])
        changed = whole[:place] + moments.randbytes(length) + whole[place + length :]
        last.write_bytes(changed[:place] if number % 5 == 0 else changed)
        for reader in readers:
            try:
                assert_identical(reader(last), content, f"seed {seed}, {number}: ")
            except ValueError as refusal:
                refusals.append(str(refusal).removeprefix("ckpt_path: "))
    assert len(refusals) > 100
    assert [one for one in refusals if not one.startswith(f"{last} is ") or "\n" in one] == []


def test_auto_is_for_fit(trained: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", *options, "--ckpt_path=auto"]) == 2
    assert "ckpt_path=auto works only with fit" in error_of(capsys)


def test_auto_and_checkpoints_elsewhere(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = [
        "--trainer.callbacks=ModelCheckpoint",
        f"--trainer.callbacks.dirpath={tmp_path / 'elsewhere'}",
    ]
    assert main(["fit", *options, *elsewhere, "--ckpt_path=auto"]) == 2
    assert "every ModelCheckpoint has its own dirpath" in error_of(capsys)
    assert versions(tmp_path) == []


# ---- the newest --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "taken"), [(1, "hpc_ckpt_1.ckpt"), (-1, "checkpoints/last.ckpt")])
def test_last_is_the_one_with_more_steps(
    steps: int, taken: str, trained: Path, options: list[str], tmp_path: Path
) -> None:
    further(trained / "checkpoints/last.ckpt", trained / "hpc_ckpt_1.ckpt", steps)
    cli = run(["fit", *options, "--ckpt_path=last"])
    assert cli.checkpoint_path == trained / taken
    assert cli.run_folder == trained


def test_auto_takes_the_one_with_more_steps(trained: Path, options: list[str]) -> None:
    newest = further(trained / "checkpoints/last.ckpt", trained / "checkpoints/step.ckpt", 5)
    os.utime(newest, (1, 1))  # copied with an old time
    assert run(["fit", *options, "--ckpt_path=auto"]).checkpoint_path == newest


def test_weights_alone_cannot_be_resumed_from(trained: Path, options: list[str]) -> None:
    content = load(trained / "checkpoints/last.ckpt")
    torch.save({"global_step": 999, "state_dict": content["state_dict"]}, trained / "checkpoints/w.ckpt")
    taken = run(["fit", *options, "--ckpt_path=auto"]).checkpoint_path
    assert taken is not None
    assert taken.name in ("last.ckpt", "best.ckpt")


# ---- SLURM's requeue ---------------------------------------------------------------------------------------


def test_a_requeued_job_goes_on_in_its_folder(
    slurm: Callable[[int], None], options: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    slurm(0)
    assert main(["fit", *options, "--seed_everything=1"]) == 0
    assert main(["fit", *options]) == 0  # a second run of the same job
    folder = tmp_path / "version_0"
    further(folder / "checkpoints/last.ckpt", folder / "hpc_ckpt_1.ckpt", 1)
    slurm(1)
    cli = run(["fit", *options, "--seed_everything=1"])
    assert cli.run_folder == folder
    assert cli.checkpoint_path == folder / "hpc_ckpt_1.ckpt"
    assert f"SLURM job 77 was requeued: goes on from {folder}/hpc_ckpt_1.ckpt" in caplog.text
    assert run(["fit", *options]).run_folder == tmp_path / "version_1"
    assert run(["fit", *options, "--seed_everything=2"]).run_folder == tmp_path / "version_2"


@pytest.mark.slow
def test_another_start_in_the_same_job_begins_anew(
    slurm: Callable[[int], None], options: list[str], tmp_path: Path
) -> None:
    slurm(0)
    assert run(["fit", *options]).run_folder == tmp_path / "version_0"
    assert run(["fit", *options]).run_folder == tmp_path / "version_1"


# ---- in use ------------------------------------------------------------------------------------------------


def test_a_run_in_use_is_not_continued(
    trained: Path, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = RunLock(trained, "fit")
    lock.acquire()
    before = (trained / "metrics.csv").read_text()
    try:
        assert main(["fit", *options, "--ckpt_path=last"]) == 2
        message = error_of(capsys)
        assert f"the run {trained} is in use by process {os.getpid()} on" in message
        with pytest.warns(UserWarning, match="are not added to its table"):
            assert main(["test", *options, "--ckpt_path=last"]) == 0
    finally:
        lock.release()
    assert (trained / "metrics.csv").read_text() == before
    assert versions(tmp_path) == ["version_0"]
    assert not (trained / "run.lock").exists()


def test_a_start_that_fails_leaves_no_folder(options: list[str], tmp_path: Path) -> None:
    root = tmp_path / "new" / "runs"
    wrong: list[Any] = [f"--trainer.default_root_dir={root}", "--model.net=ResNet", "--model.net.depth=21"]
    assert main(["fit", *options, *wrong]) == 2
    assert list(tmp_path.iterdir()) == []


def test_its_configuration_makes_the_run_once_more(trained: Path, tmp_path: Path) -> None:
    root = f"--trainer.default_root_dir={tmp_path}"  # that of the copy
    assert main(["fit", "--config", str(trained / "config.yaml"), root]) == 0
    assert versions(tmp_path) == ["version_0", "version_1"]
    first, second = (load(tmp_path / name / "checkpoints" / "last.ckpt") for name in versions(tmp_path))
    assert_identical(first["state_dict"], second["state_dict"])
