"""A stand-in for Ray: servers in this process, whose calls are made at once. For one worker."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from lightning_optreg.strategies.servers import _server_strategy


class _Method:
    def __init__(self, method: Any) -> None:
        self._method = method

    def remote(self, *args: Any) -> Any:
        # What is sent is pickled in truth: neither side sees later changes of the other's.
        return copy.deepcopy(self._method(*copy.deepcopy(args)))


class _Actor:
    def __init__(self, cls: type, args: tuple[Any, ...]) -> None:
        self._object = cls(*args)

    def __getattr__(self, name: str) -> _Method:
        return _Method(getattr(self._object, name))


class _NothingError(Exception):
    pass


class LocalRay:
    exceptions = SimpleNamespace(
        RayActorError=_NothingError,
        OwnerDiedError=_NothingError,
        ObjectLostError=_NothingError,
        GetTimeoutError=_NothingError,
    )

    def remote(self, **options: Any) -> Any:
        return lambda cls: SimpleNamespace(remote=lambda *args: _Actor(cls, args))

    def get(self, values: Any, timeout: float | None = None) -> Any:
        return values

    def kill(self, actor: _Actor, no_restart: bool) -> None:
        pass


@pytest.fixture
def local_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let strategies use the stand-in."""

    @contextmanager
    def ray_for(*args: Any, **options: Any) -> Iterator[LocalRay]:
        yield LocalRay()

    monkeypatch.setattr(_server_strategy, "ray_for", ray_for)
