"""Predictions averaged over views of the images."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lightning_optreg import ImageClassifier
from lightning_optreg.callbacks import TestTimeAugmentation
from lightning_optreg.data import (
    BatchTransform,
    CIFAR10DataModule,
    Flips,
    MultiScale,
    PCAColorJitter,
    PerImageStandardization,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomViews,
    TenCrop,
    Views,
)
from lightning_optreg.data.transforms import Centring
from tests.small_runs import quiet_trainer


@pytest.fixture
def data(cifar10_dir: Any) -> CIFAR10DataModule:
    return CIFAR10DataModule(data_dir=str(cifar10_dir), batch_size=16, verify_checksum=False)


def evaluated(net: nn.Module, data: CIFAR10DataModule, *callbacks: Any) -> tuple[Tensor, dict[str, float]]:
    run = quiet_trainer(callbacks=list(callbacks))
    model = ImageClassifier(net, num_classes=10)
    probabilities = torch.cat(run.predict(model, data))
    run.test(model, data, verbose=False)
    return probabilities, {name: value.item() for name, value in run.callback_metrics.items()}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))


@pytest.mark.parametrize(
    "views",
    [Flips(), Flips(vertical=True), TenCrop(padding=4), MultiScale([34, 40], crop=32)],
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


class Watched(nn.Module):
    """Keeps what it gets, images of 24 x 24 pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3 * 24 * 24, 10)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        scores: Tensor = self.layer(x.flatten(1))
        return scores


MODES: list[Centring] = ["mean_std", "mean", "mean_image", "none"]


def cropping(folder: Any, normalize: Centring = "mean_std", *more: BatchTransform) -> CIFAR10DataModule:
    """The recipe of AlexNet and VGG in small: 24 x 24 of 32 x 32 pixels, in the middle for evaluation."""
    shift = PCAColorJitter(0.1)
    before, after = ([shift], []) if normalize == "mean_image" else ([], [shift])
    return CIFAR10DataModule(
        data_dir=str(folder),
        batch_size=1000,
        verify_checksum=False,
        normalize=normalize,
        augment=[*before, RandomCrop(24, padding=0), RandomHorizontalFlip(), *(more or after)],
    )


def whole_images(data: CIFAR10DataModule) -> Tensor:
    """Normalised, and not cropped, by the formulas."""
    data.setup("predict")
    assert data.statistics is not None
    x = data.predict_dataloader().images.double() / 255
    match data.pipeline.normalize.mode:
        case "mean_std":
            x = (x - data.statistics.mean.view(-1, 1, 1)) / data.statistics.std.view(-1, 1, 1)
        case "mean":
            x = x - data.statistics.mean.view(-1, 1, 1)
        case "mean_image":
            x = x - data.statistics.mean_image
    return x.float()


def seen_in(data: CIFAR10DataModule, views: Views, **options: Any) -> list[Tensor]:
    """What the network gets in prediction."""
    net = Watched()
    run = quiet_trainer(callbacks=[TestTimeAugmentation(views)])
    run.predict(ImageClassifier(net, num_classes=10, **options), data)
    assert not data.uncropped
    return net.seen


@pytest.mark.parametrize("normalize", MODES)
def test_ten_crops_come_from_the_whole_image(normalize: Centring, cifar10_dir: Any) -> None:
    """AlexNet's: the corners and the middle of mean-subtracted images, and of their mirror images."""
    data = cropping(cifar10_dir, normalize)
    seen = seen_in(data, TenCrop(24), channels_last=normalize == "mean")
    x = whole_images(data)
    expected = []
    for mirrored in (x, x.flip(-1)):
        corners = (mirrored[..., i : i + 24, j : j + 24] for i in (0, 8) for j in (0, 8))
        expected += [mirrored[..., 4:28, 4:28], *corners]
    assert len(seen) == 10
    for got, crop in zip(seen, expected, strict=True):
        torch.testing.assert_close(got, crop)
    assert not any(torch.equal(seen[i], seen[j]) for i in range(10) for j in range(i))


@pytest.mark.parametrize("normalize", MODES)
def test_views_of_the_images_size_are_cropped_as_evaluation_crops(
    normalize: Centring, cifar10_dir: Any
) -> None:
    data = cropping(cifar10_dir, normalize)
    straight, mirrored = seen_in(data, Flips())
    middle = data.pipeline.evaluate(data.predict_dataloader().images)
    torch.testing.assert_close(straight, middle)
    torch.testing.assert_close(mirrored, middle.flip(-1))


def test_scales_are_of_the_whole_image(cifar10_dir: Any) -> None:
    data = cropping(cifar10_dir)
    seen = seen_in(data, MultiScale([28, 64], crop=24))
    x = whole_images(data)
    small = nn.functional.interpolate(x, [28, 28], mode="bilinear", antialias=True)
    large = nn.functional.interpolate(x, [64, 64], mode="bilinear", antialias=True)
    torch.testing.assert_close(seen[1], small[..., :24, :24])
    torch.testing.assert_close(seen[14], large[..., 40:, 40:])


def test_random_views_are_those_of_the_training(cifar10_dir: Any) -> None:
    data = cropping(cifar10_dir)
    seen = seen_in(data, RandomViews([RandomCrop(24, padding=0)], samples=20))
    x = whole_images(data)[0]
    places = [(i, j) for i in range(9) for j in range(9)]
    found = {
        next(
            p for p in places if torch.allclose(view[0], x[:, p[0] : p[0] + 24, p[1] : p[1] + 24], atol=1e-6)
        )
        for view in seen
    }
    assert len(found) > 10


def test_each_view_is_standardised_by_itself(cifar10_dir: Any) -> None:
    data = cropping(cifar10_dir, "none", PerImageStandardization())
    seen = seen_in(data, TenCrop(24))
    for view in seen:
        torch.testing.assert_close(view.mean((1, 2, 3)), torch.zeros(len(view)), atol=1e-5, rtol=0)
        torch.testing.assert_close(view.std((1, 2, 3), correction=0), torch.ones(len(view)))


def test_an_image_that_evaluation_resizes_gives_views_before(cifar10_dir: Any) -> None:
    data = CIFAR10DataModule(
        data_dir=str(cifar10_dir), batch_size=1000, verify_checksum=False, augment=[RandomResizedCrop(24)]
    )
    straight, mirrored = seen_in(data, Flips())
    torch.testing.assert_close(straight, data.pipeline.evaluate(data.predict_dataloader().images))
    torch.testing.assert_close(mirrored, straight.flip(-1))
    torch.testing.assert_close(seen_in(data, TenCrop(24))[1], whole_images(data)[..., :24, :24])


def test_a_mean_image_without_a_crop(cifar10_dir: Any) -> None:
    data = CIFAR10DataModule(data_dir=str(cifar10_dir), verify_checksum=False, normalize="mean_image")
    net = network()
    probabilities, _ = evaluated(net, data, TestTimeAugmentation(Flips()))
    x = whole_images(data)
    with torch.no_grad():
        mean = (net(x).softmax(-1) + net(x.flip(-1)).softmax(-1)) / 2
    torch.testing.assert_close(probabilities, mean)


def test_images_are_cropped_again_afterwards(cifar10_dir: Any) -> None:
    class Failing(ImageClassifier):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            raise ZeroDivisionError

    data = cropping(cifar10_dir)
    run = Trainer(accelerator="cpu", logger=False, callbacks=[TestTimeAugmentation(TenCrop(24))])
    with pytest.raises(ZeroDivisionError):
        run.test(Failing(Watched(), num_classes=10), data)
    assert not data.uncropped
    assert next(data.batches("test"))[0].shape[-2:] == (24, 24)


def test_a_network_that_draws_is_called_once_more_with_what_it_would_get(cifar10_dir: Any) -> None:
    data = cropping(cifar10_dir)
    net = nn.Sequential(nn.FractionalMaxPool2d(3, output_size=8), nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
    sizes: list[Any] = []
    net.register_forward_pre_hook(lambda net, args: sizes.append(args[0].shape[-2:]))
    states = []
    for callbacks in ([], [TestTimeAugmentation(TenCrop(20))]):
        torch.manual_seed(0)
        run = quiet_trainer(callbacks=callbacks)
        run.predict(ImageClassifier(net, num_classes=10), data)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    assert sizes == [(24, 24)] + 10 * [(20, 20)] + [(24, 24)]


@pytest.mark.parametrize(
    ("views", "shape"), [(TenCrop(8), (8, 8)), (TenCrop(), (8, 6)), (MultiScale([8], crop=8), (20, 20))]
)
def test_a_crop_without_room_is_told_of(views: Views, shape: tuple[int, int]) -> None:
    with pytest.warns(
        UserWarning, match=r"images have the size of the crops, 8x[68], so only two of ten views differ"
    ):
        found = list(views(torch.rand(2, 3, *shape)))
    assert torch.equal(found[0], found[4])
    list(TenCrop(8)(torch.rand(2, 3, 8, 9)))  # along one side is room


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
