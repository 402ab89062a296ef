"""Mixtures, smoothed labels and augmentation against their formulas, in modules and loaders of others."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from lightning_optreg import ImageClassifier
from lightning_optreg.callbacks import BatchAugmentation, CutMix, LabelSmoothing, MixUp
from lightning_optreg.data import (
    BatchTransform,
    Draws,
    ImageDataModule,
    ImageSet,
    PCAColorJitter,
    Place,
    RandomErasing,
    RandomHorizontalFlip,
    Source,
    compute_statistics,
)
from lightning_optreg.nets import SoftmaxRegression
from tests.small_runs import quiet_trainer, step_by_hand

IMAGES = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 4
PAIRS = list(zip(IMAGES, LABELS, strict=True))


class Sees(LightningModule):
    """Keeps the batches that its training step gets."""

    num_classes = 4

    def __init__(self, automatic: bool = True) -> None:
        super().__init__()
        self.automatic_optimization = automatic
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
        self.seen: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        x, y = (batch["pixels"], batch["class"]) if isinstance(batch, dict) else (batch[0], batch[1])
        self.seen.append((x, y))
        loss = nn.functional.cross_entropy(self.net(x), y)
        if not self.automatic_optimization:
            step_by_hand(self, loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(
    callbacks: Sequence[Callback], data: Any = None, module: LightningModule | None = None, **options: Any
) -> Any:
    module = module or Sees()
    data = data or DataLoader(PAIRS, batch_size=6)
    trainer = quiet_trainer(callbacks=list(callbacks), **{"max_epochs": 2, **options})
    if isinstance(data, DataLoader):
        trainer.fit(module, data)
    else:
        trainer.fit(module, datamodule=data)
    module.logged = trainer.logged_metrics  # type: ignore[assignment]
    return module


def one_hot(labels: Tensor) -> Tensor:
    return nn.functional.one_hot(labels, 4).float()


@pytest.mark.parametrize("automatic", [True, False])
def test_mix_up_is_the_papers_formula(automatic: bool) -> None:
    module = fit([MixUp(0.5, seed=1)], module=Sees(automatic))
    shares = []
    for step, (x, y) in enumerate(module.seen):
        rows = slice(6 * (step % 2), 6 * (step % 2) + 6)
        images, labels = IMAGES[rows], one_hot(LABELS[rows])
        share = float(y[0, LABELS[rows][0]])
        shares.append(share)
        torch.testing.assert_close(x, share * images + (1 - share) * images.roll(1, 0))
        torch.testing.assert_close(y, share * labels + (1 - share) * labels.roll(1, 0))
    assert len(set(shares)) == 4  # another one in each batch of each epoch
    assert float(module.logged["optreg/mix_up/lambda"]) == pytest.approx(shares[-1], abs=1e-6)


def test_lambda_has_a_beta_distribution() -> None:
    alpha, n = 0.4, 600
    mix_up = MixUp(alpha, num_classes=4, seed=5)
    draws = []
    for step in range(n):
        _, y = mix_up.change(IMAGES[:2], one_hot(LABELS[:2]), Place(0, step, 0, 2))
        draws.append(float(y[0, 0]))
    sample = torch.tensor(draws)
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(float(sample.mean()) - 0.5) < 4 * (variance / n) ** 0.5
    assert float(sample.var()) == pytest.approx(variance, rel=0.15)


def test_p_is_the_share_of_batches_that_are_mixed() -> None:
    cut_mix = CutMix(p=0.3, num_classes=4, seed=0)
    mixed = sum(
        not torch.equal(cut_mix.change(IMAGES[:4], one_hot(LABELS[:4]), Place(0, step, 0, 4))[0], IMAGES[:4])
        for step in range(300)
    )
    # A rectangle may be empty: at 8 x 8 pixels if lambda > 1 - (2/8)^2, in a sixteenth of the draws.
    assert 55 < mixed < 115


def test_cut_mix_takes_a_rectangle_and_its_share_of_the_label() -> None:
    module = fit([CutMix(seed=3)], max_epochs=4)
    shares = []
    for step, (x, y) in enumerate(module.seen):
        rows = slice(6 * (step % 2), 6 * (step % 2) + 6)
        images, labels = IMAGES[rows], one_hot(LABELS[rows])
        other = (x != images).any(1)  # (N, H, W)
        assert torch.equal(other, other[:1].expand_as(other))
        height, width = int(other[0].any(1).sum()), int(other[0].any(0).sum())
        assert int(other[0].sum()) == height * width
        assert torch.equal(x.where(other[:, None], 0), images.roll(1, 0).where(other[:, None], 0))
        share = 1 - height * width / 64
        shares.append(share)
        torch.testing.assert_close(y, share * labels + (1 - share) * labels.roll(1, 0))
    assert min(shares) < 0.7


def test_label_smoothing_is_torchs() -> None:
    images, scores = IMAGES[:6], torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    smoothing = LabelSmoothing(0.3, num_classes=4)
    smoothing.on_fit_start(Trainer(logger=False, accelerator="cpu"), Sees())
    _, targets = smoothing.change(images, LABELS[:6], Place(0, 0, 0, 6))
    expected = nn.functional.cross_entropy(scores, LABELS[:6], label_smoothing=0.3)
    torch.testing.assert_close(nn.functional.cross_entropy(scores, targets), expected)


def test_smoothing_and_mixing_commute() -> None:
    parts = [LabelSmoothing(0.2), MixUp(seed=1), CutMix(seed=2)]
    one, other = fit(parts), fit(parts[::-1])
    for (_, first), (_, second) in zip(one.seen, other.seen, strict=True):
        assert first.sum(1).tolist() == pytest.approx([1.0] * 6)
        assert first.min() >= 0.05 - 1e-6  # epsilon / K
        assert second.min() >= 0.05 - 1e-6
    # only the two mixtures' order matters
    again = fit([MixUp(seed=1), CutMix(seed=2), LabelSmoothing(0.2)])
    third = fit([MixUp(seed=1), LabelSmoothing(0.2), CutMix(seed=2)])
    for (_, first), (_, second) in zip(again.seen, third.seen, strict=True):
        torch.testing.assert_close(first, second)


def test_augmentation_is_that_of_the_transforms() -> None:
    transforms: list[BatchTransform] = [RandomHorizontalFlip(), RandomErasing(p=1.0)]
    augmentation = BatchAugmentation(transforms, seed=4)
    module = fit([augmentation])
    for step, (x, y) in enumerate(module.seen):
        rows = slice(6 * (step % 2), 6 * (step % 2) + 6)
        expected = IMAGES[rows]
        seed = augmentation.seed_of(Place(step // 2, step % 2, 0, 6))
        # `Draws` of a place of its own, so that it is seen which numbers a batch gets
        draws = Draws(seed, Place(step // 2, step % 2, 0, 6), 6, torch.device("cpu"))
        for transform in transforms:
            expected = transform(expected, draws)
        assert torch.equal(x, expected)
        assert torch.equal(y, LABELS[rows])


def test_two_processes_augment_as_one_does() -> None:
    augmentation = BatchAugmentation([RandomErasing(p=1.0)], seed=4)
    whole, _ = augmentation.change(IMAGES, LABELS, Place(1, 2, 0, 12))
    parts = [
        augmentation.change(IMAGES[start : start + 6], LABELS, Place(1, 2, start, 12))[0] for start in (0, 6)
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_dictionaries_and_half_precision() -> None:
    data = DataLoader([{"pixels": x, "class": y} for x, y in PAIRS], batch_size=6)
    places: Any = {"images": "pixels", "labels": "class"}
    parts = [MixUp(**places), CutMix(**places), LabelSmoothing(**places)]
    module = fit([*parts, BatchAugmentation([RandomErasing()], images="pixels")], data, precision="bf16-true")
    assert {(x.dtype, y.dtype) for x, y in module.seen} == {(torch.bfloat16, torch.bfloat16)}


def test_global_random_numbers_are_left_alone() -> None:
    seed_everything(3, verbose=False)
    fit([])
    expected = torch.get_rng_state()
    seed_everything(3, verbose=False)
    fit([MixUp(), CutMix(), LabelSmoothing(), BatchAugmentation([RandomErasing()])])
    assert torch.equal(torch.get_rng_state(), expected)


@pytest.mark.parametrize(
    ("callback", "data", "message"),
    [
        (MixUp(), IMAGES, "MixUp: a training batch must be a list or a dictionary"),
        (
            MixUp(images="x"),
            list(zip(IMAGES, LABELS, strict=True)),
            r"MixUp: images='x' is not in a training",
        ),
        (
            MixUp(labels=2),
            list(zip(IMAGES, LABELS, strict=True)),
            r"MixUp: labels=2 is not in .* has \[0, 1\]",
        ),
        (MixUp(), [(x.byte(), 1) for x in IMAGES], "MixUp: images must be floating-point"),
        (MixUp(), [(x, 0.5) for x in IMAGES], r"MixUp: labels must be classes, integers \(N,\), or prob"),
        (CutMix(), [(x.flatten(), 1) for x in IMAGES], r"CutMix: images must be \(N, C, H, W\)"),
        (
            BatchAugmentation([RandomErasing()]),
            [(x.flatten(), 1) for x in IMAGES],
            "BatchAugmentation: images",
        ),
        (LabelSmoothing(), [(x, "dress") for x in IMAGES], "LabelSmoothing: labels must be a tensor"),
    ],
)
def test_batches_that_do_not_fit_are_refused_before_the_first_step(
    callback: Callback, data: Any, message: str
) -> None:
    module = Sees()
    before = [p.clone() for p in module.parameters()]
    loader: Any = DataLoader(data, batch_size=6)
    with pytest.raises(MisconfigurationException, match=message):
        fit([callback], loader, module)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_classes_unknown_to_all_are_asked_for() -> None:
    class NoCount(Sees):
        num_classes = None  # type: ignore[assignment]

    with pytest.raises(MisconfigurationException, match="LabelSmoothing: neither the module"):
        fit([LabelSmoothing()], module=NoCount())


def test_statistics_that_a_transform_lacks_are_asked_for() -> None:
    with pytest.raises(MisconfigurationException, match=r"^BatchAugmentation: PCAColorJitter has no stat"):
        fit([BatchAugmentation([PCAColorJitter()])])
    fitted = PCAColorJitter()
    fitted.fit(compute_statistics((255 * IMAGES).byte()))
    fit([BatchAugmentation([PCAColorJitter(std=0.0), fitted])])


@pytest.mark.parametrize("cls", [MixUp, CutMix, LabelSmoothing])
@pytest.mark.parametrize(("start", "says"), [(0, "pass num_classes=3"), (-1, "number them from 0")])
def test_labels_beyond_the_classes_are_named(cls: Any, start: int, says: str) -> None:
    rows = [(x, start + i % 3) for i, x in enumerate(IMAGES)]
    loader: Any = DataLoader(rows, batch_size=6)
    message = rf"^{cls.__name__}: labels must be in \[0, 2\) for num_classes=2, got {start} to .*{says}"
    with pytest.raises(MisconfigurationException, match=message):
        fit([cls(num_classes=2)], loader)


def test_later_batches_are_checked_only_where_nothing_waits_for_it() -> None:
    callback = LabelSmoothing(num_classes=2)
    callback._classes = 2
    callback.probabilities(torch.tensor([0, 1]), torch.float32)
    with pytest.raises(MisconfigurationException, match="labels must be in"):
        callback.probabilities(torch.tensor([0, 2]), torch.float32)
    # A tensor without values can't be asked for any.
    assert callback.probabilities(torch.ones(2, dtype=torch.long, device="meta"), torch.float32).is_meta


def test_transforms_follow_the_images_to_their_device() -> None:
    fitted = PCAColorJitter()
    fitted.fit(compute_statistics((255 * IMAGES).byte()))
    callback = BatchAugmentation([fitted])
    place = Place(0, 0, 0, 6)
    callback.change(IMAGES[:6].to("meta"), torch.empty(0), place)
    assert fitted.basis is not None
    assert fitted.basis.is_meta


def test_torchvision_still_draws_as_assumed() -> None:
    """`make_params` and `transform` are the public parts that the mixing goes through."""
    torch.manual_seed(0)
    transform = v2.MixUp(alpha=1.0)
    drawn = transform.make_params([IMAGES])
    torch.manual_seed(0)
    x, y = transform(IMAGES, one_hot(LABELS))
    labels = one_hot(LABELS)
    drawn |= {"labels": labels, "batch_size": len(IMAGES)}
    assert torch.equal(transform.transform(IMAGES, drawn), x)
    assert torch.equal(transform.transform(labels, drawn), y)


class Shades(ImageDataModule):
    """Dark and bright images."""

    class_names, image_shape = ("dark", "bright"), (1, 8, 8)

    def locate(self, *, download: bool) -> Source:
        images = torch.arange(40, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
        return Source("shades", {"train": []}, lambda part: ImageSet(images, torch.arange(40) // 20))


def test_in_this_packages_own_classifier() -> None:
    model = ImageClassifier(SoftmaxRegression(2, (1, 8, 8)), optimizer=torch.optim.Adam, num_classes=2)
    data = Shades(batch_size=12)
    module = fit([MixUp(0.2), CutMix(p=0.5), LabelSmoothing(0.5)], data, model, max_epochs=40)
    # The entropy of (0.75, 0.25) is 0.56: no lower loss can be reached.
    assert 0.56 < float(module.logged["train/loss"]) < 0.7
