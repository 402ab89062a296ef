"""AtomicCheckpointIO: whole or not there, checked when read, beside Lightning's other parts."""

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO

from lightning_optreg.cli.trainer import Trainer as OurTrainer
from lightning_optreg.files import remove_leftovers, replacing
from lightning_optreg.runs import AtomicCheckpointIO
from tests.resume_tools import assert_identical

needs_fork = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="kills a process of its own, which needs fork"
)
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")


def content(step: int = 1, size: int = 10) -> dict[str, Any]:
    return {
        "state_dict": {"w": torch.full((size,), float(step))},
        "global_step": step,
        "loops": {},
        "optimizer_states": [],
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def spoil(path: Path) -> None:
    whole = path.read_bytes()
    place = len(whole) // 2
    path.write_bytes(whole[:place] + bytes(b ^ 255 for b in whole[place : place + 8]) + whole[place + 8 :])


# ---- written -----------------------------------------------------------------------------------------------


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    io = AtomicCheckpointIO()
    for path in (tmp_path / "new" / "a.ckpt", f"file://{tmp_path}/b.ckpt"):
        io.save_checkpoint(content(), path)
        assert_identical(io.load_checkpoint(path, weights_only=True), content())
    for mmap in (False, True):
        plain = torch.load(tmp_path / "new" / "a.ckpt", weights_only=True, mmap=mmap)
        assert_identical(plain, content())
    io.remove_checkpoint(tmp_path / "new" / "a.ckpt")
    assert names(tmp_path / "new") == []


def test_a_url_is_lightnings(tmp_path: Path) -> None:
    io, url = AtomicCheckpointIO(), "memory://runs/a.ckpt"
    io.save_checkpoint(content(), url)
    assert_identical(io.load_checkpoint(url, weights_only=True), content())
    io.remove_checkpoint(url)
    with pytest.raises(FileNotFoundError):
        io.load_checkpoint(url)


def test_it_has_checksums_whatever_torch_is_set_to(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.serialization.set_crc32_options(False)
    try:
        AtomicCheckpointIO().save_checkpoint(content(size=1000), path)
        assert not torch.serialization.get_crc32_options()
    finally:
        torch.serialization.set_crc32_options(True)
    spoil(path)
    with pytest.raises(ValueError, match="is damaged"):
        AtomicCheckpointIO().load_checkpoint(path)


@needs_fork
def test_a_full_disk_names_the_file_and_leaves_the_one_before(tmp_path: Path) -> None:
    import resource
    import signal

    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(content(1), path)
    pid = os.fork()
    if pid == 0:  # files of this process end at 20,000 bytes, as on a full disk
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        status = 1
        try:
            AtomicCheckpointIO().save_checkpoint(content(2, size=100_000), path)
        except OSError as error:
            named = error.filename == str(path) and error.errno == errno.EFBIG
            status = 0 if named and "not saved" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert names(tmp_path) == ["last.ckpt"]
    assert AtomicCheckpointIO().load_checkpoint(path)["global_step"] == 1


def test_a_file_where_the_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    path = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(OSError, match=r"this checkpoint is not saved: .*last\.ckpt"):
        AtomicCheckpointIO().save_checkpoint(content(), path)


def test_what_cannot_be_pickled_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(content(1), path)
    with pytest.raises((AttributeError, RuntimeError, TypeError)):
        AtomicCheckpointIO().save_checkpoint({"lock": threading.Lock()}, path)
    assert names(tmp_path) == ["last.ckpt"]
    assert AtomicCheckpointIO().load_checkpoint(path)["global_step"] == 1


# ---- what a killed writer leaves ---------------------------------------------------------------------------


@needs_fork
def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"

    def begin_to_write(before: list[str]) -> int:
        pid = os.fork()
        if pid == 0:
            with replacing(path, suffix="") as temporary:
                temporary.write_text("half")
                time.sleep(60)
            os._exit(0)
        end = time.monotonic() + 30
        while names(tmp_path) in (before, []) and time.monotonic() < end:
            time.sleep(0.01)
        return pid

    first = begin_to_write([])
    (left,) = names(tmp_path)
    os.kill(first, 9)
    os.waitpid(first, 0)
    second = begin_to_write([left])
    try:
        (living,) = names(tmp_path)  # the second has removed what the first left
        assert living != left
        AtomicCheckpointIO().save_checkpoint(content(), path)
        assert names(tmp_path) == [living, "last.ckpt"]
    finally:
        os.kill(second, 9)
        os.waitpid(second, 0)
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["last.ckpt"]


def test_other_peoples_files_stay(tmp_path: Path) -> None:
    for name in (".hidden.tmp", "a.tmp", f".a-{'0' * 31}.tmp"):
        (tmp_path / name).write_text("mine")
    remove_leftovers(tmp_path)
    assert len(names(tmp_path)) == 3


# ---- read --------------------------------------------------------------------------------------------------


def test_damage_is_told_and_the_newest_whole_one_named(tmp_path: Path) -> None:
    io = AtomicCheckpointIO()
    for step, name in ((10, "a"), (30, "c"), (20, "b")):
        io.save_checkpoint(content(step, size=1000), tmp_path / f"{name}.ckpt")
    spoil(tmp_path / "c.ckpt")
    with pytest.raises(
        ValueError, match=r"c\.ckpt is damaged .*newest intact checkpoint: .*b\.ckpt"
    ) as refusal:
        io.load_checkpoint(tmp_path / "c.ckpt")
    assert "\n" not in str(refusal.value)
    spoil(tmp_path / "b.ckpt")
    with pytest.raises(ValueError, match=r"newest intact checkpoint: .*a\.ckpt"):
        io.load_checkpoint(tmp_path / "c.ckpt")
    spoil(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="the run has no intact one"):
        io.load_checkpoint(tmp_path / "c.ckpt")


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"x\.ckpt"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "x.ckpt")


# ---- beside Lightning's parts ------------------------------------------------------------------------------


class Slow(AtomicCheckpointIO):
    """Writes slowly, and notes how many whole checkpoints there were at each moment."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.counts: list[int] = []

    def _count(self) -> None:
        if self.counts or any(self.folder.glob("*.ckpt")):
            self.counts.append(len(list(self.folder.glob("*.ckpt"))))

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        time.sleep(0.05)
        self._count()
        super().save_checkpoint(*args, **kwargs)
        self._count()

    def remove_checkpoint(self, path: Any) -> None:
        self._count()
        super().remove_checkpoint(path)
        self._count()


class Unhurried(BoringModel):
    """Its steps take longer than a checkpoint's writing."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        time.sleep(0.05)
        return super().training_step(batch, batch_idx)


def fit(folder: Path, io: Any, module: LightningModule, **options: Any) -> None:
    trainer = Trainer(
        max_epochs=4,
        limit_train_batches=2,
        limit_val_batches=0,
        accelerator="cpu",
        logger=False,
        plugins=[io],
        callbacks=[ModelCheckpoint(folder, "{step}", save_top_k=1, **options)],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module)


@pytest.mark.parametrize("module", [BoringModel(), Unhurried()], ids=["quick", "unhurried"])
@pytest.mark.parametrize(
    ("every_n_train_steps", "wrapped"),
    [
        (1, False),
        (None, True),
        pytest.param(1, True, marks=pytest.mark.slow),
        pytest.param(None, False, marks=pytest.mark.slow),
    ],
)
def test_there_is_a_checkpoint_at_every_moment(
    module: LightningModule, wrapped: bool, every_n_train_steps: int | None, tmp_path: Path
) -> None:
    io = Slow(tmp_path)
    fit(tmp_path, AsyncCheckpointIO(io) if wrapped else io, module, every_n_train_steps=every_n_train_steps)
    assert min(io.counts) >= 1
    assert names(tmp_path) == ["step=8.ckpt"]


def test_lightnings_own_has_such_a_moment(tmp_path: Path) -> None:
    class SlowTorch(TorchCheckpointIO):
        def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
            time.sleep(0.05)
            counts.append(len(list(tmp_path.glob("*.ckpt"))))
            super().save_checkpoint(*args, **kwargs)

    counts: list[int] = []
    fit(tmp_path, AsyncCheckpointIO(SlowTorch()), Unhurried())
    assert 0 in counts[1:]


def test_the_command_lines_trainer_has_it_unless_another_is_given(tmp_path: Path) -> None:
    def io_of(**options: Any) -> Any:
        return OurTrainer(
            accelerator="cpu", logger=False, default_root_dir=tmp_path, **options
        ).strategy.checkpoint_io

    assert type(io_of()) is AtomicCheckpointIO
    assert type(io_of(plugins=TorchCheckpointIO())) is TorchCheckpointIO
    around = AsyncCheckpointIO()
    assert io_of(plugins=[around]) is around
    assert type(around.checkpoint_io) is AtomicCheckpointIO
    around = AsyncCheckpointIO(TorchCheckpointIO())
    io_of(plugins=[around])
    assert type(around.checkpoint_io) is TorchCheckpointIO
