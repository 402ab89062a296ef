"""Training images shuffled every epoch, once, never, or sorted by class."""

import pytest
import torch

from lightning_optreg.data import FashionMNISTDataModule
from lightning_optreg.data._order import epoch_order
from lightning_optreg.data.loader import BatchLoader

INDICES = torch.tensor([7, 3, 12, 30, 31, 2, 5, 6, 1])
LABELS = torch.arange(40) % 3


def epochs(shuffle, *, rank=0, world_size=1, batch_size=9):
    loader = BatchLoader(
        torch.zeros(40, 1, 2, 2, dtype=torch.uint8),
        LABELS,
        indices=INDICES,
        batch_size=batch_size,
        shuffle=shuffle,
        seed=4,
        rank=rank,
        world_size=world_size,
    )
    result = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        result.append([image for batch in loader for image in batch.index.tolist()])
    return result


def test_the_order_of_each_way():
    every = epochs("every_epoch")
    assert every == epochs(True)
    assert len({tuple(epoch) for epoch in every}) == 3
    assert epochs("once") == [INDICES[epoch_order(9, 4, 0)].tolist()] * 3
    assert epochs("once")[0] == every[0]
    assert epochs("never") == epochs(False) == [INDICES.tolist()] * 3
    assert epochs("by_class") == [[3, 12, 30, 6, 7, 31, 1, 2, 5]] * 3


@pytest.mark.parametrize("shuffle", ["every_epoch", "once", "never", "by_class"])
def test_training_is_shared_evenly_and_evaluation_leaves_nothing_out(shuffle):
    shares = [epochs(shuffle, rank=rank, world_size=2, batch_size=2) for rank in range(2)]
    for first, second in zip(*shares, strict=True):
        assert len(first) == len(second) == 4
    evaluation = [epochs(False, rank=rank, world_size=2, batch_size=2)[0] for rank in range(2)]
    assert sorted(evaluation[0] + evaluation[1]) == sorted(INDICES.tolist())


def test_a_data_module_shuffles_its_training_images_so(fashion_mnist_dir):
    def labels(part, **options):
        data = FashionMNISTDataModule(str(fashion_mnist_dir), verify_checksum=False, **options)
        data.setup("fit")
        return torch.cat([y for _, y in data.batches(part)])

    stored = labels("train", shuffle="never")
    assert not torch.equal(stored, stored.sort().values)
    assert torch.equal(labels("train", shuffle="by_class"), stored.sort().values)
    assert torch.equal(labels("train", shuffle="once"), labels("train"))
    assert torch.equal(labels("val", shuffle="by_class"), labels("val"))


def test_wrong_values(fashion_mnist_dir):
    with pytest.raises(ValueError, match="BatchLoader: shuffle must be one of every_epoch, once, never, by"):
        epochs("sometimes")
    with pytest.raises(ValueError, match=r"MNISTDataModule: shuffle must be one of .* got 'sometimes'"):
        FashionMNISTDataModule(str(fashion_mnist_dir), shuffle="sometimes")
