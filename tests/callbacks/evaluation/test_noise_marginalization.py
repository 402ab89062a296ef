"""The average over the noise equals its closed form, within the error that its samples have."""

import math
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.ops import StochasticDepth

from lightning_optreg.callbacks import NoiseMarginalization
from lightning_optreg.callbacks._network import find_network
from lightning_optreg.callbacks.evaluation.noise_marginalization import noise_layers
from lightning_optreg.callbacks.evaluation.spread import spread
from lightning_optreg.layers import GaussianNoise
from lightning_optreg.layers.averages import average_outputs
from tests.small_runs import quiet_trainer


class Classifier(LightningModule):
    """Somebody's module: its steps call the network, whatever hooks are on it."""

    def __init__(self, *layers: nn.Module, classes: int = 4) -> None:
        super().__init__()
        self.classes = classes
        self.net = nn.Sequential(*layers)
        self.seen: list[Tensor] = []

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.test_step(batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        scores = self.net(batch[0])
        self.seen.append(scores)
        self.log("nll", nn.functional.cross_entropy(scores, batch[1] % self.classes))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.net(batch[0]).softmax(1)


def loader() -> DataLoader[Any]:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, torch.arange(8) % 4), batch_size=4)


def trainer(*callbacks: Any) -> Trainer:
    return quiet_trainer(callbacks=list(callbacks), max_epochs=1)


def scores_of(module: Classifier, **options: Any) -> tuple[Tensor, dict[str, float]]:
    module.seen.clear()
    run = trainer(NoiseMarginalization(**options))
    run.test(module, loader(), verbose=False)
    return torch.cat(module.seen), {name: value.item() for name, value in run.callback_metrics.items()}


def test_without_noise_nothing_changes() -> None:
    module = Classifier(nn.Linear(3, 4), nn.Dropout(0.0))
    scores, logged = scores_of(module, samples=5)
    x = torch.cat([batch[0] for batch in loader()])
    torch.testing.assert_close(scores.softmax(1), module.net(x).softmax(1))
    assert logged["optreg/noise_marginalization/mutual_information"] == pytest.approx(0, abs=1e-6)


def test_one_sample_is_one_noisy_pass() -> None:
    module = Classifier(nn.Linear(3, 4), nn.Dropout(0.5))
    scores, _ = scores_of(module, samples=1, seed=3)
    batches = list(loader())
    torch.manual_seed(3)
    module.net.train()
    expected = [module.net(batch[0]) for batch in batches]
    torch.testing.assert_close(scores.softmax(1), torch.cat(expected).softmax(1))


def test_mean_and_spread_of_dropout_on_a_linear_layer() -> None:
    """f = W (z x) / (1 - p), z ~ Bernoulli(1 - p): mean W x, variance p / (1 - p) (W^2)(x^2)."""
    p, samples = 0.3, 4000
    module = Classifier(nn.Dropout(p), nn.Linear(3, 4, bias=False))
    scores, logged = scores_of(module, samples=samples, average="outputs")
    x = torch.cat([batch[0] for batch in loader()])
    weight = module.net[1].weight
    variance = p / (1 - p) * x.square() @ weight.square().T
    errors = (scores - x @ weight.T) / (variance / samples).sqrt()
    assert errors.abs().max() < 4.5  # standard errors; 32 numbers
    # the relative standard error of a standard deviation is about sqrt((kurtosis - 1) / 4 S) < 2 %
    assert logged["optreg/noise_marginalization/std"] == pytest.approx(
        variance.sqrt().mean().item(), rel=0.05
    )


def test_probabilities_are_averaged_not_scores() -> None:
    """Noise of a fixed standard deviation on two scores: E[sigmoid(f + s z)] by quadrature."""
    module = Classifier(nn.Linear(3, 2, bias=False), GaussianNoise(2.0), classes=2)
    samples = 6000
    scores, _ = scores_of(module, samples=samples, seed=1)
    x = torch.cat([batch[0] for batch in loader()])
    means = (module.net[0](x)[:, 0] - module.net[0](x)[:, 1]).double()
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    density = (-(grid**2) / 2).exp() / math.sqrt(2 * math.pi)
    sigma = 2.0 * math.sqrt(2)  # of the difference of two scores
    exact = torch.trapezoid((means[:, None] + sigma * grid).sigmoid() * density, grid)
    errors = (scores.softmax(1)[:, 0] - exact).abs()
    assert errors.max() < 4.5 * 0.5 / math.sqrt(samples)  # a probability's deviation is 0.5 at most


def test_logged_entropies_are_those_of_the_samples() -> None:
    module = Classifier(nn.Linear(3, 4), nn.Dropout(0.5))
    scores, logged = scores_of(module, samples=50)
    entropy = torch.distributions.Categorical(logits=scores).entropy().mean().item()
    name = "optreg/noise_marginalization/"
    assert logged[name + "predictive_entropy"] == pytest.approx(entropy, rel=1e-5)
    assert 0.01 < logged[name + "mutual_information"] < math.log(4)
    assert logged[name + "expected_entropy"] + logged[name + "mutual_information"] == pytest.approx(
        entropy, rel=1e-5
    )


def test_the_modules_own_loss_is_that_of_the_average() -> None:
    module = Classifier(nn.Linear(3, 4), nn.Dropout(0.5))
    scores, logged = scores_of(module, samples=50)
    labels = torch.arange(8) % 4
    assert logged["nll"] == pytest.approx(nn.functional.nll_loss(scores.softmax(1).log(), labels).item())


def test_prediction_is_the_average_too_and_repeats_itself() -> None:
    module = Classifier(nn.Linear(3, 4), nn.Dropout(0.5))
    predictions = [torch.cat(trainer(NoiseMarginalization(30)).predict(module, loader())) for _ in range(2)]
    assert torch.equal(*predictions)
    torch.testing.assert_close(predictions[0], scores_of(module, samples=30)[0].softmax(1))


def test_everything_is_as_before_afterwards() -> None:
    module = Classifier(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), GaussianNoise(1.0))
    statistics = {name: value.clone() for name, value in module.state_dict().items()}
    module.net[3].sampling = True  # noisy in evaluation on its own account
    torch.manual_seed(5)
    trainer().test(module, loader(), verbose=False)  # torch's DataLoader draws a number
    state = torch.get_rng_state()
    torch.manual_seed(5)
    scores_of(module, samples=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, statistics[name]) for name, value in module.state_dict().items())
    assert module.net[3].sampling
    module.eval()
    assert not module.net[2].training
    x = torch.ones(2, 3)
    module.net[3].sampling = False
    assert torch.equal(module.net(x), module.net(x))  # no hook, no noise


def test_all_is_undone_after_an_exception() -> None:
    class Failing(Classifier):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            super().test_step(batch, batch_idx)
            raise ZeroDivisionError

    module = Failing(nn.Linear(3, 4), nn.Dropout(0.5)).eval()
    torch.manual_seed(5)
    with pytest.raises(ZeroDivisionError):
        trainer().test(module, loader(), verbose=False)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    with pytest.raises(ZeroDivisionError):
        scores_of(module, samples=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert not module.net[1].training
    assert torch.equal(module.net(torch.ones(2, 3)), module.net(torch.ones(2, 3)))


def test_stages() -> None:
    module = Classifier(nn.Linear(3, 4), nn.Dropout(0.5))
    run = trainer(NoiseMarginalization(2, stages=["validate"]))
    run.validate(module, loader(), verbose=False)
    assert "optreg/noise_marginalization/mutual_information" in run.callback_metrics
    run.test(module, loader(), verbose=False)
    assert not [name for name in run.callback_metrics if name.startswith("optreg")]


def test_chosen_layers() -> None:
    net = nn.Sequential(nn.Dropout(0.1), nn.Sequential(nn.Dropout2d(0.1)), GaussianNoise(1.0))
    net.append(StochasticDepth(0.1, "row")).append(nn.FractionalMaxPool2d(2, 1))
    assert noise_layers(net, None) == [net[0], net[1][0], net[2], net[3], net[4]]
    assert noise_layers(net, ["GaussianNoise", "1.*"]) == [net[1][0], net[2]]
    assert noise_layers(net, ["Linear"]) == []


def test_layers_that_are_not_there_are_refused_before_the_first_step() -> None:
    with pytest.raises(MisconfigurationException, match=r"of its layers none matches layers=\['x'\]"):
        scores_of(Classifier(nn.Dropout(0.5), nn.Linear(3, 4)), layers=["x"])
    with pytest.raises(MisconfigurationException, match="net='body' is not a module of Classifier"):
        scores_of(Classifier(nn.Dropout(0.5), nn.Linear(3, 4)), net="body")


def test_a_network_that_the_step_does_not_call_is_refused() -> None:
    class Other(Classifier):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.net[1](self.net[0](batch[0]))

    with pytest.raises(MisconfigurationException, match="the test step did not call the network Sequential"):
        scores_of(Other(nn.Dropout(0.5), nn.Linear(3, 4)))


def test_a_network_that_gets_its_images_by_name_is_refused() -> None:
    class Named(Classifier):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.net(input=batch[0])

    with pytest.raises(
        MisconfigurationException, match="must get the images as its first positional argument"
    ):
        scores_of(Named(nn.Dropout(0.5), nn.Linear(3, 4)))


def test_finds_the_network() -> None:
    two = nn.ModuleDict({"encoder": nn.Linear(1, 1), "decoder": nn.Linear(1, 1)})
    module = LightningModule()
    module.parts = two
    assert find_network(module, None, "X") is two
    module.more = nn.Linear(1, 1)
    with pytest.raises(MisconfigurationException, match="2 children with parameters; pass net="):
        find_network(module, None, "X")
    assert find_network(module, "parts.decoder", "X") is two["decoder"]
    module.model = nn.Identity()
    assert find_network(module, None, "X") is module.model


def test_average_outputs() -> None:
    scores = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean = average_outputs(scores, "probabilities")
    torch.testing.assert_close(mean.exp(), scores.softmax(-1).mean(0))
    torch.testing.assert_close(average_outputs(scores, "outputs"), scores.mean(0))


def test_spread_is_within_its_bounds() -> None:
    values = spread(torch.randn(6, 100, 4, generator=torch.Generator().manual_seed(0)).softmax(-1))
    assert all((value >= 0).all() and (value <= math.log(4)).all() for value in values.values())
    certain = torch.zeros(2, 1, 4)
    certain[..., 2] = 1
    assert all(value.item() == 0 for value in spread(certain).values())


def test_a_compiled_network() -> None:
    module = Classifier(nn.Linear(3, 4), nn.Dropout(0.5))
    plain, _ = scores_of(module, samples=4, average="outputs")
    module.net.compile(backend="eager")
    module.net.eval()(torch.ones(4, 3))
    compiled, _ = scores_of(module, samples=4, average="outputs")
    torch.testing.assert_close(compiled, plain)
