import pytest
import torch

from lightning_optreg.randomness.draws import Draws, Place, mix

CPU = torch.device("cpu")


def test_mix_tells_neighbours_apart():
    seeds = {mix(seed, epoch, step) for seed in range(5) for epoch in range(20) for step in range(1000)}
    assert len(seeds) == 100_000
    assert mix(1) != mix(1, 0)  # the count of the numbers matters
    assert mix(-1, 0) != mix(2**64 - 1, 1)  # negative numbers are as good as others
    assert all(0 <= s < 2**64 for s in seeds)


def test_mix_changes_half_of_the_bits():
    flips = [bin(mix(0, 3, step) ^ mix(0, 3, step + 1)).count("1") for step in range(2000)]
    mean = sum(flips) / len(flips)
    assert abs(mean - 32) < 5 * (64 * 0.25 / len(flips)) ** 0.5  # 5 standard errors of a binomial mean


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_processes_together_draw_what_one_draws(world_size):
    total = 12 * world_size
    whole = Draws(3, Place(1, 7, 0, total), total, CPU)
    parts = [Draws(3, Place(1, 7, 12 * rank, total), 12, CPU) for rank in range(world_size)]
    # one call after the other, with all kinds mixed, as transforms do
    for draw in (
        lambda d: d.uniform(2, low=-1.0, high=3.0),
        lambda d: d.normal(3),
        lambda d: d.integers(0, 9, 2),
        lambda d: d.uniform(),
    ):
        assert torch.equal(draw(whole), torch.cat([draw(part) for part in parts]))


def test_draws_are_a_function_of_seed_epoch_and_step():
    def numbers(seed, epoch, step):
        return Draws(seed, Place(epoch, step, 0, 50), 50, CPU).uniform()

    assert torch.equal(numbers(1, 2, 3), numbers(1, 2, 3))
    others = [numbers(0, 2, 3), numbers(1, 3, 3), numbers(1, 2, 4), numbers(1, 3, 2)]
    assert not any(torch.equal(numbers(1, 2, 3), other) for other in others)


def test_ranges_and_moments():
    draws = Draws(0, Place(0, 0, 0, 20_000), 20_000, CPU)
    uniform, normal, integers = draws.uniform(low=2.0, high=5.0), draws.normal(), draws.integers(-2, 3)
    assert 2.0 <= uniform.min() < 2.01 < 4.99 < uniform.max() <= 5.0
    assert abs(uniform.mean() - 3.5) < 5 * (9 / 12 / 20_000) ** 0.5
    assert abs(normal.mean()) < 5 / 20_000**0.5
    assert abs(normal.var() - 1) < 5 * (2 / 20_000) ** 0.5
    assert integers.unique().tolist() == [-2, -1, 0, 1, 2]
    assert [t.dtype for t in (uniform, normal, integers)] == [torch.float32, torch.float32, torch.int64]


def test_global_generator_is_left_alone():
    before = torch.get_rng_state()
    draws = Draws(0, Place(0, 0, 0, 4), 4, CPU)
    draws.uniform(), draws.normal(), draws.integers(0, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_meta_device_gives_shapes():
    draws = Draws(0, Place(0, 0, 2, 8), 3, torch.device("meta"))
    for numbers in (draws.uniform(2), draws.normal(2), draws.integers(0, 5, 2)):
        assert numbers.shape == (3, 2)
        assert numbers.device.type == "meta"


def test_no_images():
    assert Draws(0, Place(0, 0, 4, 4), 0, CPU).uniform(2).shape == (0, 2)


@pytest.mark.parametrize(("start", "count", "total"), [(-1, 2, 4), (3, 2, 4), (0, -1, 4)])
def test_rows_outside_the_global_batch_are_refused(start, count, total):
    with pytest.raises(ValueError, match="must be in a global batch of 4"):
        Draws(0, Place(0, 0, start, total), count, CPU)


def test_numbers_of_images_are_those_of_the_hash():
    index = torch.tensor([0, 1, 5, 49_999, 2**40])
    for seed in (0, 7, -3, 2**63 + 11):
        draws = Draws(seed, Place(2, 3, 0, 5), 5, CPU, index)
        expected = [(mix(seed, i) >> 40) / 2**24 for i in index.tolist()]
        assert draws.of_images().tolist() == expected


def test_numbers_of_images_belong_to_the_images():
    def numbers(seed, epoch, step, index):
        draws = Draws(seed, Place(epoch, step, 0, len(index)), len(index), CPU, index)
        draws.uniform(3)  # draws before don't matter
        return draws.of_images()

    index = torch.randperm(50_000, generator=torch.Generator().manual_seed(0))
    first = numbers(1, 0, 0, index)
    assert torch.equal(first, numbers(1, 5, 9, index))
    assert torch.equal(first[[3, 3, 8]], numbers(1, 2, 2, index[[3, 3, 8]]))
    assert first.dtype == torch.float32
    assert 0.0 <= first.min() < 0.001 < 0.999 < first.max() < 1.0
    assert abs(first.mean() - 0.5) < 5 / (12 * 50_000) ** 0.5
    # Neighbouring images and seeds have unrelated numbers: correlations are 0 within 5 / sqrt(n).
    ordered = numbers(1, 0, 0, torch.arange(50_001))
    for a, b in ((ordered[1:], ordered[:-1]), (first, numbers(2, 0, 0, index))):
        assert abs(torch.corrcoef(torch.stack((a, b)))[0, 1]) < 5 / 50_000**0.5


def test_numbers_of_images_leave_other_draws_alone():
    place, index = Place(0, 0, 0, 4), torch.arange(4)
    draws = Draws(0, place, 4, CPU, index)
    draws.of_images()
    assert torch.equal(draws.uniform(), Draws(0, place, 4, CPU).uniform())
    meta = torch.device("meta")
    assert Draws(0, place, 4, meta, index.to(meta)).of_images().shape == (4,)


def test_images_must_be_known():
    with pytest.raises(ValueError, match=r"^Draws: of_images needs index"):
        Draws(0, Place(0, 0, 0, 4), 4, CPU).of_images()
    with pytest.raises(ValueError, match=r"^Draws: index must be \(4,\), one for each row, got \(3,\)$"):
        Draws(0, Place(0, 0, 0, 4), 4, CPU, torch.arange(3))
