"""Predictions averaged over views of the images."""

from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lightning_optreg import ImageClassifier
from lightning_optreg.callbacks import TestTimeAugmentation
from lightning_optreg.data import (
    CIFAR10DataModule,
    Flips,
    MultiScale,
    RandomCrop,
    RandomHorizontalFlip,
    RandomViews,
    TenCrop,
    Views,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


@pytest.fixture
def data(cifar10_dir: Any) -> CIFAR10DataModule:
    return CIFAR10DataModule(data_dir=str(cifar10_dir), batch_size=16, verify_checksum=False)


def evaluated(net: nn.Module, data: CIFAR10DataModule, *callbacks: Any) -> tuple[Tensor, dict[str, float]]:
    run = Trainer(accelerator="cpu", logger=False, callbacks=list(callbacks), enable_progress_bar=False)
    model = ImageClassifier(net, num_classes=10)
    probabilities = torch.cat(run.predict(model, data))
    run.test(model, data, verbose=False)
    return probabilities, {name: value.item() for name, value in run.callback_metrics.items()}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))


@pytest.mark.parametrize(
    "views",
    [Flips(), Flips(vertical=True), TenCrop(padding=4), MultiScale([32, 40], crop=32)],
    ids=lambda views: type(views).__name__,
)
def test_probabilities_are_the_mean_over_the_views(views: Views, data: CIFAR10DataModule) -> None:
    net = network()
    probabilities, logged = evaluated(net, data, TestTimeAugmentation(views))
    data.setup("predict")
    images = data.pipeline.evaluate(data.predict_dataloader().images)
    with torch.no_grad():
        scores = torch.stack([net(view) for view in views(images)])
    torch.testing.assert_close(probabilities, scores.softmax(-1).mean(0))
    agreement = (scores.argmax(-1) == probabilities.argmax(-1)).float().mean().item()
    assert logged["optreg/test_time_augmentation/agreement"] == pytest.approx(agreement)


def test_mean_of_the_scores(data: CIFAR10DataModule) -> None:
    net = network()
    probabilities, _ = evaluated(net, data, TestTimeAugmentation(Flips(), average="outputs"))
    images = data.pipeline.evaluate(data.predict_dataloader().images)
    with torch.no_grad():
        scores = torch.stack([net(view) for view in Flips()(images)])
    torch.testing.assert_close(probabilities, scores.mean(0).softmax(-1))


def test_one_view_changes_nothing(data: CIFAR10DataModule) -> None:
    class Same(Views):
        def __call__(self, images: Tensor) -> Any:
            yield images

    plain, without = evaluated(network(), data)
    averaged, with_one = evaluated(network(), data, TestTimeAugmentation(Same()))
    torch.testing.assert_close(averaged, plain)
    assert with_one["test/accuracy"] == without["test/accuracy"]
    assert with_one["optreg/test_time_augmentation/agreement"] == 1


def test_random_views_repeat_themselves_and_follow_the_seed(data: CIFAR10DataModule) -> None:
    views = RandomViews([RandomCrop(padding=4), RandomHorizontalFlip()], samples=3)
    first, _ = evaluated(network(), data, TestTimeAugmentation(views))
    again, _ = evaluated(network(), data, TestTimeAugmentation(views))
    other, _ = evaluated(network(), data, TestTimeAugmentation(views, seed=1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_mean_image_is_refused(cifar10_dir: Any) -> None:
    data = CIFAR10DataModule(data_dir=str(cifar10_dir), verify_checksum=False, normalize="mean_image")
    with pytest.raises(MisconfigurationException, match="normalize must be mean or mean_std"):
        evaluated(network(), data, TestTimeAugmentation())


def test_views_are_where_they_should_be() -> None:
    images = torch.arange(12.0).view(1, 1, 3, 4)
    crops = [view.flatten().tolist() for view in TenCrop(size=2)(images)]
    assert crops[:5] == [[1, 2, 5, 6], [0, 1, 4, 5], [2, 3, 6, 7], [4, 5, 8, 9], [6, 7, 10, 11]]
    assert crops[5:] == [[2, 1, 6, 5], [3, 2, 7, 6], [1, 0, 5, 4], [7, 6, 11, 10], [5, 4, 9, 8]]
    padded = next(iter(TenCrop(padding=1)(images)))
    assert torch.equal(padded, images)  # the centre
    assert [view.flatten().tolist() for view in Flips(vertical=True)(images[..., :2, :2])] == [
        [0, 1, 4, 5],
        [1, 0, 5, 4],
        [4, 5, 0, 1],
        [5, 4, 1, 0],
    ]


def test_scales_keep_the_aspect_ratio() -> None:
    images = torch.rand(2, 3, 20, 30)
    views = list(MultiScale([20, 40], crop=20)(images))
    assert {tuple(view.shape) for view in views} == {(2, 3, 20, 20)}
    assert len(views) == 20
    assert torch.equal(views[1], images[..., :20])  # at its own size nothing is resampled
    doubled = nn.functional.interpolate(images, [40, 60], mode="bilinear", antialias=True)
    assert torch.equal(views[14], doubled[..., 20:, 40:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TenCrop(size=0), "TenCrop: size must be >= 1"),
        (lambda: TenCrop(padding=-1), "TenCrop: padding must be >= 0"),
        (lambda: list(TenCrop(size=9)(torch.zeros(1, 1, 8, 8))), "TenCrop: size must be <= 8"),
        (lambda: list(TenCrop(padding=8)(torch.zeros(1, 1, 8, 8))), "TenCrop: padding must be < 8"),
        (lambda: MultiScale(crop=0), "MultiScale: crop must be >= 1"),
        (lambda: MultiScale([100]), "MultiScale: sizes must be numbers >= crop = 224"),
        (lambda: RandomViews([], samples=0), "RandomViews: samples must be >= 1"),
    ],
)
def test_wrong_values(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_wrong_transforms() -> None:
    from lightning_optreg.data import ColorJitter

    with pytest.raises(ValueError, match="ColorJitter needs pixels on"):
        RandomViews([ColorJitter(brightness=0.1)])
    with pytest.raises(TypeError, match="transforms must be BatchTransforms, got Identity"):
        RandomViews([nn.Identity()])
