import pytest
import torch

from lightning_optreg.data._split import stratified_split


@pytest.mark.parametrize("fraction", [0.1, 0.25, 1 / 3, 0.5])
def test_parts_are_a_partition_with_exact_shares(fraction):
    labels = torch.arange(10).repeat_interleave(torch.arange(20, 70, 5))
    train, val = stratified_split(labels, fraction, seed=0)
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(len(labels)))
    assert len(val) == round(fraction * len(labels))
    share = fraction * labels.bincount()
    taken = labels[val].bincount(minlength=10)
    assert ((taken - share).abs() < 1).all()


def test_largest_remainders_get_what_is_left():
    # Shares 0.3 x (5, 8, 7) = 1.5, 2.4, 2.1: six in all, 1 + 2 + 2 for sure, the sixth to class 0.
    labels = torch.tensor([0] * 5 + [1] * 8 + [2] * 7)
    _, val = stratified_split(labels, 0.3, seed=4)
    assert labels[val].bincount().tolist() == [2, 2, 2]


def test_rounding_errors_do_not_move_an_image():
    labels = torch.arange(10).repeat(6000)  # 0.1 x 6000 is not a whole number in floating point
    _, val = stratified_split(labels, 0.1, seed=0)
    assert labels[val].bincount().tolist() == [600] * 10


def test_seed_decides():
    labels = torch.arange(5).repeat(40)
    one, same, other = (stratified_split(labels, 0.2, seed)[1] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_zero_keeps_all_and_global_generator_is_left_alone():
    before = torch.get_rng_state()
    train, val = stratified_split(torch.arange(4), 0.0, seed=0)
    assert train.tolist() == [0, 1, 2, 3]
    assert val.tolist() == []
    stratified_split(torch.zeros(10, dtype=torch.int64), 0.5, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_missing_class_number():
    labels = torch.tensor([0, 0, 0, 0, 3, 3, 3, 3])
    assert labels[stratified_split(labels, 0.5, seed=0)[1]].tolist() == [0, 0, 3, 3]


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_fraction_out_of_range(fraction):
    with pytest.raises(ValueError, match=r"fraction must be in \[0, 1\), got"):
        stratified_split(torch.arange(4), fraction, seed=0)


def test_parts_that_would_lack_something_are_refused():
    with pytest.raises(ValueError, match=r"must be 0 or give >= 1 image, got 0\.01 of 20 images"):
        stratified_split(torch.zeros(20, dtype=torch.int64), 0.01, seed=0)
    with pytest.raises(ValueError, match="leaves no image of class 1 to train on"):
        stratified_split(torch.tensor([0, 0, 0, 0, 0, 1]), 0.8, seed=0)
