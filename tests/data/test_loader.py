import warnings
from contextlib import nullcontext
from itertools import chain

import pytest
import torch

from lightning_optreg.data._order import deal, epoch_order
from lightning_optreg.data.loader import Batch, BatchLoader
from lightning_optreg.randomness.draws import Place
from tests.data.expected_warnings import WORKERS

pytestmark = WORKERS
COUNT = 50


@pytest.fixture(scope="module")
def data():
    """50 images, of which each shows its number, with 100 plus that as the label."""
    numbers = torch.arange(COUNT)
    return numbers.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous(), 100 + numbers


def make(data, **options):
    options = {"batch_size": 8, "shuffle": True, "seed": 1, **options}
    return BatchLoader(*data, **options)


def flat(lists):
    return list(chain.from_iterable(lists))


def seen(loader, epoch):
    loader.set_epoch(epoch)
    return [batch.index.tolist() for batch in loader]


def test_a_batch_is_what_its_index_says(data):
    for step, batch in enumerate(make(data)):
        assert isinstance(batch, Batch)
        assert batch.place == Place(epoch=0, step=step, start=0, total=len(batch.index))
        assert torch.equal(batch.images, data[0][batch.index])
        assert torch.equal(batch.labels, data[1][batch.index])


def test_an_epoch_has_every_image_once_in_its_own_order(data):
    loader = make(data)
    first, second = seen(loader, 0), seen(loader, 1)
    assert [len(batch) for batch in first] == [8] * 6 + [2]
    assert len(loader) == 7
    assert sorted(flat(first)) == sorted(flat(second)) == list(range(COUNT))
    assert first != second
    assert seen(make(data), 1) == second  # whatever went before
    assert seen(make(data, seed=2), 1) != second


def test_without_shuffle_the_order_is_that_of_the_indices(data):
    indices = torch.tensor([7, 3, 30, 31, 2])
    loader = make(data, indices=indices, shuffle=False, batch_size=2)
    assert seen(loader, 0) == seen(loader, 5) == [[7, 3], [30, 31], [2]]


def test_indices_limit_what_is_seen(data):
    indices = torch.arange(0, COUNT, 2)
    assert sorted(flat(seen(make(data, indices=indices), 3))) == indices.tolist()


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(1, [1] * 50), ("full", [50]), (200, [50]), (50, [50]), (49, [49, 1])]
)
def test_batch_sizes(data, batch_size, sizes):
    loader = make(data, batch_size=batch_size)
    assert [len(batch) for batch in seen(loader, 0)] == sizes
    assert len(loader) == len(sizes)


def test_drop_last(data):
    loader = make(data, drop_last=True)
    assert [len(batch) for batch in seen(loader, 0)] == [8] * 6
    assert len(loader) == 6


def test_order_is_a_permutation_and_leaves_the_global_generator_alone(data):
    before = torch.get_rng_state()
    assert epoch_order(COUNT, 0, 0).sort().values.tolist() == list(range(COUNT))
    seen(make(data), 0)
    assert torch.equal(torch.get_rng_state(), before)


# ---- several processes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", [2, 4, 5])
@pytest.mark.parametrize("shuffle", [True, False])
def test_processes_together_see_what_one_sees(data, world_size, shuffle):
    indices = torch.arange(40)
    one = make(data, indices=indices, shuffle=shuffle, batch_size=20)
    many = [
        make(
            data,
            indices=indices,
            shuffle=shuffle,
            batch_size=20 // world_size,
            rank=rank,
            world_size=world_size,
        )
        for rank in range(world_size)
    ]
    for epoch in range(2):
        for loader in (one, *many):
            loader.set_epoch(epoch)
        for whole, *parts in zip(one, *many, strict=True):
            assert torch.equal(whole.images, torch.cat([part.images for part in parts]))
            assert torch.equal(whole.labels, torch.cat([part.labels for part in parts]))
            assert torch.equal(whole.index, torch.cat([part.index for part in parts]))
            for part in parts:
                assert part.place._replace(start=0) == whole.place
                start = part.place.start
                assert torch.equal(whole.index[start : start + len(part.index)], part.index)


@pytest.mark.parametrize("world_size", [2, 3, 4, 7])
@pytest.mark.parametrize("batch_size", [1, 3, 8, "full"])
def test_training_gives_all_processes_equally_many_images(data, world_size, batch_size):
    loaders = [make(data, batch_size=batch_size, rank=r, world_size=world_size) for r in range(world_size)]
    left_out = []
    for epoch in range(4):
        batches = [seen(loader, epoch) for loader in loaders]
        assert {len(b) for b in batches} == {len(loaders[0])}
        for step in zip(*batches, strict=True):
            assert len({len(share) for share in step}) == 1
        images = flat(flat(batches))
        assert len(images) == len(set(images)) == COUNT - COUNT % world_size
        left_out.append(set(range(COUNT)) - set(images))
    if COUNT % world_size:
        assert len({frozenset(images) for images in left_out}) > 1  # not always the same ones


@pytest.mark.parametrize("count", [7, 8, 9, 15, 16, 17, 33, 50])
@pytest.mark.parametrize("batch_size", [1, 2, 5, "full"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_evaluation_shows_every_image_once_and_no_batch_is_empty(data, count, batch_size, world_size):
    batches = [
        seen(
            make(
                data,
                indices=torch.arange(count),
                shuffle=False,
                batch_size=batch_size,
                rank=rank,
                world_size=world_size,
            ),
            0,
        )
        for rank in range(world_size)
    ]
    assert len({len(b) for b in batches}) == 1
    assert sorted(flat(flat(batches))) == list(range(count))
    for step in zip(*batches, strict=True):
        sizes = [len(share) for share in step]
        assert min(sizes) >= 1
        assert max(sizes) - min(sizes) <= 1
        if batch_size != "full":
            assert max(sizes) <= batch_size + 1
    in_order = [image for step in zip(*batches, strict=True) for share in step for image in share]
    assert in_order == list(range(count))


def test_a_few_images_too_many_join_the_last_batch():
    assert deal(9, 2, 2, even=False) == [(0, 4), (4, 9)]
    assert deal(10, 2, 2, even=False) == [(0, 4), (4, 8), (8, 10)]
    assert deal(3, 2, 2, even=False) == [(0, 3)]
    assert deal(9, 2, 2, even=True) == [(0, 4), (4, 8)]
    assert deal(9, 2, 2, even=False, drop_last=True) == [(0, 4), (4, 8)]
    assert deal(3, 2, 2, even=False, drop_last=True) == []


# ---- the place within the epoch ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batches", "num_workers"),
    [
        *((batches, 0) for batches in (0, 1, 4, 6)),
        (4, 2),
        *(pytest.param(batches, 2, marks=pytest.mark.slow) for batches in (0, 1, 6)),
    ],
)
def test_continuing_in_the_middle(data, num_workers, batches):
    straight = make(data)
    expected = seen(straight, 3)
    first = make(data, num_workers=num_workers)
    first.set_epoch(3)
    iterator = iter(first)
    got = [next(iterator).index.tolist() for _ in range(batches)]
    state = first.state_dict()
    assert state["batches"] == batches
    del iterator  # stops the workers

    second = make(data, num_workers=num_workers)
    second.load_state_dict(state)
    assert second.state_dict() == state
    assert len(second) == len(straight)
    second.set_epoch(3)
    rest = list(second)
    assert got + [batch.index.tolist() for batch in rest] == expected
    assert [batch.place.step for batch in rest] == list(range(batches, 7))
    assert seen(second, 4) == seen(straight, 4)  # the next epoch is whole
    assert seen(second, 3) == expected  # and this one too, a second time


def test_the_end_of_an_epoch_means_the_start_of_the_next(data):
    first = make(data)
    seen(first, 0)
    state = first.state_dict()
    assert state["batches"] == len(first)
    second = make(data)
    second.load_state_dict(state)
    assert seen(second, 1) == seen(make(data), 1)


def test_naming_the_epoch_again_changes_nothing_and_another_starts_anew(data):
    loader = make(data)
    loader.set_epoch(2)
    iterator = iter(loader)
    next(iterator)
    loader.set_epoch(2)
    assert loader.state_dict()["batches"] == 1
    loader.set_epoch(3)
    assert loader.state_dict()["batches"] == 0


def test_an_iterator_that_is_never_used_does_no_harm(data):
    loader = make(data)
    loader.load_state_dict({**loader.state_dict(), "epoch": 1, "batches": 5})
    iter(loader)
    loader.set_epoch(1)
    assert [batch.place.step for batch in loader] == [5, 6]


def test_the_epoch_may_be_named_after_the_iterator_is_made(data):
    loader = make(data)
    iterator = iter(loader)
    loader.set_epoch(6)
    assert [batch.index.tolist() for batch in iterator] == seen(make(data), 6)


def test_the_training_loop_may_know_better_where_to_continue(data):
    now = (3, 4)
    loader = make(data, clock=lambda: now)
    loader.load_state_dict({**loader.state_dict(), "epoch": 3, "batches": 5})
    loader.set_epoch(3)
    assert [(batch.place.epoch, batch.place.step) for batch in loader] == [(3, 4), (3, 5), (3, 6)]
    loader.set_epoch(5)
    now = (4, 0)
    assert [batch.place.epoch for batch in loader] == [4] * 7
    assert loader.state_dict()["epoch"] == 4


def test_continuing_with_another_number_of_processes(data):
    indices = torch.arange(48)
    expected = seen(make(data, indices=indices, batch_size=8), 0)
    one = make(data, indices=indices, batch_size=8)
    iterator = iter(one)
    next(iterator), next(iterator)
    shares = []
    for rank in range(2):
        two = make(data, indices=indices, batch_size=4, rank=rank, world_size=2)
        two.load_state_dict(one.state_dict())
        shares.append([batch.index.tolist() for batch in two])
    assert [a + b for a, b in zip(*shares, strict=True)] == expected[2:]


def begun(data, batches, **options):
    """A loader's state after some batches of epoch 0, and the images in all of them."""
    loaders = [
        make(data, rank=rank, **{"world_size": 1, **options}) for rank in range(options.get("world_size", 1))
    ]
    iterators = [iter(loader) for loader in loaders]
    seen_before = [flat(next(it).index.tolist() for it in iterators) for _ in range(batches)]
    states = [loader.state_dict() for loader in loaders]
    assert all(state == states[0] for state in states)
    return states[0], seen_before, [flat(step) for step in zip(*map(rest, iterators), strict=True)]


def rest(iterator):
    return [batch.index.tolist() for batch in iterator]


def continued(data, state, **options):
    """The steps that loaders of another number of processes go on with, and the state of the first one."""
    loaders = []
    for rank in range(options["world_size"]):
        loaders.append(make(data, rank=rank, **options))
        loaders[-1].load_state_dict(state)
    shares = [rest(iter(loader)) for loader in loaders]
    return [flat(step) for step in zip(*shares, strict=True)], loaders[0].state_dict()


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("count", [48, 47, 46, 45])
@pytest.mark.parametrize(
    "world_sizes",
    [(1, 2), (2, 1), (1, 4), (4, 1), (2, 4), (4, 2)],
    ids=lambda pair: f"{pair[0]} to {pair[1]}",
)
def test_another_number_of_processes_ends_the_epoch_with_the_same_images(data, world_sizes, count, drop_last):
    before, now = world_sizes
    options = {"indices": torch.arange(count), "drop_last": drop_last}
    state, _, expected = begun(data, 2, batch_size=8 // before, world_size=before, **options)
    left_out = state["images"] % now
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got, after = continued(data, state, batch_size=8 // now, world_size=now, **options)
    if left_out:
        expected[-1] = expected[-1][:-left_out]
        assert len(caught) == 1  # one process says it
        assert f"ends with {state['images'] - left_out} images instead of the {state['images']}" in str(
            caught[0].message
        )
    else:
        assert not caught
    assert got == expected
    assert after["images"] == state["images"] - left_out
    assert after["epoch_batches"] == state["epoch_batches"] == after["batches"]


def test_the_epoch_after_it_is_whole_again(data):
    state, _, _ = begun(data, 2, batch_size=4, world_size=2, indices=torch.arange(47))
    loader = make(data, indices=torch.arange(47))
    loader.load_state_dict(state)
    assert [len(batch) for batch in rest(iter(loader))] == [8, 8, 8, 6]
    assert [len(batch) for batch in seen(loader, 1)] == [8] * 5 + [7]
    assert loader.state_dict()["images"] == 47


def test_there_and_back_again(data):
    """The state of a continued epoch says what that epoch has, so that it can be continued once more."""
    options = {"indices": torch.arange(47)}
    state, _, expected = begun(data, 2, batch_size=4, world_size=2, **options)
    one = make(data, **options)
    one.load_state_dict(state)
    assert next(iter(one)).index.tolist() == expected[0]
    got, _ = continued(data, one.state_dict(), batch_size=4, world_size=2, **options)
    assert got == expected[1:]


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (
            {},
            {"batch_size": 16},
            "took 8 images per batch .* would take 16: set batch_size .* to 8 with 1 process,",
        ),
        (
            {},
            {"world_size": 2},
            "took 8 images per batch .* would take 16: set batch_size .* to 4 with 2 processes",
        ),
        ({}, {"world_size": 3}, "would take 24: use a number of processes that divides 8, or continue from"),
        (
            {},
            {"seed": 2},
            "order of seed 1, and the seed is now 2, or continue from a checkpoint taken at an epoch's",
        ),
        ({}, {"indices": torch.arange(40)}, "had 50 training images, this one has 40"),
        # the same number of images is left by drop_last, but of other orders
        (
            {"drop_last": True},
            {"drop_last": True, "indices": torch.arange(49)},
            "had 50 training images, this one has 49",
        ),
        ({}, {"drop_last": True}, "it has 7 batches in the checkpoint's run and 6 in this one"),
        ({"drop_last": True}, {}, "it has 6 batches in the checkpoint's run and 7 in this one"),
        # 41 images: one is left for a last batch, which two processes cannot share
        (
            {"indices": torch.arange(41)},
            {"indices": torch.arange(41), "batch_size": 4, "world_size": 2},
            "it has 6 batches in the checkpoint's run and 5 in this one",
        ),
        (
            {"indices": torch.arange(41), "shuffle": False},
            {"indices": torch.arange(41), "batch_size": 4, "world_size": 2, "shuffle": False},
            "it has 6 batches in the checkpoint's run and 5 in this one",
        ),
    ],
)
def test_another_order_cannot_be_continued(data, before, now, message):
    state, _, _ = begun(data, 1, **before)
    loader = make(data, **now)
    loader.load_state_dict(state)
    with pytest.raises(ValueError, match=f"middle of epoch 0: .*{message}"):
        next(iter(loader))


def said_of_seeds(change):
    if "seed" in change:
        return pytest.warns(UserWarning, match="order of seed 2, as given; .* run had seed 1")
    return nullcontext()


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"indices": torch.arange(40)}, {"drop_last": True}, {"batch_size": 16}]
)
@pytest.mark.parametrize("batches", [0, 7])
def test_between_epochs_anything_can_follow(data, batches, change):
    state, _, _ = begun(data, batches)
    loader = make(data, **change)
    loader.load_state_dict(state)
    epoch = 1 if batches else 0  # after the epoch's end, or at its beginning
    with said_of_seeds(change):
        assert seen(loader, epoch) == seen(make(data, **change), epoch)
    assert loader.state_dict() == {**loader.state_dict(), "images": loader.epoch_images, "epoch": epoch}


def test_foreign_state_is_refused(data):
    with pytest.raises(ValueError, match="expected the state of a BatchLoader, got"):
        make(data).load_state_dict({"batches": 3})


# ---- workers -----------------------------------------------------------------------------------------------


def test_workers_give_the_same_batches_and_draw_from_no_global_generator(data):
    before = torch.get_rng_state()
    direct, workers = make(data), make(data, num_workers=2)
    for epoch in range(2):
        direct.set_epoch(epoch)
        workers.set_epoch(epoch)
        for one, other in zip(direct, workers, strict=True):
            assert isinstance(other, Batch)
            assert one.place == other.place
            assert all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_pinning_happens_where_there_is_cuda(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batches = list(make(data, pin_memory=True))
    assert {batch.images.is_pinned() for batch in batches} == {torch.cuda.is_available()}


# ---- wrong arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be >= 1 or 'full', got 0"),
        ({"rank": 2, "world_size": 2}, r"rank must be in \[0, world_size = 2\), got 2"),
        ({"rank": -1}, "rank must be in"),
        ({"num_workers": -1}, "num_workers must be >= 0, got -1"),
        ({"world_size": 51}, "50 images cannot be shared by 51 processes"),
        ({"indices": torch.arange(0)}, "0 images cannot be shared by 1 processes"),
        ({"batch_size": 51, "drop_last": True}, "drop_last leaves no batch of 50 images"),
    ],
)
def test_wrong_values(data, options, message):
    with pytest.raises(ValueError, match=message):
        make(data, **options)


def test_wrong_tensors(data):
    images, labels = data
    with pytest.raises(TypeError, match="images must be uint8 and labels int64, got"):
        make((images.float(), labels))
    with pytest.raises(ValueError, match=r"got \(50, 3, 4, 4\) and \(49,\)"):
        make((images, labels[1:]))
    with pytest.raises(ValueError, match=r"images must be \(N, C, H, W\)"):
        make((images[:, 0], labels))
