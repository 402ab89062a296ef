"""Bytes of a file changed at many places: never loaded as if nothing were wrong, always a sentence."""

import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_optreg.trust.torch_files import DamagedFileError, damage, digest, load_whole
from tests.resume_tools import assert_identical

CONTENT = {
    "state_dict": {"w": torch.randn(40, 30, generator=torch.Generator().manual_seed(0)), "b": torch.zeros(7)},
    "global_step": 3,
    "names": ["a", "bc"],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.save(CONTENT, tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


def refuses(path: Path) -> str:
    with pytest.raises(DamagedFileError) as refusal:
        load_whole(path)
    message = str(refusal.value)
    assert message.startswith(f"{path} is "), message
    assert "\n" not in message
    return message


def test_a_whole_file_is_loaded(path: Path) -> None:
    assert damage(path) is None
    assert_identical(load_whole(path), CONTENT)


def test_torch_itself_does_not_notice(path: Path) -> None:
    whole = path.read_bytes()
    (place,) = [
        i for i in range(len(whole)) if whole[i : i + 8] == CONTENT["state_dict"]["w"].numpy().tobytes()[:8]
    ]
    path.write_bytes(whole[: place + 3] + bytes([whole[place + 3] ^ 1]) + whole[place + 4 :])
    assert not torch.equal(torch.load(path, weights_only=True)["state_dict"]["w"], CONTENT["state_dict"]["w"])
    assert "CRC-32" in refuses(path)


@pytest.mark.parametrize("mask", [0x01, 0x10, 0xFF])
def test_a_byte_changed_anywhere(mask: int, path: Path) -> None:
    whole = path.read_bytes()
    seed = random.randrange(2**32)
    places = {*range(0, len(whole), 29), *range(200), *range(len(whole) - 700, len(whole))}
    places |= {random.Random(seed).randrange(len(whole)) for _ in range(200)}
    refusals = []
    for place in sorted(places):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])
        try:
            loaded = load_whole(path)
        except DamagedFileError as refusal:
            refusals.append(str(refusal))
        else:  # the byte says nothing of the content: padding, a date
            assert_identical(loaded, CONTENT, f"byte {place} of {len(whole)}: ")
    assert len(refusals) > 100
    assert [message for message in refusals if not message.startswith(f"{path} is ")] == []


def test_cut_at_any_length(path: Path) -> None:
    whole = path.read_bytes()
    for length in {*range(0, len(whole), 17), *range(len(whole) - 200, len(whole))}:
        path.write_bytes(whole[:length])
        refuses(path)


def test_blocks_that_were_never_written(path: Path) -> None:
    whole = path.read_bytes()
    for start in range(0, len(whole), 512):
        changed = whole[:start] + bytes(len(whole[start : start + 512])) + whole[start + 512 :]
        path.write_bytes(changed)
        try:
            loaded = load_whole(path)
        except DamagedFileError:
            continue
        assert_identical(loaded, CONTENT, f"block at {start}: ")


def as_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "no checkpoint")


OTHER: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("learning rate: 0.1\n" * 100),
    "noise": lambda path: path.write_bytes(random.Random(0).randbytes(5000)),
    "pickle of another program": lambda path: path.write_bytes(b"\x80\x02\x95\x00\x00"),
    "another archive": as_archive,
    "zeros": lambda path: path.write_bytes(bytes(4096)),
}


@pytest.mark.filterwarnings("ignore:.*has no checksums")
@pytest.mark.parametrize("kind", OTHER)
def test_what_is_no_file_of_torchs(kind: str, path: Path) -> None:
    OTHER[kind](path)
    refuses(path)


def test_a_folder(tmp_path: Path) -> None:
    assert "is a folder" in refuses(tmp_path)


def test_the_old_format_is_loaded_with_a_warning(path: Path) -> None:
    torch.save(CONTENT, path, _use_new_zipfile_serialization=False)
    with pytest.warns(UserWarning, match="has no checksums"):
        assert_identical(load_whole(path), CONTENT)


@pytest.mark.filterwarnings("ignore:.*has no checksums")
def test_the_old_format_cut_short(path: Path) -> None:
    torch.save(CONTENT, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for length in (*range(1, 1500, 7), len(whole) - 5):
        path.write_bytes(whole[:length])
        refuses(path)


def test_a_file_written_without_checksums_is_loaded_with_a_warning(path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(CONTENT, path)
    finally:
        torch.serialization.set_crc32_options(True)
    with pytest.warns(UserWarning, match="has no checksums"):
        assert_identical(load_whole(path), CONTENT)


def test_a_digest_tells_files_apart(path: Path) -> None:
    first = digest(path)
    torch.save({**CONTENT, "global_step": 4}, path)
    assert digest(path) != first
    path.write_bytes(path.read_bytes()[:-30])
    assert digest(path) not in (first, digest)
