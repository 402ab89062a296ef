import multiprocessing
import os
import stat
from pathlib import Path

import pytest
import torch

from lightning_optreg.data import _cache as cache
from lightning_optreg.data._cache import cached, default_cache_dir, fingerprint


def numbers():
    return {"x": torch.arange(1000), "y": torch.ones(3)}


def never():
    raise AssertionError("this was to come from the cache")


def test_made_once_and_mapped_afterwards(tmp_path):
    folder = tmp_path / "new" / "folder"
    first = cached(folder, "numbers", {"a": 1}, numbers)
    again = cached(folder, "numbers", {"a": 1}, never)
    for name, value in numbers().items():
        assert torch.equal(first[name], value)
        assert torch.equal(again[name], value)
    assert [path.name.split("-")[0] for path in folder.iterdir()] == ["numbers"]  # no temporary file left


def test_other_keys_have_other_files(tmp_path):
    for key in ({"a": 1}, {"a": 2}, {"a": 1, "b": None}, {"a": [1]}):
        value = torch.rand(2)
        assert torch.equal(cached(tmp_path, "x", key, lambda value=value: {"v": value})["v"], value)
    assert len(list(tmp_path.iterdir())) == 4


def test_writing_to_the_tensors_does_not_change_the_file(tmp_path):
    cached(tmp_path, "x", {}, numbers)["x"].zero_()
    assert torch.equal(cached(tmp_path, "x", {}, never)["x"], torch.arange(1000))


def test_damaged_file_is_made_anew_with_a_warning(tmp_path):
    cached(tmp_path, "x", {}, numbers)
    (path,) = tmp_path.iterdir()
    for content in (path.read_bytes()[:500], b"", b"not a zip file"):
        path.write_bytes(content)
        with pytest.warns(UserWarning, match=r"x-.*\.pt cannot be read and is made again"):
            assert torch.equal(cached(tmp_path, "x", {}, numbers)["x"], torch.arange(1000))
        cached(tmp_path, "x", {}, never)


def test_folder_that_cannot_be_made_gives_a_warning_and_the_data(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    with pytest.warns(UserWarning, match=r"Cannot write to the cache .*file/cache .*decoded at every start"):
        assert torch.equal(cached(blocker / "cache", "x", {}, numbers)["x"], torch.arange(1000))


def test_full_disk_gives_a_warning_and_leaves_nothing(tmp_path, monkeypatch):
    def save(tensors, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.torch, "save", save)
    with pytest.warns(UserWarning, match="No space left on device"):
        assert torch.equal(cached(tmp_path, "x", {}, numbers)["x"], torch.arange(1000))
    assert list(tmp_path.iterdir()) == []


def test_errors_of_make_are_not_swallowed(tmp_path):
    def make():
        raise ValueError("damaged source")

    with pytest.raises(ValueError, match="damaged source"):
        cached(tmp_path, "x", {}, make)


def race(folder: Path, barrier) -> None:
    barrier.wait()
    for key in range(20):
        tensors = cached(folder, "race", {"key": key}, lambda key=key: {"x": torch.full((5000,), key)})
        if not (tensors["x"] == key).all():
            os._exit(1)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # threads of pytest's plugins
def test_processes_may_race(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    processes = [context.Process(target=race, args=(tmp_path, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(list(tmp_path.iterdir())) == 20


def test_file_has_the_usual_permissions(tmp_path):
    reference = tmp_path / "reference"
    reference.touch()
    cached(tmp_path / "cache", "x", {}, numbers)
    (path,) = (tmp_path / "cache").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(reference.stat().st_mode)


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "lightning_optreg"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "lightning_optreg"


def test_fingerprint_changes_with_the_file(tmp_path):
    path = tmp_path / "data"
    path.write_text("one")
    modified = path.stat().st_mtime_ns
    first = fingerprint([path])
    assert fingerprint([path]) == first
    os.utime(path, ns=(0, 1))
    assert fingerprint([path]) != first
    path.write_text("longer")
    os.utime(path, ns=(0, modified))
    assert fingerprint([path]) != first
