"""How processes that were started together find each other, also beside what earlier ones have left."""

import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch.distributed as dist

from lightning_optreg.cli.together import Place, Together


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a store that outlives processes, as torchrun's agent keeps one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
    store = dist.TCPStore("127.0.0.1", number, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    yield number
    del store


def say(ranks: Sequence[int], port: int, word: str, size: int = 3) -> list[Any]:
    """What these ranks hear when they meet; their order is that in which they come."""

    def one(rank: int) -> Any:
        together = Together(Place(rank, size, 0, "127.0.0.1", port))
        return together.gather(f"{word}{rank}"), together.gather(rank)

    with ThreadPoolExecutor(size) as pool:
        return [answer.result(timeout=30) for answer in [pool.submit(one, rank) for rank in ranks]]


@pytest.mark.parametrize("ranks", [(0, 1, 2), (2, 1, 0)])
def test_processes_that_are_started_again_hear_each_other_and_not_the_dead(
    port: int, ranks: Sequence[int]
) -> None:
    for word in ("first", "second", "third"):
        heard = say(ranks, port, word)
        assert heard == [([f"{word}0", f"{word}1", f"{word}2"], [0, 1, 2])] * 3


def test_fewer_come_back(port: int) -> None:
    say((0, 1, 2), port, "three")
    assert say((0, 1), port, "two", size=2) == [(["two0", "two1"], [0, 1])] * 2
