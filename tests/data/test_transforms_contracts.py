"""What every transform keeps: neutral settings, draws, ranks, devices, dtypes, readable errors."""

import copy
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from jsonargparse import auto_cli
from torch import Tensor

# Not public, but the only way to a GPU's complaints without a GPU; as of torch 2.14.
from torch._subclasses import FakeTensorMode
from torchvision.transforms import v2

from lightning_optreg.data.statistics import compute_statistics
from lightning_optreg.data.transforms import (
    BatchTransform,
    ColorJitter,
    LensDistortion,
    PCAColorJitter,
    Pipeline,
    RandomAutocontrast,
    RandomCrop,
    RandomEqualize,
    RandomErasing,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomInvert,
    RandomPosterize,
    RandomResizedCrop,
    RandomScaleCrop,
    RandomSolarize,
    RandomStretch,
    TFColorJitter,
)
from lightning_optreg.randomness.draws import Draws, Place

CPU = torch.device("cpu")


def draws(n: int, *, start: int = 0, total: int | None = None, step: int = 0) -> Draws:
    return Draws(7, Place(0, step, start, n if total is None else total), n, CPU)


def pixels(n: int, channels: int = 3, height: int = 18, width: int = 20, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, height, width), dtype=torch.uint8, generator=generator)


def ready(transform: BatchTransform, channels: int = 3) -> BatchTransform:
    transform.fit(compute_statistics(pixels(20, channels)))
    return transform


def as_needed(transform: BatchTransform, images: Tensor) -> Tensor:
    return images / 255 if transform.needs_float else images


fakes_cuda = pytest.mark.skipif(
    torch.__version__ < torch.torch_version.TorchVersion("2.14") and not torch.cuda.is_available(),
    reason="fake CUDA tensors of older torch versions need CUDA's driver",
)


def fake_cuda() -> FakeTensorMode:
    """Tensors with shape, dtype and device but no numbers: mixing devices fails as it does on a real GPU.

    So does reading a number back to the host, which would make a GPU wait.
    """
    return FakeTensorMode(allow_non_fake_inputs=True)


class FakeDraws(Draws):
    """Draws on a device that this machine may not have, where no generator can be made."""

    def __init__(self, n: int) -> None:
        super().__init__(0, Place(0, 0, 0, n), n, torch.device("meta"))
        self.device = torch.device("cuda")

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.zeros(self.count, *shape, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        return torch.zeros(self.count, *shape, device=self.device)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.zeros(self.count, *shape, dtype=torch.int64, device=self.device)


ACTIVE: dict[str, Callable[[], BatchTransform]] = {
    "crop": lambda: RandomCrop(),
    "crop_small": lambda: RandomCrop((8, 7), padding=2, padding_mode="reflect"),
    "erase": lambda: RandomErasing(p=0.9),
    "erase_random": lambda: RandomErasing(value="random"),
    "flip": lambda: RandomHorizontalFlip(),
    "pca": lambda: PCAColorJitter(),
    "pca_std": lambda: PCAColorJitter(std=0.3, form="std"),
    "colour": lambda: ColorJitter(brightness=0.4, contrast=0.4),
    "scale_crop": lambda: RandomScaleCrop((8, 7), scale=(8, 15)),
    "tf_colour": lambda: TFColorJitter(0.1, (0.5, 1.5), (0.2, 1.8)),
    "warp": lambda: RandomResizedCrop(rotation=20.0, shear=10.0, stretch=1.3),
    "warp_resized": lambda: RandomResizedCrop((9, 14), padding_mode="zeros"),
    "lens": lambda: LensDistortion(k2=(-0.05, 0.1)),
    "stretch": lambda: RandomStretch(),
    "posterize": lambda: RandomPosterize(2),
    "solarize": lambda: RandomSolarize(),
    "invert": lambda: RandomInvert(),
    "autocontrast": lambda: RandomAutocontrast(),
    "equalize": lambda: RandomEqualize(),
    "grey": lambda: RandomGrayscale(p=0.5),
}
NEUTRAL: dict[str, Callable[[], BatchTransform]] = {
    "crop": lambda: RandomCrop(padding=0),
    "crop_same_size": lambda: RandomCrop((18, 20), padding=0, padding_mode="reflect"),
    "erase": lambda: RandomErasing(p=0.0),
    "flip": lambda: RandomHorizontalFlip(p=0.0),
    "pca": lambda: PCAColorJitter(std=0.0),
    "colour": lambda: ColorJitter(),
    "scale_crop": lambda: RandomScaleCrop((18, 20), scale=(18, 18)),
    "tf_colour": lambda: TFColorJitter(),
    "warp": lambda: RandomResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0)),
    "lens": lambda: LensDistortion(k1=(0.0, 0.0)),
    "stretch": lambda: RandomStretch(width=(1.0, 1.0), height=(1.0, 1.0)),
    "posterize": lambda: RandomPosterize(p=0.0),
    "posterize_nothing": lambda: RandomPosterize(bits=8),
    "solarize": lambda: RandomSolarize(p=0.0),
    "invert": lambda: RandomInvert(p=0.0),
    "autocontrast": lambda: RandomAutocontrast(p=0.0),
    "equalize": lambda: RandomEqualize(p=0.0),
    "grey": lambda: RandomGrayscale(p=0.0),
}
active = pytest.mark.parametrize("make", ACTIVE.values(), ids=ACTIVE.keys())


@pytest.mark.parametrize("make", NEUTRAL.values(), ids=NEUTRAL.keys())
@pytest.mark.parametrize("fitted", [True, False])
def test_neutral_setting_returns_the_input_and_draws_nothing(
    make: Callable[[], BatchTransform], fitted: bool
) -> None:
    transform = ready(make()) if fitted else make()
    images = as_needed(transform, pixels(4))
    numbers = draws(4)
    assert transform(images, numbers) is images
    assert torch.equal(numbers.uniform(5), draws(4).uniform(5))


@active
def test_is_a_function_of_the_draws(make: Callable[[], BatchTransform]) -> None:
    transform = ready(make())
    images = as_needed(transform, pixels(16))
    before = images.clone()
    state = torch.get_rng_state()
    first = transform(images, draws(16))
    assert torch.equal(first, transform(images, draws(16)))
    assert not torch.equal(first, transform(images, draws(16, step=1)))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, before)
    assert not torch.equal(first[0], transform(images[:1].repeat(16, 1, 1, 1), draws(16))[1])  # each its own


@active
def test_number_of_draws_does_not_depend_on_values(make: Callable[[], BatchTransform]) -> None:
    transform = ready(make())
    after = []
    for images in (pixels(6, seed=1), torch.zeros(6, 3, 18, 20, dtype=torch.uint8)):
        numbers = draws(6)
        transform(as_needed(transform, images), numbers)
        after.append(numbers.uniform(3))
    assert torch.equal(after[0], after[1])


@active
@pytest.mark.parametrize("ranks", [(128, 128), (1, 255), (100, 0, 156)])
def test_ranks_augment_images_as_one_process_does(
    make: Callable[[], BatchTransform], ranks: tuple[int, ...]
) -> None:
    transform = ready(make())
    images = as_needed(transform, pixels(256))
    parts = []
    start = 0
    for n in ranks:
        parts.append(transform(images[start : start + n], draws(n, start=start, total=256)))
        start += n
    assert torch.equal(torch.cat(parts), transform(images, draws(256)))


@active
def test_shape_is_as_announced_and_evaluation_has_it_too(make: Callable[[], BatchTransform]) -> None:
    transform = ready(make())
    images = as_needed(transform, pixels(5))
    shape = transform.output_shape((3, 18, 20))
    assert transform(images, draws(5)).shape == (5, *shape)
    assert transform.evaluate(images).shape == (5, *shape)
    if shape == (3, 18, 20):
        assert transform.evaluate(images) is images


@active
def test_any_channels(make: Callable[[], BatchTransform]) -> None:
    for channels in (1, 3):
        transform = ready(make(), channels)
        images = as_needed(transform, pixels(4, channels))
        assert transform(images, draws(4)).shape[:2] == (4, channels)


@fakes_cuda
@active
def test_every_tensor_is_made_on_the_device_of_the_images(make: Callable[[], BatchTransform]) -> None:
    transform = ready(make())
    with fake_cuda():
        transform.to("cuda")
        images = as_needed(transform, torch.zeros(4, 3, 18, 20, dtype=torch.uint8, device="cuda"))
        for result in (transform(images, FakeDraws(4)), transform.evaluate(images)):
            assert result.device.type == "cuda"
            assert result.shape == (4, *transform.output_shape((3, 18, 20)))


@active
def test_shapes_come_out_on_the_meta_device(make: Callable[[], BatchTransform]) -> None:
    meta = torch.device("meta")
    transform = ready(make()).to(meta)
    images = as_needed(transform, torch.empty(4, 3, 18, 20, dtype=torch.uint8, device=meta))
    result = transform(images, Draws(0, Place(0, 0, 0, 4), 4, meta))
    assert result.device == meta
    assert result.shape == (4, *transform.output_shape((3, 18, 20)))


@fakes_cuda
def test_pipeline_and_its_buffers_follow_the_images() -> None:
    statistics = compute_statistics(pixels(20))
    for mode in ("mean_std", "mean", "mean_image", "none"):
        pipeline = Pipeline([make() for make in ACTIVE.values() if not make().needs_unit_range], mode)
        cuda = fake_cuda()
        for _ in range(2):
            pipeline.fit(statistics)  # on the CPU
            with cuda:
                images = torch.zeros(4, 3, 18, 20, dtype=torch.uint8, device="cuda")
                assert pipeline.evaluate(images).device.type == "cuda"
                assert pipeline.train(images, FakeDraws(4)).device.type == "cuda"
        pipeline.fit(statistics)
        assert pipeline.train(pixels(4), draws(4)).isfinite().all()


@active
@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float64, 1e-5), (torch.bfloat16, 0.03), (torch.float16, 0.004)]
)
def test_floating_point_dtypes_are_kept(
    make: Callable[[], BatchTransform], dtype: torch.dtype, atol: float
) -> None:
    transform = ready(make())
    images = (pixels(8) / 255).to(dtype)
    result = transform(images, draws(8))
    assert result.dtype == transform.evaluate(images).dtype == dtype
    torch.testing.assert_close(result.float(), transform(images.float(), draws(8)), atol=atol, rtol=0.0)


@active
def test_channels_last_images_give_the_same(make: Callable[[], BatchTransform]) -> None:
    transform = ready(make())
    images = as_needed(transform, pixels(8))
    other = images.to(memory_format=torch.channels_last)
    torch.testing.assert_close(transform(other, draws(8)), transform(images, draws(8)), atol=1e-6, rtol=0.0)


@active
def test_copies_and_shows_its_settings(make: Callable[[], BatchTransform]) -> None:
    transform = ready(make())
    images = as_needed(transform, pixels(4))
    expected = transform(images, draws(4))
    for twin in (copy.deepcopy(transform), pickle.loads(pickle.dumps(transform))):
        assert torch.equal(twin(images, draws(4)), expected)
    assert transform.state_dict() == {}  # nothing that a checkpoint would have to agree with
    assert "=" in repr(transform)


@pytest.mark.parametrize(
    "make",
    [
        ACTIVE[k]
        for k in ("pca", "colour", "scale_crop", "tf_colour", "warp", "warp_resized", "lens", "stretch")
    ],
)
def test_8_bit_images_are_refused_where_floats_are_needed(make: Callable[[], BatchTransform]) -> None:
    with pytest.raises(TypeError, match=r"^\w+: images must be floating-point on \[0, 1\], got torch.uint8$"):
        ready(make())(pixels(4), draws(4))


def test_a_base_class_cannot_be_built() -> None:
    with pytest.raises(TypeError, match="abstract"):
        BatchTransform()  # type: ignore[abstract]


def test_a_configuration_names_them_by_their_short_names() -> None:
    # torchvision, imported by now, has classes of the same names.
    assert {"RandomCrop", "ColorJitter", "RandomHorizontalFlip", "RandomResizedCrop"} <= set(dir(v2))

    def build(augment: list[BatchTransform]) -> list[BatchTransform]:
        return augment

    given = """[
        {class_path: RandomCrop, init_args: {size: [24, 20], padding: 2, padding_mode: reflect}},
        {class_path: RandomCrop, init_args: {size: 24}},
        RandomHorizontalFlip,
        {class_path: PCAColorJitter, init_args: {form: std}},
        {class_path: ColorJitter, init_args: {brightness: 0.2}},
        {class_path: RandomResizedCrop, init_args: {scale: [0.5, 1], stretch: 1.2}},
    ]"""
    built = auto_cli(build, args=[given])
    expected = [
        RandomCrop((24, 20), 2, "reflect"),
        RandomCrop(24),
        RandomHorizontalFlip(),
        PCAColorJitter(form="std"),
        ColorJitter(brightness=0.2),
        RandomResizedCrop(scale=(0.5, 1.0), stretch=1.2),
    ]
    assert [(type(t), repr(t)) for t in built] == [(type(t), repr(t)) for t in expected]


NAN = math.nan


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: RandomCrop(0),
            "RandomCrop: size must be a number >= 1 or two of them (height, width), got 0",
        ),
        (lambda: RandomCrop((3, -1)), "RandomCrop: size must be a number >= 1 or two of them"),
        (lambda: RandomCrop((3, 3, 3)), "RandomCrop: size must be a number >= 1 or two of them"),  # type: ignore
        (lambda: RandomCrop(padding=-1), "RandomCrop: padding must be >= 0, got -1"),
        (
            lambda: RandomCrop(padding_mode="wrap"),  # type: ignore[arg-type]
            "RandomCrop: padding_mode must be zeros or reflect, got 'wrap'",
        ),
        (
            lambda: RandomCrop(21, padding=4).output_shape((1, 12, 12)),
            "RandomCrop: size 21x21 must fit into the image of 12x12 padded by 4",
        ),
        (
            lambda: RandomCrop(padding=12, padding_mode="reflect").output_shape((1, 14, 12)),
            "RandomCrop: padding must be < 12, the image's size, to reflect it, got 12",
        ),
        (lambda: RandomHorizontalFlip(1.5), "RandomHorizontalFlip: p must be in [0, 1], got 1.5"),
        (lambda: RandomHorizontalFlip(NAN), "RandomHorizontalFlip: p must be in [0, 1], got nan"),
        (lambda: RandomErasing(NAN), "RandomErasing: p must be in [0, 1], got nan"),
        (lambda: RandomErasing(scale=(0.5, 0.1)), "RandomErasing: scale must be (low, high) with 0 < low"),
        (lambda: RandomErasing(ratio=(0.0, 1.0)), "RandomErasing: ratio must be (low, high) with 0 < low"),
        (lambda: RandomErasing(value=1.5), "RandomErasing: value must be in [0, 1] or 'random', got 1.5"),
        (lambda: RandomErasing(value="mean"), "RandomErasing: value must be in [0, 1] or 'random'"),  # type: ignore
        (lambda: PCAColorJitter(-0.1), "PCAColorJitter: std must be in [0, inf), got -0.1"),
        (lambda: PCAColorJitter(NAN), "PCAColorJitter: std must be in [0, inf), got nan"),
        (
            lambda: PCAColorJitter(form="variance"),  # type: ignore[arg-type]
            "PCAColorJitter: form must be eigenvalue or std, got 'variance'",
        ),
        (lambda: ColorJitter(brightness=1.1), "ColorJitter: brightness must be in [0, 1], got 1.1"),
        (lambda: ColorJitter(contrast=-1.0), "ColorJitter: contrast must be in [0, 1], got -1.0"),
        (lambda: TFColorJitter(NAN), "TFColorJitter: brightness must be in [0, 1], got nan"),
        (
            lambda: TFColorJitter(saturation=(1.5, 0.5)),
            "TFColorJitter: saturation must be two numbers 0 <= a <= b, got (1.5, 0.5)",
        ),
        (lambda: TFColorJitter(contrast=(-1.0, 1.0)), "TFColorJitter: contrast must be two numbers"),
        (
            lambda: ColorJitter(contrast=0.5)(torch.rand(2, 4, 3, 3), draws(2)),
            "ColorJitter: contrast needs images of 1 or 3 channels, got 4",
        ),
        (
            lambda: RandomResizedCrop(scale=(0.0, 1.0)),
            "RandomResizedCrop: scale must be (low, high) with 0 < low <= high <= 1, got (0.0, 1.0)",
        ),
        (lambda: RandomResizedCrop(scale=(0.5, 1.5)), "RandomResizedCrop: scale must be"),
        (lambda: RandomResizedCrop(scale=(NAN, 1.0)), "RandomResizedCrop: scale must be"),
        (
            lambda: RandomResizedCrop(ratio=(2.0, 1.0)),
            "RandomResizedCrop: ratio must be (low, high) with 0 < low <= high < inf, got (2.0, 1.0)",
        ),
        (lambda: RandomResizedCrop(ratio=(1.0, math.inf)), "RandomResizedCrop: ratio must be"),
        (
            lambda: RandomResizedCrop(rotation=181.0),
            "RandomResizedCrop: rotation must be in [0, 180] degrees, got 181.0",
        ),
        (
            lambda: RandomResizedCrop(shear=90.0),
            "RandomResizedCrop: shear must be in [0, 90) degrees, got 90.0",
        ),
        (lambda: RandomResizedCrop(stretch=0.9), "RandomResizedCrop: stretch must be in [1, inf), got 0.9"),
        (
            lambda: RandomResizedCrop(padding_mode="reflect"),  # type: ignore[arg-type]
            "RandomResizedCrop: padding_mode must be zeros, border or reflection, got 'reflect'",
        ),
        (lambda: RandomResizedCrop(size=-3), "RandomResizedCrop: size must be a number >= 1"),
        (
            lambda: LensDistortion(k1=(0.2, -0.2)),
            "LensDistortion: k1 must be (low, high) with -inf < low <= high < inf, got (0.2, -0.2)",
        ),
        (lambda: LensDistortion(k2=(NAN, 0.0)), "LensDistortion: k2 must be (low, high)"),
        (
            lambda: LensDistortion(k1=(-0.34, 0.0)),
            "LensDistortion: k1 and k2 must keep 1 + 3 k1 r^2 + 5 k2 r^4 > 0 for r in [0, 1], or the image"
            " folds, got (-0.34, 0.0) and (0.0, 0.0)",
        ),
        (
            lambda: LensDistortion(padding_mode="reflect"),  # type: ignore[arg-type]
            "LensDistortion: padding_mode must be 'zeros', 'border' or 'reflection', got 'reflect'",
        ),
        (
            lambda: RandomStretch(width=(0.0, 1.0)),
            "RandomStretch: width must be (low, high) with 0 < low <= high < inf, got (0.0, 1.0)",
        ),
        (lambda: RandomStretch(height=(2.0, 1.0)), "RandomStretch: height must be (low, high)"),
        (lambda: RandomStretch(padding_mode="x"), "RandomStretch: padding_mode must be"),  # type: ignore
        (lambda: RandomInvert(NAN), "RandomInvert: p must be in [0, 1], got nan"),
        (lambda: RandomPosterize(0), "RandomPosterize: bits must be a whole number in [1, 8], got 0"),
        (lambda: RandomPosterize(4.5), "RandomPosterize: bits must be a whole number"),  # type: ignore
        (lambda: RandomSolarize(128), "RandomSolarize: threshold must be in [0, 1], got 128"),
        (
            lambda: RandomAutocontrast()(torch.rand(2, 4, 3, 3), draws(2)),
            "RandomAutocontrast: images must have 1 or 3 channels, got 4",
        ),
        (
            lambda: RandomGrayscale()(torch.rand(2, 2, 3, 3), draws(2)),
            "RandomGrayscale: images must have 1 or 3 channels, got 2",
        ),
        # one number in the place of two
        (lambda: LensDistortion(k1=0.1), "LensDistortion: k1 must be"),  # type: ignore[arg-type]
        (lambda: RandomResizedCrop(ratio=1.0), "RandomResizedCrop: ratio must be"),  # type: ignore[arg-type]
        (lambda: RandomErasing(scale=0.1), "RandomErasing: scale must be"),  # type: ignore[arg-type]
        (lambda: TFColorJitter(contrast=0.5), "TFColorJitter: contrast must be"),  # type: ignore[arg-type]
    ],
)
def test_wrong_values_are_one_line_errors(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is compared below)
        make()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
