"""Alternating flips: both versions of every image in any two epochs, whatever the batches and processes."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn

# Not public, but the only way to a GPU's complaints without a GPU; as of torch 2.14.
from torch._subclasses import FakeTensorMode

from lightning_optreg.callbacks import BatchAugmentation, BatchSizeGrowth, Curriculum, ExactResume
from lightning_optreg.data import ImageDataModule, ImageSet, RandomHorizontalFlip, Source
from lightning_optreg.randomness.draws import Draws, Place
from tests.contracts.runs import checkpoint_every_step
from tests.data.expected_warnings import FEW_BATCHES, WORKERS
from tests.small_runs import quiet_trainer

pytestmark = [*WORKERS, FEW_BATCHES]
CPU = torch.device("cpu")
COUNT = 200


class Sided(ImageDataModule):
    """Images whose first row tells their number, and whose second row tells which side is left."""

    class_names, image_shape = ("a", "b"), (1, 2, 2)

    def locate(self, *, download: bool) -> Source:
        images = torch.zeros(COUNT, 1, 2, 2, dtype=torch.uint8)
        images[:, 0, 0] = torch.arange(COUNT, dtype=torch.uint8)[:, None]
        images[:, 0, 1, 1] = 255
        return Source("sided", {"train": []}, lambda part: ImageSet(images, torch.arange(COUNT) % 2))


def data(folder: Path, **options: Any) -> Sided:
    settings = {"batch_size": 16, "val_fraction": 0, "normalize": "none", "cache_dir": str(folder / "cache")}
    return Sided(augment=[RandomHorizontalFlip(alternating=True)], **{**settings, **options})


def seen(x: Tensor) -> list[tuple[int, bool]]:
    """Number of each image, and whether it is mirrored."""
    numbers = (x[:, 0, 0, 0] * 255).round().int().tolist()
    return list(zip(numbers, (x[:, 0, 1, 0] > 0.5).tolist(), strict=True))


class Seen(Callback):
    """What a network saw, by epoch."""

    def __init__(self) -> None:
        self.epochs: dict[int, list[tuple[int, bool]]] = {}

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        self.epochs.setdefault(trainer.current_epoch, []).extend(seen(batch[0]))


class Net(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run(folder: Path, callbacks: list[Callback], epochs: int = 4, **options: Any) -> dict[int, Any]:
    watch = Seen()
    ckpt_path = options.pop("ckpt_path", None)
    seed_everything(3, verbose=False)
    trainer = quiet_trainer(
        callbacks=[*callbacks, watch], max_epochs=epochs, default_root_dir=folder, **options
    )
    trainer.fit(Net(), datamodule=data(folder), ckpt_path=ckpt_path)
    return watch.epochs


def test_every_image_is_seen_in_both_versions_in_two_epochs(tmp_path: Path) -> None:
    module = data(tmp_path, seed=0)
    module.setup("fit")
    epochs = [[each for x, _ in module.batches("train", epoch) for each in seen(x)] for epoch in range(5)]
    for one, two in pairwise(epochs):
        assert sorted(one + two) == [(n, turned) for n in range(COUNT) for turned in (False, True)]
    assert sorted(epochs[0]) == sorted(epochs[2]) == sorted(epochs[4])
    # half of the images, within 4 standard errors of a fair coin
    assert abs(sum(turned for _, turned in epochs[0]) - COUNT / 2) < 4 * (COUNT / 4) ** 0.5
    other = data(tmp_path, seed=1)
    other.setup("fit")
    assert sorted(epochs[0]) != sorted(each for x, _ in other.batches("train", 0) for each in seen(x))


@pytest.mark.parametrize("options", [{"batch_size": 7}, {"batch_size": "full"}, {"num_workers": 1}])
def test_batches_make_no_difference(options: dict[str, Any], tmp_path: Path) -> None:
    def first_epochs(**others: Any) -> list[list[tuple[int, bool]]]:
        module = data(tmp_path, seed=0, **others)
        module.setup("fit")
        return [sorted(each for x, _ in module.batches("train", e) for each in seen(x)) for e in range(2)]

    assert first_epochs(**options) == first_epochs()


def test_two_processes_have_the_same_versions() -> None:
    index = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    images = torch.arange(64 * 3).view(64, 1, 1, 3)[index]
    flip = RandomHorizontalFlip(alternating=True)
    whole = flip(images, Draws(1, Place(3, 2, 0, 64), 64, CPU, index))
    parts = [
        flip(images[i : i + 32], Draws(1, Place(3, 2, i, 64), 32, CPU, index[i : i + 32])) for i in (0, 32)
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_a_batch_that_grows_makes_no_difference(tmp_path: Path) -> None:
    plain, grown = run(tmp_path, []), run(tmp_path, [BatchSizeGrowth([1, 2])])
    assert {e: sorted(each) for e, each in plain.items()} == {e: sorted(each) for e, each in grown.items()}


def test_a_repeated_image_has_one_version_in_an_epoch(tmp_path: Path) -> None:
    epochs = run(tmp_path, [Curriculum(order="random", min_images=4, start=0.1, full_at=1.0)])
    assert max(Counter(number for number, _ in epochs[0]).values()) > 1
    versions: dict[int, dict[int, set[bool]]] = {
        epoch: {n: {turned for m, turned in found if m == n} for n, _ in found}
        for epoch, found in epochs.items()
    }
    for epoch, found in versions.items():
        assert all(len(each) == 1 for each in found.values())
        for number, each in versions.get(epoch + 1, {}).items():
            assert number not in found or found[number] != each


def test_a_resumed_run_sees_the_same(tmp_path: Path) -> None:
    saver = checkpoint_every_step(tmp_path)
    straight = run(tmp_path, [ExactResume(), saver], enable_checkpointing=True)
    resumed = run(tmp_path, [ExactResume()], ckpt_path=tmp_path / "step=18.ckpt")  # in the second epoch
    assert resumed[1] == straight[1][5 * 16 :]
    assert resumed[2] == straight[2]


def test_it_is_refused_where_images_are_not_known(tmp_path: Path) -> None:
    flip = RandomHorizontalFlip(alternating=True)
    message = "^RandomHorizontalFlip: alternating=True must know which image is which, as in the augment of a"
    with pytest.raises(ValueError, match=message):
        flip(torch.zeros(2, 1, 2, 2), Draws(0, Place(0, 0, 0, 2), 2, CPU))
    with pytest.raises(ValueError, match=message):
        run(tmp_path, [BatchAugmentation([flip])])


def test_evaluation_mirrors_nothing() -> None:
    images = torch.rand(3, 1, 2, 2)
    assert RandomHorizontalFlip(alternating=True).evaluate(images) is images


@pytest.mark.skipif(
    torch.__version__ < torch.torch_version.TorchVersion("2.14") and not torch.cuda.is_available(),
    reason="fake CUDA tensors of older torch versions need CUDA's driver",
)
def test_nothing_is_read_from_the_device() -> None:
    flip = RandomHorizontalFlip(alternating=True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        images, index = torch.zeros(4, 1, 2, 2, device="cuda"), torch.arange(4, device="cuda")
        draws = Draws(0, Place(1, 0, 0, 4), 4, torch.device("meta"), index)
        assert flip(images, draws).device.type == "cuda"


def test_wrong_settings() -> None:
    with pytest.raises(
        ValueError, match=r"^RandomHorizontalFlip: p must be 0\.5 with alternating=True, got 0\.3"
    ):
        RandomHorizontalFlip(0.3, alternating=True)
    with pytest.raises(TypeError, match=r"^RandomHorizontalFlip: alternating must be true or false, got 1$"):
        RandomHorizontalFlip(alternating=1)  # type: ignore[arg-type]
    assert repr(RandomHorizontalFlip(alternating=True)) == "RandomHorizontalFlip(p=0.5, alternating=True)"
    assert repr(RandomHorizontalFlip()) == "RandomHorizontalFlip(p=0.5)"
