"""Damaged and hostile checkpoints are data or refused; nothing of them is run, and none takes long."""

import io
import pickle
import pickletools
import time
import warnings
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from lightning_optreg import ImageClassifier
from lightning_optreg.nets import SoftmaxRegression
from lightning_optreg.trust import vetted_checkpoint
from lightning_optreg.trust.torch_files import read_plain
from tests.hardening.bytes import Damage, damages
from tests.hardening.search import by_effort, search
from tests.trust.payloads import Command, Trap

NAMES = ["os\nsystem", "builtins\neval", "builtins\nexec", "torch\nload", "torch.hub\nload", "posix\nsystem"]
SECONDS = 5.0


@pytest.fixture(scope="module")
def good() -> bytes:
    """A checkpoint with hyperparameters, tensors and an optimizer's state."""
    net = SoftmaxRegression(num_classes=3, input_shape=(1, 2, 2))
    optimizer = torch.optim.Adam(net.parameters())
    init_args = {"num_classes": 3, "input_shape": [1, 2, 2]}
    held = {
        "epoch": 1,
        "global_step": 10,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": {f"net.{name}": value for name, value in net.state_dict().items()},
        "optimizer_states": [optimizer.state_dict()],
        "callbacks": {"ModelCheckpoint": {"best_model_path": "a", "best_k_models": {"a": torch.ones(())}}},
        "hyper_parameters": {
            "net": {"class_path": "lightning_optreg.nets.SoftmaxRegression", "init_args": init_args},
            "num_classes": 3,
        },
    }
    file = io.BytesIO()
    torch.save(held, file)
    return file.getvalue()


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trap:
    return Trap(tmp_path, monkeypatch)


def data_or_refused(content: bytes, trap: Trap) -> None:
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of files without checksums, and of pickles before protocol 2
        path, begun = Path(folder, "a.ckpt"), time.monotonic()
        path.write_bytes(content)
        for read in (read_as_model, read_as_plain):
            try:
                read(path)
            except ValueError as error:
                if "weights_only=False" in str(error):
                    pytest.fail(f"torch's advice: {error}")
        assert time.monotonic() - begun < SECONDS
    assert not trap.was_sprung


def read_as_model(path: Path) -> None:
    with vetted_checkpoint(path, owner=ImageClassifier, key="hyper_parameters", given={}):
        pass


def read_as_plain(path: Path) -> None:
    read_plain(path, what="a test")


def rezipped(content: bytes, damage: Damage, hostile: bytes) -> bytes:
    """The archive with other pickled bytes and right checksums, so that torch reads them."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        for record in old.infolist():
            held = old.read(record)
            if record.filename.endswith("/data.pkl"):
                held = damage.of(held)
                middle = len(held) // 2
                held = held[:middle] + hostile + held[middle:]
            new.writestr(record.filename, held)
    return file.getvalue()


@by_effort(few=25, many=1_500)
def test_damaged_checkpoints(good: bytes, examples: int, trap: Trap) -> None:
    search(examples, damages(), lambda damage: data_or_refused(damage.of(good), trap))


@by_effort(few=40, many=3_000)
def test_whole_archives_of_damaged_pickles(good: bytes, examples: int, trap: Trap) -> None:
    command = f"(S'touch {trap.mark}'\ntR".encode()
    calls = st.sampled_from(NAMES).map(lambda name: b"c" + name.encode() + b"\n" + command)
    codes = st.sampled_from([op.code.encode("latin-1") for op in pickletools.opcodes])
    hostile = st.one_of(
        st.just(b""), calls, st.tuples(codes, st.binary(max_size=9)).map(b"".join), st.binary(max_size=12)
    )
    search(
        examples,
        st.tuples(damages(), hostile),
        lambda found: data_or_refused(rezipped(good, *found), trap),
    )


@by_effort(few=25, many=1_000)
def test_pickles_of_before_torchs_archives(examples: int, trap: Trap) -> None:
    old = io.BytesIO()
    torch.save({"w": torch.ones(3), "names": ["a"] * 3}, old, _use_new_zipfile_serialization=False)
    command = pickle.dumps(Command(trap.mark))
    content = st.tuples(damages(), st.booleans()).map(
        lambda found: found[0].of(command if found[1] else old.getvalue())
    )
    search(examples, content, lambda content: data_or_refused(content, trap))


def test_an_archive_that_unpacks_to_much_more_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.ckpt"
    torch.save({"w": torch.zeros(1 << 20)}, file)
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(tmp_path / "b.ckpt", "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    assert (tmp_path / "b.ckpt").stat().st_size < 10_000
    for read in (read_as_model, read_as_plain):
        with pytest.raises(ValueError, match=r"b\.ckpt'? is damaged \(.* is compressed, which torch's files"):
            read(tmp_path / "b.ckpt")


def test_tensors_larger_than_their_file_are_refused(tmp_path: Path) -> None:
    module = nn.Linear(2, 2)
    torch.save(module.state_dict(), tmp_path / "a.ckpt")
    content = (tmp_path / "a.ckpt").read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        (name,) = (each for each in old.namelist() if each.endswith("/data.pkl"))
        pickled = old.read(name)
    assert b"K\x02K\x02\x86" in pickled  # the shape (2, 2)
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        for each in old.namelist():
            held = old.read(each)
            new.writestr(each, held.replace(b"K\x02K\x02\x86", b"K\xffK\xff\x86") if each == name else held)
    (tmp_path / "b.ckpt").write_bytes(file.getvalue())
    for read in (read_as_model, read_as_plain):
        with pytest.raises(ValueError, match=r"b\.ckpt'? is damaged or not a checkpoint"):
            read(tmp_path / "b.ckpt")
