import dataclasses

import pytest
import torch

from lightning_optreg.data.statistics import Statistics, compute_statistics


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    base = torch.randint(0, 200, (300, 1, 7, 5), generator=generator)  # channels with something in common
    return (base + torch.randint(0, 56, (300, 3, 7, 5), generator=generator)).to(torch.uint8)


def reference(images):
    pixels = images.double().div(255).movedim(1, 0).flatten(1)  # (C, N H W)
    return pixels.mean(1), pixels.std(1, correction=0), pixels.cov(correction=0)


def test_against_the_textbook(images):
    statistics = compute_statistics(images)
    mean, std, covariance = reference(images)
    torch.testing.assert_close(statistics.mean.double(), mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(statistics.std.double(), std, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        statistics.mean_image.double(), images.double().mean(0) / 255, rtol=1e-6, atol=0
    )
    v, lam = statistics.eigenvectors.double(), statistics.eigenvalues.double()
    torch.testing.assert_close(v @ lam.diag() @ v.T, covariance, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(v.T @ v, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-6)
    assert lam.diff().le(0).all()  # largest first


def test_worked_by_hand():
    # Two pixels, red with green: (0, 0, 0) and (255, 255, 0). Mean 1/2; S = 1/4 [[1, 1, 0], [1, 1, 0], 0].
    images = torch.tensor([[0, 0, 0], [255, 255, 0]], dtype=torch.uint8).view(2, 3, 1, 1)
    statistics = compute_statistics(images)
    assert statistics.mean.tolist() == [0.5, 0.5, 0.0]
    assert statistics.std.tolist() == [0.5, 0.5, 0.0]
    torch.testing.assert_close(statistics.eigenvalues, torch.tensor([0.5, 0.0, 0.0]))
    torch.testing.assert_close(statistics.eigenvectors[:, 0], torch.tensor([0.5, 0.5, 0.0]).sqrt())


def test_indices_select(images):
    indices = torch.randperm(300, generator=torch.Generator().manual_seed(1))[:77]
    selected, direct = compute_statistics(images, indices), compute_statistics(images[indices])
    for one, other in zip(dataclasses.astuple(selected), dataclasses.astuple(direct), strict=True):
        assert torch.equal(one, other)


def test_exact_whatever_the_order(images):
    one = compute_statistics(images)
    other = compute_statistics(images, torch.randperm(300, generator=torch.Generator().manual_seed(2)))
    for a, b in zip(dataclasses.astuple(one), dataclasses.astuple(other), strict=True):
        assert torch.equal(a, b)


def test_sign_convention(images):
    vectors = compute_statistics(images).eigenvectors
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    assert (largest > 0).all()


def test_one_grey_image():
    statistics = compute_statistics(torch.full((1, 1, 2, 2), 51, dtype=torch.uint8))
    assert statistics.mean.tolist() == [pytest.approx(0.2)]
    assert statistics.std.tolist() == [0.0]
    assert statistics.eigenvectors.tolist() == [[1.0]]


def test_state_is_plain_tensors(images, tmp_path):
    statistics = compute_statistics(images)
    torch.save(dataclasses.asdict(statistics), tmp_path / "statistics.pt")
    loaded = Statistics(**torch.load(tmp_path / "statistics.pt", weights_only=True))
    assert torch.equal(loaded.eigenvectors, statistics.eigenvectors)
    assert all(value.dtype == torch.float32 for value in dataclasses.astuple(loaded))


def test_wrong_input_is_refused(images):
    with pytest.raises(TypeError, match="must be uint8, got"):
        compute_statistics(images.float())
    with pytest.raises(ValueError, match=r"must be \(N, C, H, W\) and not empty, got \(0, 3, 7, 5\)"):
        compute_statistics(images[:0])
    with pytest.raises(ValueError, match="at least one image"):
        compute_statistics(images, torch.arange(0))
