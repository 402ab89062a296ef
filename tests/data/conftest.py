"""What the tests of the built-in data sets share."""

from pathlib import Path

import pytest

from lightning_optreg.data import cifar10, fashion_mnist


@pytest.fixture
def nowhere_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is found on the system or downloaded earlier, unless a test says so."""
    for module in (cifar10, fashion_mnist):
        monkeypatch.setattr(module, "_SYSTEM", tmp_path / "no-such-folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
