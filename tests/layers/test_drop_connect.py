"""DropConnect: a loop over examples, moments, the exact expectation over all masks, the closed form."""

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_optreg.layers import DropConnect, drop_connect
from lightning_optreg.layers.drop_connect import gaussian_mean, gaussian_relu, masked_linear, masked_moments


def tensors(inputs: int = 6, outputs: int = 4, examples: int = 5) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = (examples, inputs), (outputs, inputs), (outputs,)
    made = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes)
    return tuple(tensor.requires_grad_() for tensor in made)


def test_each_example_has_a_mask_of_its_own() -> None:
    v, weight, bias = tensors()
    torch.manual_seed(1)
    u = masked_linear(v, weight, bias, 0.3)
    torch.manual_seed(1)
    masks, bias_masks = torch.rand(5, 4, 6) >= 0.3, torch.rand(5, 4) >= 0.3
    expected = torch.stack([(masks[n] * weight) @ v[n] + bias_masks[n] * bias for n in range(5)])
    torch.testing.assert_close(u, expected)
    factors = torch.randn_like(u)
    gradients = [torch.autograd.grad((factors * out).sum(), (v, weight, bias)) for out in (u, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("at_a_time", [1, 48, 60])
@pytest.mark.parametrize("kept", [0, 10**6])
def test_the_same_in_parts_and_without_keeping_masks(
    at_a_time: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    v, weight, bias = tensors()
    monkeypatch.setattr(drop_connect, "AT_A_TIME", at_a_time)
    monkeypatch.setattr(drop_connect, "KEPT", kept)
    torch.manual_seed(1)
    u = masked_linear(v, weight, bias, 0.5)
    after = torch.get_rng_state()
    gradients = torch.autograd.grad(u.square().sum(), (v, weight, bias))
    assert torch.equal(torch.get_rng_state(), after)

    torch.manual_seed(1)
    examples = max(1, at_a_time // 24)
    expected = []
    for part in v.split(examples):
        masks, bias_masks = torch.rand(len(part), 4, 6) >= 0.5, torch.rand(len(part), 4) >= 0.5
        expected.append(torch.einsum("noi,ni->no", masks * weight, part) + bias_masks * bias)
    torch.testing.assert_close(u, torch.cat(expected))
    by_hand = torch.autograd.grad(torch.cat(expected).square().sum(), (v, weight, bias))
    torch.testing.assert_close(gradients, by_hand)


@pytest.mark.parametrize("with_bias", [True, False])
def test_moments_are_those_over_all_masks(with_bias: bool) -> None:
    v, weight, bias = (tensor.detach() for tensor in tensors())
    used = bias if with_bias else None
    p = 0.3
    mu, s = masked_moments(v, weight, used, p)
    inputs = 6 + with_bias
    terms = torch.cat([weight * v[:, None, :], bias.expand(5, 4)[..., None]], 2)[..., :inputs]  # (N, O, I)
    first = second = torch.zeros(5, 4, dtype=torch.float64)
    for mask in itertools.product((0.0, 1.0), repeat=inputs):
        kept = sum(mask)
        probability = (1 - p) ** kept * p ** (inputs - kept)
        u = terms @ torch.tensor(mask, dtype=torch.float64)
        first, second = first + probability * u, second + probability * u.square()
    torch.testing.assert_close(mu, first)
    torch.testing.assert_close(s, (second - first.square()).sqrt())


def test_draws_have_these_moments_and_are_independent_between_examples() -> None:
    torch.manual_seed(0)
    v, weight, bias = (tensor.detach() for tensor in tensors())
    runs = 4000
    same = v[:1].expand(2, -1)  # twice the same example
    draws = torch.stack([masked_linear(same, weight, bias, 0.4) for _ in range(runs)])  # (runs, 2, O)
    mu, s = masked_moments(same, weight, bias, 0.4)
    z = (draws - mu) / s
    assert (z.mean(0).abs() < 5 / math.sqrt(runs)).all()
    fourth = (z**4).mean(0)
    assert ((z.square().mean(0) - 1).abs() < 5 * (fourth - 1).sqrt() / math.sqrt(runs)).all()
    assert ((z[:, 0] * z[:, 1]).mean(0).abs() < 5 / math.sqrt(runs)).all()


def test_closed_form_is_the_integral() -> None:
    mu = torch.tensor([-30.0, -2.0, -0.1, 0.0, 0.7, 5.0, 40.0], dtype=torch.float64, requires_grad=True)
    s = torch.tensor([1.0, 0.5, 3.0, 1.0, 0.2, 2.0, 1.0], dtype=torch.float64, requires_grad=True)
    z = torch.linspace(-12, 12, 400_001, dtype=torch.float64)[:, None]
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    integral = torch.trapezoid(F.relu(mu + s * z) * density, dx=24 / 400_000, dim=0)
    torch.testing.assert_close(gaussian_relu(mu, s), integral, rtol=1e-9, atol=1e-9)
    assert torch.autograd.gradcheck(gaussian_relu, (mu, s))


def test_sampling_tends_to_the_closed_form() -> None:
    torch.manual_seed(0)
    mu, s = torch.randn(3, 50, dtype=torch.float64), torch.rand(3, 50, dtype=torch.float64) + 0.1
    samples = 5000
    error = s / math.sqrt(samples)  # std(relu(u)) is at most s
    assert ((gaussian_mean(nn.ReLU(), mu, s, samples) - gaussian_relu(mu, s)).abs() < 5 * error).all()


def test_samples_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drop_connect, "DRAWS_AT_A_TIME", 4)
    calls = []
    activation = nn.Tanh()
    activation.register_forward_hook(lambda module, inputs, output: calls.append(output.shape))
    gaussian_mean(activation, torch.zeros(2, 3), torch.ones(2, 3), 10)
    assert calls == [(8, 3), (8, 3), (4, 3)]


def prelu(outputs: int) -> nn.Module:
    """A slope of its own for each output."""
    activation = nn.PReLU(outputs).double()
    nn.init.uniform_(activation.weight, 0.0, 2.0)
    return activation


def normalised(outputs: int) -> nn.Module:
    """Batch normalisation with statistics and scales of its own for each output, then a ReLU."""
    norm = nn.BatchNorm1d(outputs).double()
    for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
        assert tensor is not None
        nn.init.uniform_(tensor, 0.5, 2.0)
    return nn.Sequential(norm, nn.ReLU())


@pytest.mark.parametrize("make", [prelu, normalised])
@pytest.mark.parametrize("examples", [1, 4, 7])  # also as many as there are outputs
def test_an_activation_may_have_something_of_its_own_for_each_output(make: Any, examples: int) -> None:
    """Its mean over the draws is the integral over N(mu, s^2), output by output."""
    torch.manual_seed(0)
    outputs = 4
    activation = make(outputs).eval()
    mu = torch.randn(examples, outputs, dtype=torch.float64)
    s = torch.rand(examples, outputs, dtype=torch.float64) + 0.1
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    wanted, spread = torch.empty_like(mu), torch.empty_like(mu)
    for n, o in itertools.product(range(examples), range(outputs)):
        u = torch.zeros(len(z), outputs, dtype=torch.float64)
        u[:, o] = mu[n, o] + s[n, o] * z
        a = activation(u)[:, o].detach()
        wanted[n, o] = torch.trapezoid(a * density, z)
        spread[n, o] = torch.trapezoid(a.square() * density, z) - wanted[n, o].square()
    samples = 20_000
    got = gaussian_mean(activation, mu, s, samples)
    assert ((got - wanted).abs() <= 5 * (spread / samples).sqrt() + 1e-9).all()


@pytest.mark.parametrize("make", [prelu, normalised])
@pytest.mark.parametrize("p", [0.0, 0.4])
@pytest.mark.parametrize("inference", ["sampling", "mean"])
def test_such_activations_in_the_layer(make: Any, p: float, inference: Any) -> None:
    """In training and in evaluation, whatever the leading dimensions; a step changes the statistics once."""
    layer = DropConnect(6, 4, p=p, activation=make(4), inference=inference, samples=60).double()
    for shape in ((5, 6), (2, 3, 6), (4, 4, 6)):
        v = torch.randn(shape, dtype=torch.float64)
        assert layer.train()(v).shape == (*shape[:-1], 4)
        rows = layer.eval()(v)
        assert rows.shape == (*shape[:-1], 4)
        if p == 0.0:
            u = F.linear(v.reshape(-1, 6), layer.weight, layer.bias)
            torch.testing.assert_close(rows.reshape(-1, 4), layer.activation(u))
    assert layer.eval()(torch.randn(6, dtype=torch.float64)).shape == (4,)
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm1d):
            assert module.num_batches_tracked == 3


def test_inference_is_nearer_to_the_mean_over_masks_than_dropouts() -> None:
    """Over all masks of twelve inputs: less than a tenth of the error of a(mu)."""
    v, weight, _ = (tensor.detach() for tensor in tensors(12, 20, 6))
    u = torch.stack(
        [v @ (torch.tensor(mask) * weight).T for mask in itertools.product((0.0, 1.0), repeat=12)]
    )
    exact = u.relu().mean(0)
    layer = DropConnect(12, 20, bias=False, inference="relu").double().eval()
    layer.weight = nn.Parameter(weight)
    wrong = {}
    for inference in ("relu", "mean"):
        layer.inference = inference
        wrong[inference] = (layer(v) - exact).abs().mean().item()
    assert wrong["relu"] < 0.1 * wrong["mean"]


def test_at_test() -> None:
    v, layer = torch.randn(3, 6), DropConnect(6, 4, activation=nn.Tanh(), inference="mean", p=0.3).eval()
    torch.testing.assert_close(layer(v), torch.tanh(0.7 * F.linear(v, layer.weight, layer.bias)))
    layer.inference = "sampling"
    assert not torch.equal(layer(v), layer(v))
    exact = DropConnect(6, 4, inference="relu").eval()
    state = torch.get_rng_state()
    assert torch.equal(exact(v), exact(v))
    assert torch.equal(torch.get_rng_state(), state)
    exact.sampling = True
    assert not torch.equal(exact(v), exact(v))


def test_one_input_of_zeros_has_finite_gradients() -> None:
    layer = DropConnect(6, 4, bias=False, inference="relu").eval()
    v = torch.zeros(2, 6, requires_grad=True)
    r = layer(v)
    assert (r < 1e-18).all()
    r.sum().backward()
    assert v.grad.isfinite().all()
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_p_zero_is_a_linear_layer_and_draws_nothing(bias: bool, training: bool) -> None:
    layer, v = DropConnect(6, 4, p=0.0, bias=bias).train(training), torch.randn(3, 6)
    state = torch.get_rng_state()
    assert torch.equal(layer(v), F.linear(v, layer.weight, layer.bias).relu())
    assert torch.equal(torch.get_rng_state(), state)


def test_starts_as_a_linear_layer_and_takes_its_weights() -> None:
    torch.manual_seed(1)
    layer = DropConnect(6, 4)
    torch.manual_seed(1)
    linear = nn.Linear(6, 4)
    assert torch.equal(layer.weight, linear.weight)
    layer.load_state_dict(linear.state_dict())
    assert layer(torch.randn(2, 3, 6)).shape == (2, 3, 4)
    assert layer(torch.randn(6)).shape == (4,)
    assert layer(torch.randn(0, 6)).shape == (0, 4)
    assert layer.eval()(torch.randn(0, 6)).shape == (0, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"in_features": 0}, "in_features must be >= 1, got 0"),
        ({"out_features": 0}, "out_features must be >= 1, got 0"),
        ({"p": 1.0}, r"p must be in \[0, 1\), got 1.0"),
        ({"p": float("nan")}, r"p must be in \[0, 1\), got nan"),
        ({"inference": "exact"}, "inference must be 'sampling', 'relu' or 'mean', got 'exact'"),
        (
            {"inference": "relu", "activation": nn.Tanh()},
            "inference must be 'sampling' or 'mean' with the activation Tanh, got 'relu', which is the closed"
            " form for a ReLU",
        ),
        ({"samples": 0}, "samples must be >= 1, got 0"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^DropConnect: {message}$"):
        DropConnect(**{"in_features": 3, "out_features": 2} | settings)
