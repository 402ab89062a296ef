"""A folder by URL answers as a folder on a disk does, and says in a sentence what can't be done."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lightning_optreg.files import is_writable, replacing
from lightning_optreg.places import (
    Place,
    UrlPath,
    check_place,
    folders_in,
    local_copy,
    place_of,
    remove_tree,
)
from tests.places.tools import memory, s3_server


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3")) as url:
        yield url


@pytest.fixture(params=["disk", "memory", pytest.param("s3", marks=pytest.mark.slow)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A folder that doesn't exist yet."""
    if request.param == "s3":
        return place_of(f"{request.getfixturevalue('bucket')}/{tmp_path.name}")
    return tmp_path / "new" if request.param == "disk" else memory() / "new"


def put(path: Place, text: str) -> None:
    with replacing(path) as file:
        file.write_text(text)


def test_all_places_answer_alike(root: Place) -> None:
    assert not root.exists()
    assert not root.is_dir()
    assert folders_in(root, "*") == []
    assert list(root.glob("*")) == []
    put(root / "version_2" / "checkpoints" / "a.ckpt", "a")
    put(root / "version_10" / "config.yaml", "b: 1")
    put(root / "notes.txt", "")
    assert root.exists()
    assert root.is_dir()
    assert not root.is_file()
    assert (root / "notes.txt").is_file()
    assert sorted(path.name for path in root.iterdir()) == ["notes.txt", "version_10", "version_2"]
    assert sorted(path.name for path in folders_in(root, "version_*")) == ["version_10", "version_2"]
    assert [path.name for path in (root / "version_2").glob("checkpoints/*.ckpt")] == ["a.ckpt"]
    assert [str(path) for path in root.rglob("*.ckpt")] == [str(root / "version_2/checkpoints/a.ckpt")]
    config = root / "version_10" / "config.yaml"
    assert (config.name, config.stem, config.suffix) == ("config.yaml", "config", ".yaml")
    assert config.parent == root / "version_10"
    assert config.read_text() == "b: 1"
    assert config.read_bytes() == b"b: 1"
    with config.open("rb") as file:
        assert file.read(1) == b"b"
    assert config.stat().st_size == 4
    assert str(config.with_name("c.yaml")) == str(root / "version_10" / "c.yaml")
    assert str(config.relative_to(root)) == "version_10/config.yaml"  # type: ignore[arg-type]
    assert config.is_relative_to(root)  # type: ignore[arg-type]
    config.unlink()
    config.unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        config.unlink()
    for wrong in (config.read_bytes, config.stat, lambda: list((root / "no").iterdir())):
        with pytest.raises(FileNotFoundError):
            wrong()
    assert is_writable(root)
    remove_tree(root)
    assert not root.exists()
    remove_tree(root)


def test_a_file_is_replaced_whole_or_not_at_all(root: Place) -> None:
    path = root / "a.txt"
    put(path, "old")

    def write_half() -> None:
        with replacing(path) as file:
            file.write_text("ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert [found.name for found in root.iterdir()] == ["a.txt"]


def test_a_copy_is_fetched_again_only_if_the_file_has_changed(root: Place) -> None:
    path = root / "a.txt"
    put(path, "old")
    first = local_copy(path)
    assert local_copy(path) == first
    put(path, "new")
    assert local_copy(path).read_text() == "new"
    assert isinstance(path, Path) or not first.exists()


def test_of_several_writers_of_a_new_file_one_succeeds(root: Place) -> None:
    if isinstance(root, Path):
        pytest.skip("folders are made there")
    path = root / "claim"
    path.write_bytes(b"first", new=True)
    with pytest.raises(FileExistsError, match=r"exists.*claim"):
        path.write_bytes(b"second", new=True)
    assert path.read_bytes() == b"first"


@pytest.mark.parametrize("text", ["runs", "/a/b", "file:///a/b"])
def test_local_ones_stay_paths(text: str) -> None:
    assert place_of(text) == Path(text.removeprefix("file://"))


def test_a_url_is_not_mangled() -> None:
    path = place_of("s3://bucket/runs/")
    assert str(path) == "s3://bucket/runs"
    assert str(path / "version_0" / "a.ckpt") == "s3://bucket/runs/version_0/a.ckpt"
    assert isinstance(path, UrlPath)
    assert str(path.parent.parent) == str(path.bucket) == "s3://bucket"
    assert not (path / "version_01").is_relative_to(path / "version_0")
    with pytest.raises(ValueError, match="url must be a URL such as s3://bucket/runs, got 'runs'"):
        UrlPath("runs")


def test_unknown_and_missing_packages_are_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"^root: 's4://b/a': Protocol not known: s4$"):
        check_place(UrlPath("s4://b/a"), "root")
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(ModuleNotFoundError, match=r"^root: s3://: .*s3fs.*'lightning-optreg\[s3\]'"):
        check_place(UrlPath("s3://b/a"), "root")


@pytest.mark.slow
def test_a_bucket_that_is_not_there(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_place(UrlPath(f"{bucket}/new"), "root")
    with pytest.raises(ValueError, match=r"^root: 's3://nothing/a': there is no bucket 'nothing'$"):
        check_place(UrlPath("s3://nothing/a"), "root")
    with pytest.raises(FileNotFoundError, match=r"bucket does not exist: 's3://nothing/a'"):
        UrlPath("s3://nothing/a").write_bytes(b"")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(ValueError, match=r"^root: 's3://bucket/a': Could not connect"):
        check_place(UrlPath("s3://bucket/a"), "root")
    s3fs.S3FileSystem.clear_instance_cache()
