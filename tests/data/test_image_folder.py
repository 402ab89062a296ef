import warnings
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from lightning_optreg import ImageClassifier
from lightning_optreg.callbacks import TestTimeAugmentation
from lightning_optreg.data import (
    Flips,
    ImageFolderDataModule,
    MultiScale,
    PerImageStandardization,
    RandomCrop,
    RandomHorizontalFlip,
    TenCrop,
    Views,
)
from lightning_optreg.data.image_folder import list_images, read_image
from tests.small_runs import quiet_trainer


def save(path: Path, pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path)
    return path


def uniform(value, size=(8, 8)):
    return np.full((*size, 3), value)


@pytest.fixture
def flat(tmp_path):
    """Three classes of 10 images, each of one grey value: 10 c + i."""
    root = tmp_path / "flat"
    for c, name in enumerate(("zebra", "ant", "bee")):
        for i in range(10):
            save(root / name / f"{i}.png", uniform(10 * c + i))
    (root / "ant" / "notes.txt").write_text("not an image")
    (root / ".hidden").mkdir()
    return root


@pytest.fixture
def divided(tmp_path):
    root = tmp_path / "divided"
    for part, value in (("train", 10), ("val", 20), ("test", 30)):
        for c, name in enumerate(("ant", "bee")):
            for i in range(3):
                save(root / part / name / f"{i}.png", uniform(value + c))
    return root


def read(root, **options):
    data = ImageFolderDataModule(str(root), **{"image_size": 8, "batch_size": 100, **options})
    data.setup()
    return data


def values(loader):
    """Grey value of each image the loader gives, with its label."""
    return sorted((int(b.images[i, 0, 0, 0]), int(b.labels[i])) for b in loader for i in range(len(b.labels)))


# ---- folders -----------------------------------------------------------------------------------------------


def test_classes_are_sorted_and_images_divided_by_class(flat):
    data = read(flat, test_fraction=0.2, val_fraction=0.25)
    assert data.class_names == ("ant", "bee", "zebra")
    assert (data.num_classes, data.input_shape) == (3, (3, 8, 8))
    parts = [
        values(loader()) for loader in (data.train_dataloader, data.val_dataloader, data.test_dataloader)
    ]
    assert [len(part) for part in parts] == [18, 6, 6]
    label_of = {"zebra": 2, "ant": 0, "bee": 1}
    everything = [(10 * c + i, label_of[n]) for c, n in enumerate(("zebra", "ant", "bee")) for i in range(10)]
    assert sorted(chain.from_iterable(parts)) == sorted(everything)
    for part, count in zip(parts, (6, 2, 2), strict=True):
        assert [sum(label == k for _, label in part) for k in range(3)] == [count] * 3


def test_split_seed_decides_which_images(flat):
    def test_values(split_seed):
        return values(read(flat, test_fraction=0.5, split_seed=split_seed).test_dataloader())

    assert test_values(1) == test_values(1) != test_values(2)


def test_without_test_fraction_there_is_no_test_set(flat):
    data = read(flat, test_fraction=0.0, val_fraction=0.0)
    assert len(values(data.train_dataloader())) == 30
    with pytest.raises(Exception, match="the dataset has no test images"):
        data.test_dataloader()


def test_folders_of_parts_are_taken_as_they_are(divided):
    data = read(divided, val_fraction=0.3)
    assert values(data.train_dataloader()) == [(10, 0)] * 3 + [(11, 1)] * 3
    assert values(data.val_dataloader()) == [(20, 0)] * 3 + [(21, 1)] * 3
    assert values(data.test_dataloader()) == [(30, 0)] * 3 + [(31, 1)] * 3
    assert data.statistics.mean[0].item() == pytest.approx(10.5 / 255)


def test_missing_val_folder_is_split_off(divided):
    for path in sorted((divided / "val").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (divided / "val").rmdir()
    data = read(divided, val_fraction=1 / 3)
    assert values(data.train_dataloader()) == [(10, 0)] * 2 + [(11, 1)] * 2
    assert values(data.val_dataloader()) == [(10, 0), (11, 1)]


def test_deeper_folders_and_all_endings_count(tmp_path):
    for ending in ("png", "JPG", "bmp", "webp"):
        save(tmp_path / "a" / "deep" / f"x.{ending}", uniform(1))
    save(tmp_path / "b" / "x.jpeg", uniform(1))
    assert [len(files) for files in list_images(tmp_path).values()] == [4, 1]


def test_cached_images_are_not_decoded_again(flat, monkeypatch):
    first = read(flat)
    monkeypatch.setattr("lightning_optreg.data._decoding.read_image", None)
    assert torch.equal(read(flat).train_dataloader().images, first.train_dataloader().images)
    with pytest.raises(TypeError):
        read(flat, image_size=4)  # another size is another entry


# ---- pixels ------------------------------------------------------------------------------------------------


def test_an_image_of_the_right_size_keeps_its_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3))
    path = save(tmp_path / "x.png", pixels)
    for resize in ("crop", "stretch"):
        image = read_image(path, (6, 9), 3, resize)
        assert torch.equal(image, torch.from_numpy(pixels).permute(2, 0, 1).to(torch.uint8))


def test_crop_keeps_the_proportions_and_stretch_the_content(tmp_path):
    # Left half black, right half white, twice as wide as high.
    pixels = np.zeros((16, 32, 3))
    pixels[:, 16:] = 255
    path = save(tmp_path / "x.png", pixels)
    crop, stretch = (read_image(path, (8, 8), 3, mode) for mode in ("crop", "stretch"))
    for image in (crop, stretch):
        assert image.shape == (3, 8, 8)
        assert image[:, :, :2].max() == 0
        assert image[:, :, -2:].min() == 255
    wide = read_image(path, (8, 16), 3, "crop")  # only scaled
    assert torch.equal(wide[:, :, 4:12], crop)


@pytest.mark.parametrize("size", [(5, 7), (11, 3), (40, 40)])
def test_any_size(tmp_path, size):
    path = save(tmp_path / "x.png", uniform(9, (13, 10)))
    for resize in ("crop", "stretch"):
        assert torch.equal(read_image(path, size, 1, resize), torch.full((1, *size), 9, dtype=torch.uint8))


def test_channels(tmp_path):
    color = save(tmp_path / "color.png", np.tile([255, 0, 0], (4, 4, 1)))
    grey = save(tmp_path / "grey.png", np.full((4, 4), 7))
    assert read_image(color, (4, 4), 1, "crop").unique().tolist() == [76]  # 0.299 x 255
    assert read_image(color, (4, 4), 3, "crop")[:, 0, 0].tolist() == [255, 0, 0]
    assert read_image(grey, (4, 4), 3, "crop")[:, 0, 0].tolist() == [7, 7, 7]


# ---- what is wrong -----------------------------------------------------------------------------------------


def test_unreadable_image_is_named(flat):
    path = save(flat / "bee" / "4.png", np.random.default_rng(0).integers(0, 256, (8, 8, 3)))
    for content in (b"", b"no image", path.read_bytes()[:100]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"bee.4\.png: not a readable image"):
            read(flat)


def test_pixels_of_more_than_8_bits_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 60_000, dtype=np.uint16)).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"x\.png: .*pixels of mode I;16, expected 8 bits"):
        read_image(tmp_path / "x.png", (4, 4), 1, "crop")


def test_empty_class(flat):
    (flat / "empty").mkdir()
    with pytest.raises(ValueError, match=r"flat.empty: no images, expected files with \.jpg"):
        ImageFolderDataModule(str(flat))


def test_no_classes_and_one_class(tmp_path):
    with pytest.raises(ValueError, match="no subfolders, expected one per class"):
        ImageFolderDataModule(str(tmp_path))
    save(tmp_path / "only" / "x.png", uniform(0))
    with pytest.raises(ValueError, match=r"one class \(only\), expected >= 2"):
        ImageFolderDataModule(str(tmp_path))


def test_unknown_class_in_test(divided):
    save(divided / "test" / "wasp" / "x.png", uniform(0))
    with pytest.raises(ValueError, match=r"test: classes without training images: \['wasp'\]"):
        ImageFolderDataModule(str(divided))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size must be >= 1, got 0"),
        ({"image_size": (4, 0)}, r"image_size must be >= 1, got \(4, 0\)"),
        ({"image_size": (4, 4, 3)}, "image_size must be >= 1"),
        ({"channels": 2}, "channels must be 1 or 3, got 2"),
        ({"resize": "squeeze"}, "resize must be crop, stretch or short_side, got 'squeeze'"),
        ({"test_fraction": 1.0}, r"test_fraction must be in \[0, 1\), got 1.0"),
        ({"val_fraction": -0.5}, r"val_fraction must be in \[0, 1\), got -0.5"),
    ],
)
def test_wrong_values(flat, options, message):
    with pytest.raises(ValueError, match=f"ImageFolderDataModule: {message}"):
        ImageFolderDataModule(str(flat), **options)


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data_dir must be a folder, .* does not exist"):
        ImageFolderDataModule(str(tmp_path / "nothing"))


def test_no_warnings_on_the_way(flat):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(flat)


# ---- more of an image than evaluation shows ----------------------------------------------------------------


@pytest.fixture
def oblong(tmp_path):
    """Images of several proportions, each pixel with a value of its own."""
    draw = np.random.default_rng(0)
    for part, count in (("train", 2), ("val", 2), ("test", 3)):
        for name in ("ant", "bee"):
            for i in range(count):
                size = ((24, 36), (40, 24), (24, 24))[(i + len(name + part)) % 3]
                save(tmp_path / "oblong" / part / name / f"{i}.png", draw.integers(0, 256, (*size, 3)))
    return tmp_path / "oblong"


def protocol(root, cache, **options):
    """ResNet's in small: the shorter side 12, crops of 8."""
    augment = [RandomCrop(8, padding=0)]
    return ImageFolderDataModule(
        str(root), image_size=12, augment=augment, batch_size=4, cache_dir=str(cache), **options
    )


class Watched(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3 * 8 * 8, 2)
        self.seen = []

    def forward(self, x):
        self.seen.append(x)
        return self.layer(x.flatten(1))


def seen_in(data, views, stage="predict"):
    """What the network gets, view by view."""
    net = Watched()
    callback = TestTimeAugmentation(views, stages=["validate", "test", "predict"])
    run = quiet_trainer(callbacks=[callback])
    getattr(run, stage)(ImageClassifier(net, num_classes=2), data)
    batches = len(data.val_dataloader() if stage == "validate" else data.test_dataloader())
    views = len(net.seen) // batches
    return [torch.cat(net.seen[view::views]) for view in range(views)]


def by_hand(root, data, part="test"):
    """The images, the shorter side 12, normalised one by one."""
    mean, std = data.statistics.mean.view(-1, 1, 1), data.statistics.std.view(-1, 1, 1)
    result = []
    for path in sorted((root / part).rglob("*.png")):
        image = Image.open(path)
        scale = 12 / min(image.size)
        image = tv.resize(image, [round(image.height * scale), round(image.width * scale)], antialias=True)
        result.append((tv.pil_to_tensor(image).float() / 255 - mean) / std)
    return result


def test_evaluation_without_views_is_that_of_squares(oblong, tmp_path):
    whole, squares = (protocol(oblong, tmp_path / "c", resize=r) for r in ("short_side", "crop"))
    for data in (whole, squares):
        data.setup()
    for part in ("train", "val", "test"):
        for one, other in zip(whole.batches(part), squares.batches(part), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert whole.input_shape == squares.input_shape == (3, 8, 8)
    assert torch.equal(whole.statistics.mean, squares.statistics.mean)


def test_ten_crops_of_whole_images(oblong, tmp_path):
    for _ in range(2):  # decoded, and from the cache
        data = protocol(oblong, tmp_path / "c", resize="short_side")
        seen = seen_in(data, TenCrop(8))
        images = by_hand(oblong, data)
        assert len({image.shape for image in images}) == 3
        crops = [tv.ten_crop(image, [8, 8]) for image in images]  # the middle comes last there
        for view, place in enumerate((4, 0, 1, 2, 3, 9, 5, 6, 7, 8)):
            torch.testing.assert_close(seen[view], torch.stack([ten[place] for ten in crops]))


def test_views_of_the_images_size_are_cropped_in_the_middle(oblong, tmp_path):
    data = protocol(oblong, tmp_path / "c", resize="short_side")
    straight, mirrored = seen_in(data, Flips())
    x = torch.cat([x for x, _ in data.batches("test")])
    torch.testing.assert_close(straight, x)
    torch.testing.assert_close(mirrored, x.flip(-1))


def test_scales_of_whole_images_have_room_at_the_crops_size(oblong, tmp_path):
    data = protocol(oblong, tmp_path / "c", resize="short_side")
    with pytest.warns(UserWarning, match="only two of ten views differ"):  # the square ones
        seen = seen_in(data, MultiScale([8, 16], crop=8))
    assert len(seen) == 20
    for row, image in enumerate(by_hand(oblong, data)):
        size = [round(side * 8 / 12) for side in image.shape[1:]]
        small = torch.nn.functional.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
        torch.testing.assert_close(seen[1][row], small[:, :8, :8])
        torch.testing.assert_close(seen[4][row], small[:, -8:, -8:])
        assert torch.equal(seen[1][row], seen[4][row]) == (size == [8, 8])


def test_a_folder_for_validation_is_kept_whole_too(oblong, tmp_path):
    data = protocol(oblong, tmp_path / "c", resize="short_side")
    seen = seen_in(data, TenCrop(8), "validate")
    first = torch.stack([image[:, :8, :8] for image in by_hand(oblong, data, "val")])
    torch.testing.assert_close(seen[1], first)


def test_what_is_done_to_each_image_is_done_to_each_view(oblong, tmp_path):
    augment = [RandomHorizontalFlip(), PerImageStandardization()]
    data = ImageFolderDataModule(
        str(oblong), 8, resize="short_side", normalize="none", augment=augment, cache_dir=str(tmp_path)
    )
    for view in seen_in(data, Flips()):
        torch.testing.assert_close(view.mean((1, 2, 3)), torch.zeros(len(view)), atol=1e-5, rtol=0)


def test_views_that_end_with_different_sizes_are_refused(oblong, tmp_path):
    class Half(Views):
        def __call__(self, images):
            yield images[..., ::2]

    data = protocol(oblong, tmp_path / "c", resize="short_side")
    with pytest.raises(ValueError, match="views of images of different sizes must have the same size"):
        seen_in(data, Half())


def test_a_mean_image_has_one_size(oblong):
    with pytest.raises(ValueError, match="resize must be crop or stretch with normalize=mean_image"):
        ImageFolderDataModule(str(oblong), 8, resize="short_side", normalize="mean_image")


def test_workers_hand_out_whole_images(oblong, tmp_path):
    data = protocol(oblong, tmp_path / "c", resize="short_side", num_workers=1)
    data.setup()
    plain = protocol(oblong, tmp_path / "c", resize="short_side")
    plain.setup()
    for one, other in zip(data.test_dataloader(), plain.test_dataloader(), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.sizes, other.sizes)
        assert one.to(torch.device("meta")).sizes is one.sizes
