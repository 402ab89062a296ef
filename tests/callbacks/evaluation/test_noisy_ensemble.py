"""Noise in anyone's residual blocks: which, how much, what the gradient is, and its average at test."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision import models

from lightning_optreg import nets
from lightning_optreg.callbacks import NoisyEnsemble
from lightning_optreg.callbacks.evaluation.noisy_ensemble import residual_blocks
from tests.resume_tools import assert_identical
from tests.small_runs import quiet_trainer

SHAPE = (3, 16, 16)


class TimmBlock(nn.Module):
    """A block with the names that timm's ResNets have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.drop_path, self.downsample = nn.Conv2d(3, 3, 3, padding=1), nn.Identity(), None

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.conv1(x))


TimmBlock.__name__ = "BasicBlock"


@pytest.mark.parametrize(
    ("network", "count"),
    [
        (lambda: models.resnet18(), 8),
        (lambda: models.resnet50(), 16),
        (lambda: models.resnext50_32x4d(), 16),
        (lambda: models.convnext_tiny(), 18),
        (lambda: models.mobilenet_v2(), 10),  # of 17 blocks, those with a shortcut
        (lambda: models.efficientnet_b0(), 9),
        (lambda: models.vit_b_16(image_size=32), 12),
        (lambda: nets.ResNet(10, SHAPE, depth=20), 9),
        (lambda: nets.ResNet(10, (3, 32, 32), depth=50, form="imagenet"), 16),
        (lambda: nets.WideResNet(10, SHAPE, depth=16, widen_factor=1), 6),
        (lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(TimmBlock(), TimmBlock())), 2),
        (lambda: nets.LeNet5(), 0),
        (lambda: models.vgg11(), 0),
    ],
)
def test_blocks_are_found(network: Any, count: int) -> None:
    with torch.device("meta"):
        assert len(residual_blocks(network())) == count


def test_plain_networks_have_no_residual_blocks_and_blocks_may_be_told() -> None:
    plain = nets.ResNet(10, SHAPE, depth=20, shortcut="none")
    assert not residual_blocks(plain)
    network = models.resnet18()
    assert list(residual_blocks(network, ["layer1.*"])) == [
        f"layer1.{block}.{layer}" for block in (0, 1) for layer in ("conv1", "bn1", "relu", "conv2", "bn2")
    ]  # the innermost
    assert list(residual_blocks(network, ["layer?.0", "fc"])) == [*(f"layer{i}.0" for i in range(1, 5)), "fc"]


class Classifier(LightningModule):
    """Somebody's network with batches of random images."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = net or nets.ResNet(4, SHAPE, depth=8, width=4)
        self.scores: list[Tensor] = []

    def train_dataloader(self) -> Any:
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(16, *SHAPE, generator=generator)
        return DataLoader(TensorDataset(x, torch.arange(16) % 4), batch_size=8)

    test_dataloader = train_dataloader

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.scores.append(self.net(batch[0]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def trainer_of(*callbacks: Callback, **options: Any) -> Trainer:
    return quiet_trainer(callbacks=list(callbacks), **{"max_epochs": 1, **options})


class Differences(Callback):
    """Keeps what a block gives before and after the noise: put one before the ensemble and one after it."""

    def __init__(self, name: str) -> None:
        self.name, self.outputs = name, []  # type: ignore[var-annotated]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        block = dict(pl_module.named_modules())[self.name]
        block.register_forward_hook(lambda block, args, output: self.outputs.append(output.detach().clone()))


@pytest.mark.parametrize("relative_to", ["image", "batch", None])
def test_noise_has_the_standard_deviation_asked_for(relative_to: Any) -> None:
    before, after = Differences("net.layer1.0"), Differences("net.layer1.0")
    module = Classifier(models.resnet18(num_classes=4))
    trainer = trainer_of(before, NoisyEnsemble(0.2, relative_to, seed=0), after)
    trainer.fit(module)
    y, noisy = before.outputs[0], after.outputs[0]
    noise = noisy - y
    numbers = noise[0].numel()
    expected = {
        "image": 0.2 * y.flatten(1).std(1),
        "batch": (0.2 * y.std()).expand(len(y)),
        None: torch.full((len(y),), 0.2),
    }[relative_to]
    # The relative error of a standard deviation of n numbers is 1 / (2 n)^(1/2).
    assert (noise.flatten(1).std(1) / expected - 1).abs().max() < 4 / (2 * numbers) ** 0.5
    assert float(trainer.logged_metrics["optreg/noisy_ensemble/std"]) > 0.0
    assert not torch.allclose(noise[0] / noise[0].std(), noise[1] / noise[1].std(), atol=0.5)  # its own each


def test_the_gradient_goes_through_the_standard_deviation() -> None:
    block = TimmBlock().double()
    module = Classifier(nn.Sequential(block, nn.Flatten(), nn.Linear(768, 4)))
    ensemble = NoisyEnsemble(0.3, "batch", seed=2)
    ensemble.setup(trainer_of(), module, "fit")
    x = torch.randn(2, *SHAPE, dtype=torch.float64)
    ensemble._seed_generator(torch.device("cpu"), 7)
    block(x).square().sum().backward()
    got = block.conv1.weight.grad
    ensemble._seed_generator(torch.device("cpu"), 7)
    generator = ensemble._generator
    y = x + nn.functional.conv2d(x, block.conv1.weight, block.conv1.bias, padding=1)
    z = torch.empty_like(y).normal_(generator=generator)
    expected = torch.autograd.grad((y + 0.3 * y.std() * z).square().sum(), block.conv1.weight)[0]
    torch.testing.assert_close(got, expected)
    ensemble.teardown(trainer_of(), module, "fit")


@pytest.mark.parametrize("average", ["probabilities", "outputs"])
def test_evaluation_averages_separate_noisy_passes(average: Any) -> None:
    module = Classifier().eval()
    ensemble = NoisyEnsemble(0.5, samples=3, average=average, seed=3)
    trainer = trainer_of(ensemble)
    trainer.test(module, verbose=False)
    first = module.scores[0]
    again = Classifier()
    trainer_of(NoisyEnsemble(0.5, samples=3, average=average, seed=3)).test(again, verbose=False)
    assert torch.equal(first, again.scores[0])
    ensemble.setup(trainer_of(), module, "test")
    ensemble.begin(module.net)
    x = next(iter(module.test_dataloader()))[0]
    with torch.no_grad():
        passes = torch.stack([module.net(x) for _ in range(3)])
    ensemble.end()
    ensemble.teardown(trainer_of(), module, "test")
    mean = passes.softmax(-1).mean(0).log() if average == "probabilities" else passes.mean(0)
    torch.testing.assert_close(first, mean)
    assert not torch.allclose(passes[0], passes[1])
    name = "mutual_information" if average == "probabilities" else "std"
    assert float(trainer.logged_metrics[f"optreg/noisy_ensemble/{name}"]) > 0.0


def test_checkpoints_fit_the_plain_network_and_nothing_stays(tmp_path: Path) -> None:
    module = Classifier()
    names = set(module.state_dict())
    hooks = {name: len(block._forward_hooks) for name, block in module.named_modules()}
    trainer = trainer_of(NoisyEnsemble())
    trainer.fit(module)
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    saved = torch.load(tmp_path / "it.ckpt", weights_only=True)["state_dict"]
    assert set(saved) == names
    assert {name: len(block._forward_hooks) for name, block in module.named_modules()} == hooks

    class Fails(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            raise KeyError("on purpose")

    with pytest.raises(KeyError):
        trainer_of(NoisyEnsemble(), Fails()).fit(module)
    assert {name: len(block._forward_hooks) for name, block in module.named_modules()} == hooks


def test_validation_is_free_of_noise_and_global_random_numbers_are_left_alone() -> None:
    seed_everything(1, verbose=False)
    plain = Classifier()
    trainer_of().fit(plain)
    expected = torch.get_rng_state()
    seed_everything(1, verbose=False)
    noisy = Classifier()
    ensemble = NoisyEnsemble(0.3)
    trainer_of(ensemble).fit(noisy)
    assert torch.equal(torch.get_rng_state(), expected)
    assert not torch.equal(next(noisy.parameters()), next(plain.parameters()))
    ensemble.setup(trainer_of(), noisy, "validate")
    x = next(iter(noisy.test_dataloader()))[0]
    noisy.eval()
    assert torch.equal(noisy.net(x), noisy.net(x))
    ensemble.teardown(trainer_of(), noisy, "validate")
    again = Classifier()
    seed_everything(1, verbose=False)
    trainer_of(NoisyEnsemble(0.3)).fit(again)
    assert_identical(dict(noisy.state_dict()), dict(again.state_dict()))


def test_accumulated_batches_get_noise_of_their_own() -> None:
    before, after = Differences("net.layer1.0"), Differences("net.layer1.0")
    module = Classifier(models.resnet18(num_classes=4))
    trainer_of(before, NoisyEnsemble(1.0, None), after, accumulate_grad_batches=2).fit(module)
    first, second = (a - b for a, b in zip(after.outputs, before.outputs, strict=True))
    assert (first * second).mean().abs() < 4 / first.numel() ** 0.5


def test_networks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        MisconfigurationException, match=r"^NoisyEnsemble: LeNet5 has no residual blocks: .*known"
    ):
        trainer_of(NoisyEnsemble()).fit(Classifier(nets.LeNet5(4, SHAPE)))
    with pytest.raises(MisconfigurationException, match="none matches blocks"):
        trainer_of(NoisyEnsemble(blocks=["layers.*"])).fit(Classifier())
    with pytest.raises(MisconfigurationException, match="already has noise"):
        trainer_of(NoisyEnsemble()).fit(Classifier(nets.EnResNet(4, SHAPE, depth=8)))
    with pytest.raises(MisconfigurationException, match="a block must return one tensor, LSTM returns tuple"):
        trainer_of(NoisyEnsemble(blocks=["0"])).fit(Classifier(nn.Sequential(Rows(), nn.Flatten())))


class Rows(nn.LSTM):
    """Returns a tuple, as no block does."""

    def __init__(self) -> None:
        super().__init__(16, 2)

    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        return super().forward(x[:, 0])


Rows.__name__ = "LSTM"
