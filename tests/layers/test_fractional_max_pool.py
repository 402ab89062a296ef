"""Fractional max-pooling: edges by the paper's formulas and law, maxima in a loop, torch's layer, limits."""

import collections
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_optreg.layers import FractionalMaxPool
from lightning_optreg.layers.fractional_max_pool import pool_windows, random_edges

CPU = torch.device("cpu")
WINDOWS = ["overlapping", "disjoint", "2x2", "3x3"]
every_window = pytest.mark.parametrize("windows", WINDOWS)


@pytest.mark.parametrize("regions", ["random", "pseudorandom", "fixed"])
@pytest.mark.parametrize(("total", "count"), [(7, 5), (5, 5), (10, 5), (93, 74), (1, 1)])
def test_edges_are_one_or_two_apart(regions: str, total: int, count: int) -> None:
    for _ in range(50):
        edges = random_edges(total, count, regions, CPU)
        assert edges[0] == 0
        assert edges[-1] == total
        assert len(edges) == count + 1
        assert set(edges.diff().tolist()) <= {1, 2}


def test_random_edges_take_all_orders_equally_often() -> None:
    torch.manual_seed(0)
    draws = 4000
    seen = collections.Counter(tuple(random_edges(7, 5, "random", CPU).tolist()) for _ in range(draws))
    assert len(seen) == math.comb(5, 2)
    # chi-squared with 9 degrees of freedom has mean 9 and variance 18
    expected = draws / len(seen)
    assert sum((count - expected) ** 2 / expected for count in seen.values()) < 9 + 5 * math.sqrt(18)


@pytest.mark.parametrize(("total", "count"), [(7, 5), (24, 17), (9, 5)])
def test_pseudorandom_edges_are_the_papers_with_uniform_u(total: int, count: int) -> None:
    torch.manual_seed(0)
    draws = 4000
    seen = collections.Counter(
        tuple(random_edges(total, count, "pseudorandom", CPU).tolist()) for _ in range(draws)
    )
    exact: collections.Counter[tuple[int, ...]] = collections.Counter()
    fine = 50 * total * count
    for step in range(fine):
        u = (step + 0.5) / fine
        a = [math.ceil(total / count * (i + u)) for i in range(count + 1)]
        exact[tuple(edge - a[0] for edge in a)] += 1
    assert set(seen) == set(exact)
    for edges, count_ in exact.items():
        p = count_ / fine
        assert abs(seen[edges] / draws - p) < 5 * math.sqrt(p * (1 - p) / draws)


def slow_pool(x: torch.Tensor, rows: list[tuple[int, int]], columns: list[tuple[int, int]]) -> torch.Tensor:
    return torch.stack(
        [
            torch.stack([x[:, :, r0 : r1 + 1, c0 : c1 + 1].amax((2, 3)) for c0, c1 in columns], -1)
            for r0, r1 in rows
        ],
        -2,
    )


@pytest.mark.parametrize("windows", ["overlapping", "disjoint"])
@pytest.mark.parametrize("regions", ["random", "pseudorandom"])
def test_is_the_papers_formula(windows: str, regions: str) -> None:
    x = torch.randn(2, 3, 11, 14, dtype=torch.float64, requires_grad=True)
    layer = FractionalMaxPool(1.3, regions=regions, windows=windows)
    torch.manual_seed(1)
    y = layer(x)
    torch.manual_seed(1)
    ranges = []
    for size, left in zip((11, 14), (8, 10), strict=True):
        one_based = 1 + random_edges(size - (windows == "overlapping"), left, regions, CPU)
        pairs = itertools.pairwise(one_based.tolist())
        ranges.append([(a - 1, (b if windows == "overlapping" else b - 1) - 1) for a, b in pairs])
    expected = slow_pool(x, *ranges)
    assert torch.equal(y, expected)
    assert y.shape == (2, 3, 8, 10)
    weights = torch.randn_like(y)
    gradients = [torch.autograd.grad((weights * out).sum(), x)[0] for out in (y, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("windows", "width"), [("2x2", 2), ("3x3", 3)])
def test_pseudorandom_windows_of_one_size_are_torchs(windows: str, width: int) -> None:
    x = torch.randn(2, 3, 20, 17)
    layer = FractionalMaxPool(1.4, regions="pseudorandom", windows=windows)
    torch.manual_seed(1)
    y = layer(x)
    torch.manual_seed(1)
    u = torch.rand(2).expand(2, 3, 2)
    theirs = nn.FractionalMaxPool2d(width, output_ratio=1 / 1.4, _random_samples=u)
    assert torch.equal(y, theirs(x))


@pytest.mark.parametrize(("windows", "width"), [("2x2", 2), ("3x3", 3)])
def test_random_windows_of_one_size(windows: str, width: int) -> None:
    x = torch.randn(2, 3, 20, 17)
    torch.manual_seed(1)
    y = FractionalMaxPool(1.4, windows=windows)(x)
    torch.manual_seed(1)
    starts = [
        random_edges(size - width, left - 1, "random", CPU).tolist() for size, left in ((20, 14), (17, 12))
    ]
    assert torch.equal(y, slow_pool(x, *([(a, a + width - 1) for a in edges] for edges in starts)))


def test_all_images_and_channels_share_their_windows() -> None:
    x = torch.randn(1, 1, 12, 12).expand(3, 4, 12, 12)
    for regions, windows in itertools.product(("random", "pseudorandom"), WINDOWS):
        y = FractionalMaxPool(1.5, regions=regions, windows=windows)(x)
        assert torch.equal(y, y[:1, :1].expand_as(y))


def test_ratio_two_disjoint_is_max_pooling() -> None:
    x = torch.randn(2, 3, 8, 6)
    assert torch.equal(FractionalMaxPool(2.0, windows="disjoint")(x), F.max_pool2d(x, 2))
    odd = torch.randn(2, 3, 9, 7)
    assert torch.equal(FractionalMaxPool(2.0)(odd), F.max_pool2d(odd, 3, stride=2))


@every_window
def test_ratio_one_is_the_identity_and_draws_nothing(windows: str) -> None:
    x, state = torch.randn(2, 3, 8, 6), torch.get_rng_state()
    assert FractionalMaxPool(1.0, windows=windows)(x) is x
    assert torch.equal(torch.get_rng_state(), state)


@every_window
def test_sizes(windows: str) -> None:
    smallest = {"disjoint": 1, "3x3": 3}.get(windows, 2)
    for ratio in (1.1, 2 ** (1 / 3), 2**0.5, 1.9, 2.0):
        layer = FractionalMaxPool(ratio, windows=windows)
        for size in range(smallest, 40):
            y = layer(torch.randn(1, 1, size, 39))
            assert y.shape[2] == layer.output_size(size)
            assert 1 <= y.shape[2] < size or size == 1
            if size >= 14 and ratio < 1.7:
                assert y.shape[2] == math.floor(size / ratio + 1e-9)
        if smallest > 1:
            with pytest.raises(ValueError, match=r"^FractionalMaxPool: activations of height or width "):
                layer(torch.randn(1, 1, smallest - 1, 39))


def test_sizes_round_down() -> None:
    layer, sizes = FractionalMaxPool(2**0.5), [36]
    for _ in range(6):
        sizes.append(layer.output_size(sizes[-1]))
    assert sizes == [36, 25, 17, 12, 8, 5, 3]
    assert FractionalMaxPool(1.1).output_size(33) == 30  # 33 / 1.1 is just below 30 in floating point


def test_at_test() -> None:
    x = torch.randn(2, 3, 12, 12)
    state = torch.get_rng_state()
    fixed = FractionalMaxPool(1.5).eval()
    assert torch.equal(fixed(x), fixed(x))
    assert torch.equal(torch.get_rng_state(), state)
    edges = random_edges(11, 8, "fixed", CPU).tolist()
    assert torch.equal(fixed(x), slow_pool(x, *[list(itertools.pairwise(edges))] * 2))

    random = FractionalMaxPool(1.5, at_test="random").eval()
    assert not torch.equal(random(x), random(x))
    average = FractionalMaxPool(1.5, at_test="average", samples=3).eval()
    torch.manual_seed(1)
    mean = average(x)
    torch.manual_seed(1)
    torch.testing.assert_close(mean, (random(x) + random(x) + random(x)) / 3)

    fixed.sampling = True
    torch.manual_seed(1)
    sampled = fixed(x)
    torch.manual_seed(1)
    assert torch.equal(sampled, random(x))


@every_window
def test_fixed_windows_of_one_size_are_not_random(windows: str) -> None:
    layer = FractionalMaxPool(1.5, regions="pseudorandom", windows=windows).eval()
    x, state = torch.randn(2, 3, 12, 12), torch.get_rng_state()
    assert torch.equal(layer(x), layer(x))
    assert torch.equal(torch.get_rng_state(), state)


def test_ties_send_the_gradient_to_one_entry_and_nan_shows() -> None:
    x = torch.zeros(1, 1, 3, 3, requires_grad=True)
    first, last = torch.tensor([0]), torch.tensor([2])
    y = pool_windows(x, (first, last), (first, last), 3)
    y.sum().backward()
    assert x.grad.sum() == 1
    assert (x.grad != 0).sum() == 1
    for place, requires_grad in itertools.product(range(9), (True, False)):
        spoiled = torch.arange(9.0).reshape(1, 1, 3, 3)
        spoiled.flatten()[place] = torch.nan
        spoiled.requires_grad_(requires_grad)
        assert pool_windows(spoiled, (first, last), (first, last), 3).isnan().all()


@every_window
def test_the_same_with_and_without_gradients(windows: str) -> None:
    x, layer = torch.randn(2, 3, 20, 17), FractionalMaxPool(1.4, windows=windows)
    results = []
    for requires_grad in (True, False):
        torch.manual_seed(1)
        results.append(layer(x.requires_grad_(requires_grad)))
    assert torch.equal(*results)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 0.9}, r"ratio must be in \[1, 2\], got 0.9"),
        ({"ratio": float("nan")}, r"ratio must be in \[1, 2\], got nan"),
        ({"regions": "pseudo"}, "regions must be 'random' or 'pseudorandom', got 'pseudo'"),
        ({"windows": "4x4"}, "windows must be 'overlapping', 'disjoint', '2x2' or '3x3', got '4x4'"),
        ({"at_test": "off"}, "at_test must be 'fixed', 'average' or 'random', got 'off'"),
        ({"samples": 0}, "samples must be >= 1, got 0"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^FractionalMaxPool: {message}$"):
        FractionalMaxPool(**{"ratio": 1.5} | settings)
