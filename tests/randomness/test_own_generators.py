import random
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

from lightning_optreg.randomness.own_generators import collect_generator_states, restore_generator_states

MAKERS = {
    "torch": lambda: torch.Generator().manual_seed(3),
    "numpy": lambda: np.random.default_rng(3),
    "numpy, Mersenne twister": lambda: np.random.Generator(np.random.MT19937(3)),
    "numpy, legacy": lambda: np.random.RandomState(3),
    "python": lambda: random.Random(3),
}


def draw(generator: Any) -> float:
    if isinstance(generator, torch.Generator):
        return float(torch.rand(1, generator=generator))
    return float(generator.normal() if hasattr(generator, "normal") else generator.gauss(0.0, 1.0))


class Noisy(TensorDataset):
    def __init__(self, generator: Any) -> None:
        super().__init__(torch.zeros(4, 1))
        self.transforms = {"noise": [SimpleNamespace(generator=generator)]}


def in_module(generator: Any) -> nn.Module:
    module = nn.Sequential(nn.Linear(1, 1), nn.Dropout())
    module[1].drawn_from = (generator,)
    return module


PLACES = {
    "dataset": lambda g: DataLoader(Noisy(g)),
    "subset of several": lambda g: DataLoader(Subset(ConcatDataset([Noisy(None), Noisy(g)]), [0, 1])),
    "module": in_module,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", MAKERS)
def test_draws_the_same_again(kind: str, place: str, tmp_path: Any) -> None:
    generator = MAKERS[kind]()
    holder = PLACES[place](generator)
    draw(generator)  # a Gaussian may be kept for the next draw
    torch.save(collect_generator_states({"holder": holder}), tmp_path / "states")
    states = torch.load(tmp_path / "states", weights_only=True)
    assert len(states) == 1
    expected = [draw(generator) for _ in range(5)]

    other = MAKERS[kind]()
    assert restore_generator_states({"holder": PLACES[place](other)}, states) == []
    assert [draw(other) for _ in range(5)] == expected


def test_tells_what_is_gone() -> None:
    states = collect_generator_states({"module": in_module(torch.Generator())})
    assert restore_generator_states({"module": nn.Linear(1, 1)}, states) == list(states)


@pytest.mark.slow
def test_does_not_go_through_very_many_objects() -> None:
    data = [[[SimpleNamespace() for _ in range(100)] for _ in range(100)] for _ in range(50)]
    holder = SimpleNamespace(data=data, generator=torch.Generator())
    begin = time.process_time()
    assert list(collect_generator_states({"holder": holder})) == ["holder.generator"]
    assert time.process_time() - begin < 5.0
