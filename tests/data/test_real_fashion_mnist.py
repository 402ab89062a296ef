from pathlib import Path

import pytest

from lightning_optreg.data import FashionMNISTDataModule

REAL = Path("/usr/share/datasets/fashion-mnist")
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason=f"Fashion-MNIST is not in {REAL}")


def test_statistics_and_classes():
    data = FashionMNISTDataModule(val_fraction=0.0)
    data.prepare_data()
    data.setup()
    train, test = data.train_dataloader().labels, data.test_dataloader().labels
    assert train.bincount().tolist() == [6000] * 10
    assert test.bincount().tolist() == [1000] * 10
    assert train[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    # the numbers that everyone uses
    assert data.statistics.mean.item() == pytest.approx(0.2860, abs=5e-5)
    assert data.statistics.std.item() == pytest.approx(0.3530, abs=5e-5)


def test_validation_split():
    data = FashionMNISTDataModule()
    data.setup("validate")
    loader = data.val_dataloader()
    assert loader.labels[loader.indices].bincount().tolist() == [600] * 10
