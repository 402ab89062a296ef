"""Normalize against its formulas, and Pipeline against its parts one by one."""

import copy
import pickle
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from lightning_optreg.callbacks import BatchAugmentation
from lightning_optreg.data.statistics import Statistics, compute_statistics
from lightning_optreg.data.transforms import (
    BatchTransform,
    ColorJitter,
    ColorShift,
    Normalize,
    PCAColorJitter,
    Pipeline,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
)
from lightning_optreg.randomness.draws import Draws, Place

CPU = torch.device("cpu")
MODES = ("mean_std", "mean", "mean_image", "none")


def draws(n: int, *, start: int = 0, total: int | None = None) -> Draws:
    return Draws(0, Place(1, 2, start, n if total is None else total), n, CPU)


def pixels(n: int, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.randint(0, 256, (n, channels, 10, 8), dtype=torch.uint8, generator=generator)


STATISTICS = compute_statistics(pixels(100))


def pipeline(transforms: Sequence[BatchTransform], mode: str = "mean_std") -> Pipeline:
    built = Pipeline(transforms, mode)  # type: ignore[arg-type]
    built.fit(STATISTICS)
    return built


def formula(x: Tensor, mode: str, s: Statistics) -> Tensor:
    """The modes in float64, x on [0, 1]."""
    mean, std = s.mean.double().view(-1, 1, 1), s.std.double().view(-1, 1, 1)
    if mode == "mean_image":
        return x - s.mean_image.double()
    return {"mean_std": (x - mean) / std, "mean": x - mean, "none": x}[mode]


# ---- Normalize ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.bfloat16])
def test_normalize_is_its_formula(mode: str, channels: int, dtype: torch.dtype) -> None:
    images = pixels(30, channels)
    s = compute_statistics(images)
    normalize = Normalize(mode, s)  # type: ignore[arg-type]
    x = images if dtype == torch.uint8 else (images / 255).to(dtype)
    exact = images.double() / 255 if dtype == torch.uint8 else x.double()
    shift = 0.1 * torch.randn(30, channels)
    before = x.clone()
    for got, expected in (
        (normalize(x), formula(exact, mode, s)),
        (normalize(x, shift), formula(exact + shift.double()[:, :, None, None], mode, s)),
    ):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), expected, atol=2e-6, rtol=0.0)
    assert torch.equal(x, before)


def test_normalize_agrees_with_torchvision() -> None:
    images = pixels(5)
    expected = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(STATISTICS.mean.tolist(), STATISTICS.std.tolist()),
        ]
    )(images)
    torch.testing.assert_close(Normalize("mean_std", STATISTICS)(images), expected, atol=2e-6, rtol=0.0)
    scaled = tv.to_dtype(images, torch.float32, scale=True)
    assert torch.equal(Normalize("none")(images), scaled)
    assert Normalize("none")(scaled) is scaled


def test_normalised_training_images_have_mean_0_and_std_1() -> None:
    images = pixels(100)
    x = Normalize("mean_std", STATISTICS)(images).double()
    assert x.mean((0, 2, 3)).abs().max() < 1e-6
    assert (x.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-6
    assert Normalize("mean_image", STATISTICS)(images).double().mean(0).abs().max() < 1e-6


def test_normalize_refuses_what_does_not_fit() -> None:
    with pytest.raises(RuntimeError, match=r"^Normalize: fit\(statistics\) must be called"):
        Normalize("mean")(pixels(2))
    with pytest.raises(ValueError, match=r"^Normalize: mode must be mean_std, mean, mean_image or none"):
        Normalize("both")  # type: ignore[arg-type]
    flat = compute_statistics(torch.full((3, 2, 4, 4), 7, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"^Normalize: std must be > 0 in every channel"):
        Normalize("mean_std", flat)
    Normalize("mean", flat)
    grey = compute_statistics(pixels(4, channels=1))
    for mode in ("mean_std", "mean", "mean_image"):
        with pytest.raises(ValueError, match=r"^Normalize: fitted to images of 1 channel\(s\), got 3$"):
            Normalize(mode, grey)(pixels(2))
    with pytest.raises(ValueError, match=r"mean image of shape \(3, 10, 8\), got images of \(3, 8, 8\)"):
        Normalize("mean_image", STATISTICS)(pixels(2)[:, :, :8])


# ---- Pipeline ----------------------------------------------------------------------------------------------


class Spy(BatchTransform):
    """Notes what it is given and changes nothing."""

    def __init__(self, needs_float: bool) -> None:
        super().__init__()
        self.needs_float = needs_float  # type: ignore[misc]
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor, draws: Draws) -> Tensor:
        self.seen.append(images)
        return images

    def evaluate(self, images: Tensor) -> Tensor:
        return self.forward(images, draws(0))


class Constant(ColorShift):
    """Adds c to every pixel; None for nothing."""

    def __init__(self, c: float | None) -> None:
        super().__init__()
        self.c = c

    def shift(self, draws: Draws) -> Tensor | None:
        return None if self.c is None else torch.full((draws.count, 3), self.c)


@pytest.mark.parametrize("mode", ["mean_std", "mean", "none"])
def test_pipeline_is_its_parts_in_order(mode: str) -> None:
    images = pixels(64)
    crop, flip, jitter = RandomCrop(padding=2), RandomHorizontalFlip(), PCAColorJitter(std=0.5)
    colour, warp = ColorJitter(0.2, 0.2), RandomResizedCrop(7, rotation=10.0)
    got = pipeline([crop, flip, colour, warp, jitter], mode).train(images, draws(64))
    numbers = draws(64)
    x = flip(crop(images, numbers), numbers).double() / 255
    x = jitter(warp(colour(x, numbers), numbers), numbers)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), formula(x, mode, STATISTICS), atol=2e-5, rtol=0.0)


@pytest.mark.parametrize("mode", MODES)
def test_shifts_at_the_end_are_added_while_normalising(mode: str) -> None:
    images = pixels(8)
    first, second = PCAColorJitter(), PCAColorJitter(std=0.3, form="std")
    shifts = [Constant(0.1), first, Constant(None), second, Constant(-0.3)]
    got = pipeline(shifts, mode).train(images, draws(8))
    numbers = draws(8)
    drawn = [jitter.shift(numbers) for jitter in (first, second)]  # in the order of the list
    assert drawn[0] is not None
    assert drawn[1] is not None
    shift = (drawn[0] + drawn[1]).double()[:, :, None, None]
    expected = formula(images.double() / 255 - 0.2 + shift, mode, STATISTICS)
    torch.testing.assert_close(got.double(), expected, atol=3e-6, rtol=0.0)


def test_images_become_floats_once_and_no_sooner_than_needed() -> None:
    spies = [Spy(False), Spy(True), Spy(False), Spy(True)]
    built = pipeline(list(spies))
    images = pixels(4)
    for training in (True, False):
        if training:
            built.train(images, draws(4))
        else:
            built.evaluate(images)
        first, second, third, fourth = (spy.seen.pop() for spy in spies)
        assert first is images
        assert torch.equal(second, tv.to_dtype(images, torch.float32, scale=True))
        assert second is third is fourth


@pytest.mark.parametrize("mode", MODES)
def test_trivial_settings_change_no_bit(mode: str) -> None:
    trivial: list[BatchTransform] = [
        RandomCrop(padding=0),
        RandomHorizontalFlip(p=0.0),
        PCAColorJitter(std=0.0),
    ]
    images = pixels(16)
    plain = pipeline([], mode)
    expected = plain.evaluate(images)
    assert torch.equal(plain.train(images, draws(16)), expected)
    assert torch.equal(pipeline(trivial, mode).train(images, draws(16)), expected)
    assert torch.equal(pipeline(trivial, mode).evaluate(images), expected)


def test_mean_image_is_subtracted_before_pixels_move() -> None:
    images = pixels(32)
    crop, flip, jitter = RandomCrop(padding=3), RandomHorizontalFlip(), PCAColorJitter()
    got = pipeline([crop, flip, jitter], "mean_image").train(images, draws(32))
    centred = images.double() / 255 - STATISTICS.mean_image.double()
    numbers = draws(32)
    place = numbers.integers(0, 49).tolist()
    mirrored = (numbers.uniform() < 0.5).tolist()
    shift = jitter.shift(numbers)
    assert shift is not None
    for n in range(32):
        top, left = divmod(place[n], 7)
        expected = F.pad(centred[n], (3, 3, 3, 3))[:, top : top + 10, left : left + 8]
        expected = expected.flip(-1) if mirrored[n] else expected
        expected = expected + shift[n].double().view(3, 1, 1)
        torch.testing.assert_close(got[n].double(), expected, atol=2e-6, rtol=0.0)


def test_mean_image_goes_with_small_crops_in_evaluation_too() -> None:
    images = pixels(6)
    got = pipeline([RandomCrop(6)], "mean_image").evaluate(images)
    centred = images.double() / 255 - STATISTICS.mean_image.double()
    torch.testing.assert_close(got.double(), tv.center_crop(centred, [6, 6]), atol=1e-6, rtol=0.0)


def test_colours_are_changed_before_a_mean_image_is_subtracted_or_not_at_all() -> None:
    Pipeline([ColorJitter(0.1), RandomCrop()], "mean_image")
    Pipeline([RandomCrop(), ColorJitter(0.1)], "mean_std")
    with pytest.raises(
        ValueError, match=r"^Pipeline: ColorJitter needs pixels on \[0, 1\], .*list ColorJitter before"
    ):
        Pipeline([RandomCrop(), PCAColorJitter(), ColorJitter(0.1)], "mean_image")


@pytest.mark.parametrize("mode", MODES)
def test_one_process_with_256_images_equals_two_with_128(mode: str) -> None:
    transforms: list[BatchTransform] = [
        ColorJitter(0.3, 0.3),
        RandomCrop(),
        RandomHorizontalFlip(),
        RandomResizedCrop(rotation=15.0, shear=5.0, stretch=1.2),
        PCAColorJitter(),
    ]
    built = pipeline(transforms, mode)
    images = pixels(256)
    state = torch.get_rng_state()
    whole = built.train(images, draws(256))
    halves = [built.train(images[i : i + 128], draws(128, start=i, total=256)) for i in (0, 128)]
    assert torch.equal(torch.cat(halves), whole)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(built.train(images[128:], draws(128)), whole[128:])  # rows do matter


def test_shapes_are_chained() -> None:
    built = Pipeline([RandomResizedCrop((20, 24)), RandomCrop((16, 18)), RandomHorizontalFlip()])
    assert built.output_shape((3, 10, 8)) == (3, 16, 18)
    built.fit(STATISTICS)
    assert built.train(pixels(2), draws(2)).shape == built.evaluate(pixels(2)).shape == (2, 3, 16, 18)
    with pytest.raises(ValueError, match="must fit into the image"):
        Pipeline([RandomCrop(30)]).output_shape((3, 10, 8))


def test_pipeline_is_copied_whole_and_shows_its_parts() -> None:
    built = pipeline([RandomCrop(), PCAColorJitter()])
    expected = built.train(pixels(4), draws(4))
    for twin in (copy.deepcopy(built), pickle.loads(pickle.dumps(built))):
        assert torch.equal(twin.train(pixels(4), draws(4)), expected)
    assert repr(built).startswith("Pipeline(RandomCrop(size=None, padding=4, padding_mode='zeros')")
    assert "Normalize(mode='mean_std')" in repr(built)


def test_pipeline_refuses_other_transforms() -> None:
    with pytest.raises(
        TypeError, match=r"^Pipeline: transforms must be BatchTransforms .*got torchvision.*RandomCrop$"
    ):
        Pipeline([v2.RandomCrop(8)])
    with pytest.raises(TypeError, match=r"got lightning_optreg.*Normalize$"):
        Pipeline([Normalize("none")])  # type: ignore[list-item]


def test_pipeline_needs_statistics() -> None:
    with pytest.raises(RuntimeError, match=r"^Normalize: fit\(statistics\)"):
        Pipeline().evaluate(pixels(2))
    with pytest.raises(RuntimeError, match=r"^PCAColorJitter: it has no statistics"):
        Pipeline([PCAColorJitter()], "none").train(pixels(2), draws(2))
    assert Pipeline([], "none").train(pixels(2), draws(2)).max() <= 1.0


@pytest.mark.parametrize(
    ("transforms", "says"),
    [
        (RandomCrop(), r"got RandomCrop; write \[RandomCrop\(...\)\]"),
        (RandomCrop, r"got RandomCrop; write \[RandomCrop\(...\)\]"),
        ([RandomCrop], r"got .*\.RandomCrop; write RandomCrop\(...\)"),
        ("RandomCrop", "list of transforms, got str"),
        (["RandomCrop"], "got builtins.str"),
        (3, "list of transforms, got int"),
    ],
)
@pytest.mark.parametrize("cls", [Pipeline, BatchAugmentation])
def test_what_is_no_list_of_transforms_is_named(cls: Any, transforms: Any, says: str) -> None:
    with pytest.raises(TypeError, match=rf"^{cls.__name__}: transforms must be .*{says}"):
        cls(transforms)
