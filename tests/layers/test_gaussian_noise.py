"""Gaussian noise: the law of what is added, EnResNet's line of code, whom an image depends on."""

import math
from typing import Literal

import pytest
import torch

from lightning_optreg.layers import GaussianNoise
from lightning_optreg.layers.gaussian_noise import add_relative_noise, normal_like, relative_std

RelativeTo = Literal["image", "batch"]


def images(count: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    scale = torch.arange(1.0, count + 1).reshape(-1, 1, 1, 1)
    return scale * torch.randn(count, 4, 16, 16, generator=generator) + 3


def test_noise_has_the_given_standard_deviation() -> None:
    torch.manual_seed(0)
    z = (GaussianNoise(0.5)(torch.zeros(100_000, dtype=torch.float64)) / 0.5).numpy()
    count = len(z)
    # standard errors of the first four moments of N(0, 1)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**power).mean() - moment) < 5 * math.sqrt(variance / count)


def test_relative_to_the_batch_is_the_line_of_the_authors_code() -> None:
    x = images().requires_grad_()
    torch.manual_seed(1)
    expected = x + 0.1 * torch.std(x) * torch.randn_like(x)
    torch.manual_seed(1)
    y = GaussianNoise(0.1, relative_to="batch")(x)
    torch.testing.assert_close(y, expected)
    weights = torch.randn_like(x)
    gradients = [torch.autograd.grad((weights * out).sum(), x)[0] for out in (expected, y)]
    torch.testing.assert_close(gradients[1], gradients[0])


def test_relative_to_the_image_follows_its_own_standard_deviation() -> None:
    x = images()
    torch.manual_seed(1)
    z = torch.randn_like(x)
    torch.manual_seed(1)
    y = GaussianNoise(0.1, relative_to="image")(x)
    expected = torch.stack([image + 0.1 * image.std() * noise for image, noise in zip(x, z, strict=True)])
    torch.testing.assert_close(y, expected)


def test_an_image_depends_on_its_batch_mates_only_relative_to_the_batch() -> None:
    x = images()
    others = torch.cat([x[:1], 10 * x[1:]])
    same = {}
    for relative_to in ("image", "batch"):
        layer, first = GaussianNoise(0.1, relative_to=relative_to), []
        for batch in (x, others):
            torch.manual_seed(1)
            first.append(layer(batch)[0])
        same[relative_to] = torch.equal(*first)
    assert same == {"image": True, "batch": False}


@pytest.mark.parametrize("relative_to", ["image", "batch"])
def test_gradient_passes_through_the_standard_deviation_or_not(relative_to: str) -> None:
    x = images(2)[:, :1, :3, :3].double().requires_grad_()

    def run(x: torch.Tensor, detach: bool) -> torch.Tensor:
        torch.manual_seed(1)
        return GaussianNoise(0.7, relative_to=relative_to, detach=detach)(x)

    assert torch.autograd.gradcheck(lambda x: run(x, False), x)
    (gradient,) = torch.autograd.grad(run(x, True).sum(), x)
    assert torch.equal(gradient, torch.ones_like(x))


@pytest.mark.parametrize("relative_to", ["image", "batch"])
def test_a_constant_image_stays_and_has_a_gradient(relative_to: str) -> None:
    x = torch.full((2, 3, 4, 4), 2.0, requires_grad=True)
    y = GaussianNoise(0.1, relative_to=relative_to)(x)
    assert torch.equal(y, x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, torch.ones_like(x))


def by_operations(
    x: torch.Tensor, z: torch.Tensor, relative_to: RelativeTo
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the function computes, as single operations that autograd differentiates one by one."""
    std = relative_std(x, relative_to)
    return x.addcmul(z, 0.3 * std), std


@pytest.mark.parametrize("relative_to", ["image", "batch"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_in_few_passes_is_that_of_the_single_operations(
    relative_to: RelativeTo, layout: torch.memory_format
) -> None:
    x = images().to(memory_format=layout).requires_grad_()
    z, of_y = (torch.randn_like(x, memory_format=torch.preserve_format) for _ in range(2))
    z.requires_grad_()
    ours, theirs = add_relative_noise(x, z, 0.3, relative_to), by_operations(x, z, relative_to)
    of_std = torch.randn_like(ours[1])
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other)
        assert mine.stride() == other.stride()
    gradients = [torch.autograd.grad(y, (x, z), (of_y, of_std)) for y in (ours, theirs)]
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other)
        assert mine.stride() == x.stride()


# torch's own tables for forward derivatives
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
@pytest.mark.parametrize("relative_to", ["image", "batch"])
def test_it_can_be_differentiated_twice_forward_and_for_each_image(relative_to: RelativeTo) -> None:
    x = images(2)[:, :1, :2, :3].double().requires_grad_()
    z = torch.randn_like(x).requires_grad_()

    def noisy(x: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return add_relative_noise(x, z, 0.3, relative_to)

    assert torch.autograd.gradcheck(noisy, (x, z), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(noisy, (x, z))
    x, z = x.detach(), z.detach()
    for transform in (
        lambda f: torch.func.vmap(torch.func.grad(f)),  # the gradient of each image, as for privacy
        lambda f: torch.func.vmap(torch.func.hessian(f)),
    ):
        ours, theirs = (
            transform(lambda x, z, add=add: add(x[None], z[None])[0].square().sum())(x, z)
            for add in (noisy, lambda x, z: by_operations(x, z, relative_to))
        )
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(5, 3, 4, 6).to(memory_format=torch.channels_last),
        torch.zeros(2, 3, 2, 4, 6).to(memory_format=torch.channels_last_3d),
        torch.zeros(7, 9).T,
        torch.zeros(4, 1, 5, 1).to(memory_format=torch.channels_last),
    ],
    ids=["channels_last", "channels_last_3d", "transposed", "ones"],
)
def test_noise_is_drawn_in_the_order_of_the_memory(x: torch.Tensor) -> None:
    z = normal_like(x, torch.Generator().manual_seed(3))
    assert z.shape == x.shape
    assert z.stride() == x.stride()
    expected = torch.empty(x.numel()).normal_(generator=torch.Generator().manual_seed(3))
    assert torch.equal(z.as_strided((x.numel(),), (1,)), expected)


def test_noise_of_contiguous_tensors_is_torchs() -> None:
    torch.manual_seed(3)
    expected = torch.randn(4, 3, 5, 5)
    torch.manual_seed(3)
    assert torch.equal(normal_like(torch.zeros(4, 3, 5, 5)), expected)


@pytest.mark.parametrize("dims", [(0, 1, 2, 3, 4), (0, 1, 4, 3, 2), (1, 0, 2, 3, 4)])
def test_members_of_an_ensemble_have_noise_of_their_own_under_vmap(dims: tuple[int, ...]) -> None:
    x = torch.ones(2, 2, 2, 2, 2).permute(dims) * torch.arange(2.0)
    y = torch.func.vmap(GaussianNoise(0.1, relative_to="image"), randomness="different")(x)
    assert not torch.equal(y[0], y[1])
    assert (y != x).all()


@pytest.mark.slow
def test_the_function_is_compiled_in_one_graph() -> None:
    x = images(2).requires_grad_()
    z = torch.randn_like(x)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return add_relative_noise(x, z, 0.3, "image")[0].square().sum()

    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    expected, got = (torch.autograd.grad(f(x), x)[0] for f in (loss, compiled))
    torch.testing.assert_close(got, expected)


def test_at_test_it_is_the_identity_unless_it_samples() -> None:
    layer, x = GaussianNoise(0.1, relative_to="image").eval(), images()
    assert layer(x) is x
    layer.sampling = True
    assert not torch.equal(layer(x), x)


@pytest.mark.parametrize(
    ("relative_to", "shape"), [("image", (4, 1, 1, 1)), ("batch", (1, 1)), ("image", (3,))]
)
def test_no_standard_deviation_of_one_number(relative_to: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"^GaussianNoise: relative_to='{relative_to}' needs at least two"):
        GaussianNoise(0.1, relative_to=relative_to)(torch.ones(shape))


@pytest.mark.parametrize("sigma", [-0.1, float("nan"), float("inf")])
def test_wrong_sigma(sigma: float) -> None:
    with pytest.raises(ValueError, match=r"^GaussianNoise: sigma must be in \[0, inf\), got "):
        GaussianNoise(sigma)


def test_wrong_relative_to() -> None:
    with pytest.raises(
        ValueError, match=r"^GaussianNoise: relative_to must be None, 'image' or 'batch', got 'c'$"
    ):
        GaussianNoise(0.1, relative_to="c")
