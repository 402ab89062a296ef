"""How images are dealt into folds."""

import pytest
import torch

from lightning_optreg.data._folds import deal, deal_groups

LABELS = torch.arange(7).repeat_interleave(torch.tensor([1, 3, 10, 11, 12, 40, 26]))
"""103 images of 7 classes, some with fewer images than there are folds."""


def spread(counts):
    return int(counts.max() - counts.min())


@pytest.mark.parametrize("folds", [2, 3, 5, 10, 103])
@pytest.mark.parametrize("seed", range(4))
def test_folds_are_of_equal_size_and_so_are_their_classes(folds, seed):
    shuffled = LABELS[torch.randperm(len(LABELS), generator=torch.Generator().manual_seed(seed))]
    dealt = deal(shuffled, folds, seed)
    assert dealt.unique().tolist() == list(range(folds))
    assert spread(dealt.bincount(minlength=folds)) <= 1
    for label in range(7):
        assert spread(dealt[shuffled == label].bincount(minlength=folds)) <= 1


def test_without_classes_only_sizes_are_equal():
    dealt = deal(LABELS, 5, seed=0, stratified=False)
    assert spread(dealt.bincount(minlength=5)) <= 1
    assert any(spread(dealt[label == LABELS].bincount(minlength=5)) > 1 for label in range(7))


def test_every_image_is_in_every_fold_equally_often():
    """Over seeds: neither the place of an image nor that of its class says where it goes."""
    folds, seeds = 4, 2000
    counts = torch.zeros(len(LABELS), folds)
    for seed in range(seeds):
        counts[torch.arange(len(LABELS)), deal(LABELS, folds, seed)] += 1
    deviation = (counts - seeds / folds) / (seeds * 0.25 * 0.75) ** 0.5  # binomial
    assert deviation.abs().max() < 5.0  # of 412 standard normal numbers


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    one, same, other = (deal(LABELS, 5, seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("shares", [[1.0] * 2, [1.0] * 5, [0.9, 0.1], [0.5, 0.3, 0.2]])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_groups_stay_whole_and_shares_are_near(shares, classes, seed):
    random = torch.Generator().manual_seed(seed)
    groups = 7 * torch.randint(60, (600,), generator=random)  # numbers with gaps
    labels = torch.randint(classes, (600,), generator=random)
    parts = deal_groups(groups, labels, shares, seed)
    for group in groups.unique():
        assert len(parts[groups == group].unique()) == 1
    largest = int(groups.bincount().max())
    for label in range(classes):
        wanted = torch.tensor(shares) / sum(shares) * (labels == label).sum()
        got = parts[labels == label].bincount(minlength=len(shares))
        assert ((got - wanted).abs() <= largest).all()
    assert torch.equal(parts, deal_groups(groups, labels, shares, seed))


def test_groups_of_one_size_are_dealt_evenly():
    groups = torch.arange(40).repeat_interleave(3)
    parts = deal_groups(groups, torch.zeros_like(groups), [1.0] * 8, seed=3)
    assert parts.bincount().tolist() == [15] * 8
    assert not torch.equal(parts, deal_groups(groups, torch.zeros_like(groups), [1.0] * 8, seed=4))


def test_groups_of_one_class_each_leave_no_fold_empty():
    """One class in every group: by classes alone, many folds are equally good for each."""
    groups = torch.arange(9).repeat_interleave(4)
    parts = deal_groups(groups, groups % 3, [1.0] * 9, seed=0)
    assert parts.bincount(minlength=9).tolist() == [4] * 9


def test_too_many_folds():
    with pytest.raises(ValueError, match=r"folds must be <= 3, the number of images, got 4"):
        deal(torch.zeros(3, dtype=torch.int64), 4, 0)
    with pytest.raises(ValueError, match=r"folds must be <= 2, the number of groups, got 3"):
        deal_groups(torch.tensor([5, 5, 9]), torch.zeros(3, dtype=torch.int64), [1.0] * 3, 0)
