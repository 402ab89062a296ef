"""Pictures of the callbacks' cards that train a small network, or evaluate one."""

import copy
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim import Adam
from torch.utils.data import DataLoader, TensorDataset

from card_pictures.registry import picture
from card_pictures.style import BLACK, BLUE, GREEN, GREY, ORANGE, SKY_BLUE, VERMILION, figure, label
from lightning_optreg import ImageClassifier
from lightning_optreg.attacks import FGSM, PGD
from lightning_optreg.callbacks import AdamRestarts, AdversarialTraining
from lightning_optreg.functional import gaussian_noise as add_noise
from lightning_optreg.functional import recalibrate
from lightning_optreg.layers import Dropout


def moons(count: int, seed: int, noise: float = 0.03) -> tuple[Tensor, Tensor]:
    """Points of two crescents as images of two channels and one pixel, (N, 2, 1, 1), and classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    angle = 3.1416 * torch.rand(count, generator=generator)
    x = torch.where(labels == 0, angle.cos(), 1 - angle.cos())
    y = torch.where(labels == 0, angle.sin(), 0.5 - angle.sin())
    points = torch.stack((0.2 + (x + 1) / 5, 0.3 + (y + 0.5) / 3.75), 1)
    points = points + noise * torch.randn(points.shape, generator=generator)
    return points.clamp(0, 1)[..., None, None], labels


def perceptron(units: int = 64, dropout: float = 0.0) -> nn.Sequential:
    """Two hidden layers for points of two coordinates."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(2, units), nn.ReLU(), Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(units, units), nn.ReLU(), Dropout(dropout), nn.Linear(units, 2))


def fitted(
    net: nn.Module,
    data: tuple[Tensor, Tensor],
    held_out: tuple[Tensor, Tensor] | None = None,
    callbacks: Sequence[Callback] = (),
    epochs: int = 60,
    lr: float = 0.01,
) -> nn.Module:
    """The network after some epochs of Adam."""
    torch.manual_seed(1)
    loaders = [
        DataLoader(TensorDataset(*each), batch_size=50) for each in (data, held_out) if each is not None
    ]
    trainer = Trainer(
        max_epochs=epochs,
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(ImageClassifier(net, optimizer=partial(Adam, lr=lr), num_classes=2), *loaders)
    return net.eval()


class Recorder(Callback):
    """Keeps validation losses and learning rates."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what is there."""
        if not trainer.sanity_checking:
            self.losses.append(trainer.callback_metrics["val/loss"].item())
            self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


@picture
def adam_restarts() -> Figure:
    """Validation loss and rate of a run with two restarts."""
    drawn, (left, right) = figure(2)
    recorder = Recorder()
    restarts = AdamRestarts(patience=8, max_restarts=2)
    held_out = moons(400, seed=2, noise=0.08)
    fitted(perceptron(), moons(200, seed=1, noise=0.08), held_out, [recorder, restarts], 200, lr=0.03)
    epochs = range(1, len(recorder.losses) + 1)
    left.plot(epochs, recorder.losses, color=BLUE)
    right.step(epochs, recorder.rates, color=BLUE)
    changes = [i for i in epochs[1:] if recorder.rates[i - 1] != recorder.rates[i - 2]]
    for axes in (left, right):
        for change in changes:
            axes.axvline(change - 0.5, color=VERMILION, linestyle="--", linewidth=1)
    label(left, "epoch", "validation loss", "restarts from the best weights")
    right.set_ylim(bottom=0)
    label(right, "epoch", "learning rate", "patience 8, factor 1/2")
    return drawn


@picture
def adversarial_training() -> Figure:
    """Losses along the ascent, and decision boundaries with and without it."""
    drawn, (left, right) = figure(2)
    data, test = moons(400, seed=1), moons(60, seed=2)
    plain = fitted(perceptron(), data)
    robust = fitted(perceptron(), data, callbacks=[AdversarialTraining(eps=0.06, steps=5)])
    one = (test[0][:1].expand(10, -1, -1, -1), test[1][:1].expand(10))
    losses = [F.cross_entropy(plain(one[0]), one[1], reduction="none")]
    for steps in range(1, 11):
        changed = PGD(0.06, steps=steps, step_size=0.015)(plain, *one)
        losses.append(F.cross_entropy(plain(changed), one[1], reduction="none"))
    left.plot(range(11), torch.stack(losses).detach(), color=BLUE, linewidth=0.9)
    label(left, "step of the ascent", "loss", "one image, ten random starts")
    grid = torch.stack(torch.meshgrid(*2 * [torch.linspace(0, 1, 80)], indexing="xy"))
    points = grid.flatten(1).T[..., None, None]
    for net, color, line, name in ((plain, VERMILION, "--", "plain"), (robust, BLUE, "-", "adversarial")):
        lead = net(points).detach().diff(dim=1).view(80, 80)
        right.contour(grid[0], grid[1], lead, levels=[0], colors=color, linestyles=line)
        right.plot([], [], line, color=color, label=name)
    for number, marker in ((0, "o"), (1, "s")):
        right.plot(*test[0][test[1] == number].flatten(1).T, marker, color=BLACK, markersize=2.5)
    right.set_ylim(0.15, 1.0)
    label(right, "", "", "boundary between two classes")
    return drawn


@picture
def robustness_evaluation() -> Figure:
    """Accuracy of a network against the size of the change, for three ways to change."""
    drawn, (axes,) = figure(width=4.8)
    images, labels = moons(500, seed=2)
    net = fitted(perceptron(), moons(400, seed=1), epochs=100)
    sizes = torch.linspace(0, 0.15, 11).tolist()
    found: dict[str, list[float]] = {"random change": [], "FGSM": [], "PGD, 20 steps": []}
    generator = torch.Generator().manual_seed(0)
    for eps in sizes:
        change = eps * (2 * torch.rand(images.shape, generator=generator) - 1)
        for name, changed in (
            ("random change", (images + change).clamp(0, 1)),
            ("FGSM", FGSM(eps)(net, images, labels)),
            ("PGD, 20 steps", PGD(eps)(net, images, labels)),
        ):
            found[name].append(100 * (net(changed).argmax(1) == labels).float().mean().item())
    for (name, accuracies), color, line in zip(
        found.items(), (GREY, ORANGE, BLUE), (":", "--", "-"), strict=True
    ):
        axes.plot(sizes, accuracies, line, color=color, marker="o", markersize=3, label=name)
    axes.set_ylim(0, 103)
    label(axes, r"$\epsilon$", "accuracy, %", "two crescents, a network of 64 units")
    return drawn


@picture
def batch_norm_recalibration() -> Figure:
    """Running variances of averaged weights against true ones, before and after."""
    torch.manual_seed(0)
    drawn, (axes,) = figure(width=5.0)
    images, labels = moons(1000, seed=1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, 40))
    net.extend([nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, 2)])
    adam = Adam(net.parameters(), lr=0.02)
    average = copy.deepcopy(net)
    for step in range(300):
        batch = torch.randint(0, 1000, (100,))
        adam.zero_grad()
        F.cross_entropy(net(images[batch]), labels[batch]).backward()
        adam.step()
        with torch.no_grad():
            for mean, state in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
                if mean.is_floating_point():
                    mean.lerp_(state, 1 / (step + 1))
    exact, batches = copy.deepcopy(average), copy.deepcopy(average)
    recalibrate(exact, [images])
    recalibrate(batches, images.split(100))
    true, order = exact[5].running_var, exact[5].running_var.argsort()
    for statistics, color, marker, name in (
        (average, VERMILION, "o", "averaged like the weights"),
        (batches, BLUE, "s", "recalibrated, 10 batches"),
    ):
        ratio = statistics[5].running_var[order] / true[order]
        axes.plot(range(40), ratio, marker, color=color, markersize=4, label=name)
    axes.axhline(1, color=GREY, linewidth=0.8)
    axes.set_ylim(0.85, 1.3)
    label(axes, "channel", "running / true variance", "a network with averaged weights")
    return drawn


@picture
def full_batch() -> Figure:
    """Losses of the whole set and of batches along a line of descent."""
    drawn, (axes,) = figure(width=4.8)
    images, labels = moons(2000, seed=1, noise=0.1)
    net = perceptron(units=32)
    F.cross_entropy(net(images), labels).backward()
    start = [p.detach().clone() for p in net.parameters()]
    slopes = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    steps = torch.linspace(0, 4, 33)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for step in steps.tolist():
        with torch.no_grad():
            for p, value, slope in zip(net.parameters(), start, slopes, strict=True):
                p.copy_(value - step * slope)
            each = F.cross_entropy(net(images), labels, reduction="none")
        batch = torch.randint(0, 2000, (10, 32), generator=generator)
        losses.append(torch.cat((each.mean()[None], each[batch].mean(1))))
    values = torch.stack(losses)
    axes.plot(steps, values[:, 1:3], color=SKY_BLUE, linewidth=0.9)
    axes.plot(steps, values[:, 1:], ".", color=SKY_BLUE, markersize=2)
    axes.plot([], [], ".-", color=SKY_BLUE, label="another batch of 32 at each point")
    axes.plot(steps, values[:, 0], color=BLACK, linewidth=1.8, label="whole set")
    axes.set_ylim(top=values.max().item() * 1.25)
    label(axes, "step along the negative gradient", "loss")
    return drawn


@picture
def noise_marginalization() -> Figure:
    """Predictions with dropout over an input that the training saw only in part."""
    torch.manual_seed(0)
    drawn, (left, right) = figure(2)
    x = torch.cat((torch.linspace(-2, -0.7, 60), torch.linspace(0.3, 1.6, 60)))[:, None]
    y = (2.5 * x).sin() + 0.1 * torch.randn_like(x)
    net = nn.Sequential(
        nn.Linear(1, 100), nn.ReLU(), Dropout(0.1), nn.Linear(100, 100), nn.ReLU(), Dropout(0.1)
    )
    net.append(nn.Linear(100, 1))
    adam = Adam(net.parameters(), lr=0.005)
    for _ in range(1500):
        adam.zero_grad()
        F.mse_loss(net(x), y).backward()
        adam.step()
    net.eval()
    grid = torch.linspace(-3, 3, 81)[:, None]
    with torch.no_grad():
        usual = net(grid)[:, 0]
        for layer in net:
            if isinstance(layer, Dropout):
                layer.sampling = True
        passes = torch.stack([net(grid)[:, 0] for _ in range(100)])
    left.plot(grid, passes[:8].T, color=SKY_BLUE, linewidth=0.6)
    left.plot(grid, usual, "--", color=BLACK, label="one pass, dropout off")
    left.plot(x[::2], y[::2], ".", color=GREY, markersize=2)
    mean, std = passes.mean(0), passes.std(0)
    right.fill_between(grid[:, 0], mean - 2 * std, mean + 2 * std, color=SKY_BLUE, alpha=0.5, label="2 std")
    right.plot(grid, mean, color=BLUE, label="mean of 100 passes")
    right.plot(x[::2], y[::2], ".", color=GREY, markersize=2)
    for axes in (left, right):
        axes.set_ylim(-3.5, 4.5)
    label(left, "input", "prediction", "eight passes with dropout")
    label(right, "input", "", "what is averaged")
    return drawn


@picture
def noisy_ensemble() -> Figure:
    """States of one input along the blocks of a residual network."""
    torch.manual_seed(2)
    drawn, (left, right) = figure(2)
    branches = [nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2)) for _ in range(20)]
    for axes, count in ((left, 12), (right, 200)):
        x = torch.full((count, 2), 0.5)
        quiet = x[:1]
        noisy, plain = [x[:, 0]], [quiet[0, 0]]
        with torch.no_grad():
            for branch in branches:
                x = x + 0.5 * branch(x)
                x = add_noise(x, 0.1 * x.std(1, keepdim=True))
                quiet = quiet + 0.5 * branch(quiet)
                noisy.append(x[:, 0])
                plain.append(quiet[0, 0])
        paths = torch.stack(noisy)
        if count < 20:
            axes.plot(paths, color=SKY_BLUE, linewidth=0.8)
        else:
            low, high = paths.quantile(torch.tensor([0.05, 0.95]), dim=1)
            axes.fill_between(range(21), low, high, color=SKY_BLUE, alpha=0.5, label="90 % of 200 paths")
            axes.plot(paths.mean(1), color=GREEN, label="their mean")
        axes.plot(plain, "--", color=BLACK, label="without noise")
    label(left, "block", "a component of the state", "twelve paths, c = 0.1")
    label(right, "block", "", "what is averaged")
    return drawn
