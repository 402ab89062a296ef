"""Pacing functions, rankings and the passes of an epoch."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_optreg.data._order import epoch_order
from lightning_optreg.data.curriculum import Pacing, epoch_passes, rank_images
from lightning_optreg.data.curriculum_sampler import CurriculumSampler
from lightning_optreg.data.loader import BatchLoader
from lightning_optreg.data.scores import negative_margins, read_scores

NAMES = ("step", "linear", "quadratic", "root", "log", "exponential", "staircase")

# ---- pacing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "half"),  # the share at half of the way, from a fifth, by hand
    [
        ("step", 0.2),
        ("linear", 0.6),
        ("quadratic", 0.4),
        ("root", 0.2 + 0.8 * 0.70710678),
        ("log", 0.2 + 0.8 * (1 - 0.0693056)),
        ("exponential", 0.2 + 0.8 * (148.413159 - 1) / (22026.46579 - 1)),
        ("staircase", 0.2 * 1.9),  # three stairs, 0.2, 0.38 and 0.722, and then all
    ],
)
def test_pacing_by_hand(name, half):
    pacing = Pacing(name, start=0.2, full_at=100)
    assert pacing.share(50) == pytest.approx(half, rel=1e-5)
    assert pacing.share(0) == pytest.approx(0.2, abs=1e-9)
    assert pacing.share(100) == pacing.share(1000) == 1.0
    shares = [pacing.share(batch) for batch in range(101)]
    assert shares == sorted(shares)
    assert max(shares) == 1.0
    assert {Pacing(name, start=1.0, full_at=100).share(batch) for batch in range(101)} == {1.0}


def test_the_staircase_is_hacohen_and_weinshalls():
    """size(i) = ceil(min(start * inc^floor(i / step), 1) * N) with start 0.04, inc 1.9, step 100."""
    pacing = Pacing("staircase", start=0.04, full_at=600, increase=1.9, min_images=1)
    for batch in range(700):
        expected = math.ceil(min(0.04 * 1.9 ** (batch // 100), 1) * 2500)
        assert pacing.size(batch, 2500) == expected, batch


def test_pools_are_at_least_the_minimum_and_at_most_everything():
    pacing = Pacing("linear", start=0.1, full_at=100)
    assert [pacing.size(0, count) for count in (5000, 1000, 100)] == [500, 256, 100]
    assert Pacing("linear", start=0.07, full_at=7, min_images=1).size(0, 100) == 7  # 0.07 * 100 > 7


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "cubic"},
        {"start": 0.0},
        {"start": math.nan},
        {"full_at": 0.0},
        {"full_at": math.inf},
        {"increase": 1.0},
        {"min_images": 0},
    ],
)
def test_wrong_pacing(wrong):
    with pytest.raises(ValueError, match=f"^Pacing: {next(iter(wrong))} must be"):
        Pacing(**wrong)


# ---- ranking -----------------------------------------------------------------------------------------------


def test_rankings():
    scores = torch.tensor([0.3, -1.0, 7.0, 0.2])
    assert rank_images(scores).tolist() == [1, 3, 0, 2]
    assert rank_images(scores, "hard_first").tolist() == [2, 0, 3, 1]
    chance = rank_images(scores, "random", seed=5)
    assert chance.tolist() == rank_images(-scores, "random", seed=5).tolist()
    assert len({tuple(rank_images(scores, "random", seed=seed).tolist()) for seed in range(40)}) > 10


def test_chance_decides_among_equal_scores():
    scores = torch.tensor([1.0, 0.0] * 50)
    ranking = rank_images(scores, seed=1)
    assert scores[ranking].tolist() == [0.0] * 50 + [1.0] * 50
    assert ranking[:50].tolist() != sorted(ranking[:50].tolist())
    assert ranking.tolist() == rank_images(scores, seed=1).tolist()
    assert ranking.tolist() != rank_images(scores, seed=2).tolist()


@pytest.mark.parametrize("order", ["easy_first", "hard_first", "random"])
def test_balanced_pools_have_the_classes_in_the_proportions_of_the_whole(order):
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    scores = labels + torch.linspace(0, 0.9, 100)  # class 2 is the hardest as a whole
    ranking = rank_images(scores, order, labels=labels)
    assert ranking.sort().values.tolist() == list(range(100))
    for size in range(1, 101):
        counts = labels[ranking[:size]].bincount(minlength=3)
        assert (counts - size * torch.tensor([0.6, 0.3, 0.1])).abs().max() <= 1.0
    if order != "random":
        for label in range(3):
            own = scores[ranking][labels[ranking] == label]
            assert own.tolist() == sorted(own.tolist(), reverse=order == "hard_first")
    assert labels[rank_images(scores)].tolist() == labels.tolist()  # unbalanced: one class after the other


# ---- an epoch ----------------------------------------------------------------------------------------------


def passes(size, *, epoch=0, images=50, global_batch=8, first_batch=0, seed=1, ranking=None):
    ranking = rank_images(torch.arange(50).flip(0)) if ranking is None else ranking
    return epoch_passes(
        ranking,
        size,
        images=images,
        global_batch=global_batch,
        first_batch=first_batch,
        seed=seed,
        epoch=epoch,
    )


@pytest.mark.parametrize("images", [50, 48])
def test_with_all_images_it_is_the_usual_order(images):
    for epoch in range(3):
        index = passes(lambda batch: 50, epoch=epoch, images=images).index
        assert torch.equal(index, epoch_order(50, 1, epoch)[:images])


def test_each_pass_goes_once_through_the_pool_of_its_first_batch():
    asked = []

    def size(batch):
        asked.append(batch)
        return 10 if batch < 102 else 16

    result = passes(size, first_batch=100)
    assert asked == [100, 101, 102, 104]  # passes begin at images 0, 10, 20 and 36, batches have 8
    assert (result.starts, result.sizes) == ([0, 10, 20, 36], [10, 10, 16, 16])
    parts = result.index.split([10, 10, 16, 14])
    for part, pool in zip(parts, (10, 10, 16, 16), strict=True):
        assert len(set(part.tolist())) == len(part)
        assert set(part.tolist()) <= set(range(50 - pool, 50))
    assert parts[0].tolist() != parts[1].tolist()
    assert result.index.tolist() == passes(size, first_batch=100).index.tolist()
    assert result.index.tolist() != passes(size, first_batch=100, epoch=1).index.tolist()
    assert result.index.tolist() != passes(size, first_batch=100, seed=2).index.tolist()


# ---- in the loaders ----------------------------------------------------------------------------------------


def loader(**options):
    images = torch.arange(48, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    return BatchLoader(
        images, torch.arange(48) % 3, **{"batch_size": 8, "shuffle": True, "seed": 1, **options}
    )


def seen(loader, epoch=0):
    loader.set_epoch(epoch)
    return [batch.index.tolist() for batch in loader]


def test_the_loader_shows_what_the_order_says_and_forgets_it_when_told():
    indices = torch.arange(2, 48, 3)
    told = loader(indices=indices, batch_size=5)
    usual = seen(told, 3)
    told.set_order(lambda epoch: torch.full((16,), epoch))
    assert seen(told, 3) == [[11] * 5, [11] * 5, [11] * 5, [11]]
    told.set_order(None)
    assert seen(told, 3) == usual


@pytest.mark.parametrize("num_workers", [0, 1])
def test_two_processes_see_together_what_one_sees_also_from_the_middle(num_workers):
    def order(epoch):
        return passes(lambda batch: 20, ranking=torch.arange(48), images=48, epoch=epoch).index

    one = loader()
    one.set_order(order)
    expected = seen(one, 1)
    shares = []
    for rank in range(2):
        two = loader(batch_size=4, rank=rank, world_size=2, num_workers=num_workers)
        two.set_order(order)
        two.load_state_dict({**one.state_dict(), "batches": 2})
        shares.append([batch.index.tolist() for batch in two])
    assert [a + b for a, b in zip(*shares, strict=True)] == expected[2:]


class Outside(torch.utils.data.Dataset):
    def __init__(self, allowed):
        self.allowed = allowed

    def __len__(self):
        return 50

    def __getitem__(self, position):
        assert position in self.allowed, "an image outside the pool was touched"
        return position


def test_a_sampler_touches_the_pool_only_and_shares_it_among_processes():
    scores = torch.arange(50.0)
    pacing = Pacing("linear", start=0.2, full_at=28, min_images=1)
    for epoch, pool in ((0, 20), (1, 30), (4, 50)):
        whole = CurriculumSampler(scores, pacing, batch_size=8, seed=3)
        halves = [
            CurriculumSampler(scores, pacing, batch_size=4, seed=3, rank=rank, world_size=2)
            for rank in range(2)
        ]
        for sampler in (whole, *halves):
            sampler.set_epoch(epoch)
        dataset = Outside(range(pool))
        batches = [batch.tolist() for batch in DataLoader(dataset, batch_size=8, sampler=whole)]
        parts = [[b.tolist() for b in DataLoader(dataset, 4, sampler=sampler)] for sampler in halves]
        assert [sorted(a + b) for a, b in zip(*parts, strict=True)] == [sorted(batch) for batch in batches]
        assert sum(map(len, batches)) == len(whole) == 50
    assert sorted(whole) == list(range(50))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"scores": torch.tensor([1.0, math.nan])}, "scores must be finite"),
        ({"labels": torch.arange(3)}, r"labels must be \(N,\)"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
        ({"rank": 1}, "rank must be in"),
    ],
)
def test_wrong_sampler(options, text):
    with pytest.raises(ValueError, match=f"^CurriculumSampler: {text}"):
        CurriculumSampler(**{"scores": torch.arange(2.0), "pacing": Pacing(), "batch_size": 1, **options})


# ---- scores ------------------------------------------------------------------------------------------------


def test_margins_by_hand():
    p = torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
    margins = negative_margins(p.log() + 3, torch.tensor([0, 1, 2]))
    assert margins.tolist() == pytest.approx([-0.2, 0.2, 0.3])


def test_scores_from_files(tmp_path: Path):
    values = [0.5, -2.0, 1e-3]
    torch.save(torch.tensor(values, dtype=torch.float64), tmp_path / "s.pt")
    np.save(tmp_path / "s.npy", np.array(values))
    (tmp_path / "s.csv").write_text("0.5\n-2\n1e-3\n")
    for name in ("s.pt", "s.npy", "s.csv"):
        assert read_scores(tmp_path / name, 3).tolist() == pytest.approx(values, rel=1e-7)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "1\n2\n", r"scores of shape \(2,\), expected \(3,\)"),
        ("a.csv", "1\nnan\n2\n", "must be finite, number 1 is nan"),
        ("a.csv", "score\n1\n2\n", "expected one number per line"),
        ("a.txt", "1\n2\n3\n", "must be a .pt, .npy or .csv file, got .txt"),
    ],
)
def test_wrong_files_of_scores(tmp_path: Path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_scores(tmp_path / name, 3)
    with pytest.raises(FileNotFoundError, match="no such file of scores"):
        read_scores(tmp_path / "nothing.pt", 3)
    torch.save({"scores": torch.zeros(3)}, tmp_path / "dict.pt")
    with pytest.raises(ValueError, match="expected a tensor of scores, found dict"):
        read_scores(tmp_path / "dict.pt", 3)
