"""Pictures of the callbacks' cards: gradients, weights and the data that a step sees."""

import itertools

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor
from torchvision.transforms import v2

from card_pictures.data import applied, copies, landscape
from card_pictures.registry import picture
from card_pictures.style import (
    BLACK,
    BLUE,
    COLORS,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY_BLUE,
    VERMILION,
    figure,
    label,
    show_images,
)
from lightning_optreg.callbacks import BatchSizeGrowth
from lightning_optreg.callbacks.steps.batch_size_growth import noise_scale
from lightning_optreg.data import Pacing, RandomCrop, RandomErasing, RandomHorizontalFlip, TenCrop
from lightning_optreg.functional import (
    cosine_factor,
    cycle_ends,
    generalization_loss,
    noise_std,
    progress_quotient,
    project,
    proximal_map,
    smooth,
    successive_rises,
    training_progress,
    unit_norms,
)
from lightning_optreg.optimizers import RateEstimate


@picture
def adam_to_sgd() -> Figure:
    """The estimate of SGD's rate while Adam minimises a noisy quadratic."""
    torch.manual_seed(0)
    drawn, (left, right) = figure(2)
    curvature = torch.linspace(0.5, 2.0, 200)
    point = torch.randn(200, requires_grad=True)
    adam, estimate, tolerance = torch.optim.Adam([point], lr=0.005), RateEstimate(), 1e-6
    gammas, averages, losses, settled = [], [], [], None
    for step in range(1, 401):
        point.grad = curvature * point.detach() + 0.3 * torch.randn(200)
        before = point.detach().clone()
        adam.step()
        p = point.detach() - before
        gamma = estimate.update(float(p @ p), float(p @ point.grad), beta2=0.999)
        gammas.append(gamma)
        averages.append(estimate.rate(beta2=0.999))
        losses.append(float(curvature @ point.detach() ** 2) / 2)
        if settled is None and step > 1 and estimate.has_settled(gamma, beta2=0.999, tolerance=tolerance):
            settled = step
    steps = range(1, 401)
    left.plot(steps, gammas, color=SKY_BLUE, linewidth=0.8, label=r"$\gamma_k$")
    left.plot(steps, averages, color=BLUE, label=r"$\Lambda_k$, its average")
    right.semilogy(steps, losses, color=BLUE)
    for axes in (left, right):
        if settled is not None:
            axes.axvline(settled, color=VERMILION, linestyle="--", linewidth=1)
    left.text((settled or 0) + 8, min(gammas), "settled", color=VERMILION, fontsize=8)
    label(left, "step $k$ of Adam", "learning rate of SGD", r"$\epsilon = 10^{-6}$")
    label(right, "step $k$ of Adam", "loss", "where the switch would be")
    return drawn


@picture
def batch_size_growth() -> Figure:
    """Batch, rate and noise scale over the epochs, by both ways."""
    drawn, axes = figure(3, height=2.4)
    growth, epochs = BatchSizeGrowth([60, 120, 160], factor=5), range(200)
    batch = [128 * growth.growth(epoch) for epoch in epochs]
    rate = [0.1 / growth.growth(epoch) for epoch in epochs]
    for values, lines in (
        (batch, ((batch, VERMILION, "-"), ([128] * 200, BLUE, "--"))),
        (rate, (([0.1] * 200, VERMILION, "-"), (rate, BLUE, "--"))),
    ):
        for line, color, form in lines:
            axes[0 if values is batch else 1].semilogy(epochs, line, form, color=color)
    growing = [noise_scale(0.1, size, 50_000, 0.9) for size in batch]
    falling = [noise_scale(lr, 128, 50_000, 0.9) for lr in rate]
    axes[2].semilogy(epochs, growing, color=VERMILION, label="batch x 5")
    axes[2].semilogy(epochs, falling, "--", color=BLUE, label="rate / 5")
    for each, name in zip(axes, ("batch", "learning rate", "noise scale $g$"), strict=True):
        label(each, "epoch", "", name)
    return drawn


@picture
def curriculum() -> Figure:
    """Shares of the seven pacing functions."""
    drawn, (axes,) = figure(width=5.4)
    batches = range(0, 601, 2)
    names = ("step", "linear", "quadratic", "root", "log", "exponential", "staircase")
    for name, color, line in zip(names, COLORS, ("-", "--", "-.", ":", "-", "--", "-"), strict=True):
        pacing = Pacing(name, start=0.2, full_at=500)  # type: ignore[arg-type]
        axes.plot(batches, [pacing.share(batch) for batch in batches], line, color=color, label=name)
    axes.axvline(500, color=GREY, linewidth=0.6)
    axes.set_ylim(0, 1.05)
    axes.set_xlim(0, 900)
    label(axes, "batch $t$", "$g(t) / N$", "start = 0.2, all images from batch 500 on")
    return drawn


@picture
def mix_up() -> Figure:
    """Two images, their mixtures, and the density of lambda."""
    torch.manual_seed(1)
    drawn, axes = figure(5, height=1.8, width=7.4)
    first = landscape()
    second = first.flip(-1).flip(0)
    pair, labels = torch.stack((first, second)), torch.tensor([0, 1])
    mixed, share = v2.MixUp(alpha=1.0, num_classes=2)(pair, labels)
    cut, part = v2.CutMix(alpha=1.0, num_classes=2)(pair, labels)
    titles = [
        "$x_i$",
        "$x_j$",
        rf"MixUp, $\lambda$ = {share[0, 0]:.2f}",
        rf"CutMix, $\lambda$ = {part[0, 0]:.2f}",
    ]
    show_images(axes, torch.stack((first, second, mixed[0], cut[0])), titles)
    grid = torch.linspace(0.01, 0.99, 99)
    for alpha, color, line in ((0.2, VERMILION, "--"), (1.0, BLUE, "-"), (4.0, GREEN, ":")):
        density = torch.distributions.Beta(alpha, alpha).log_prob(grid).exp()
        axes[4].plot(grid, density, line, color=color, label=rf"$\alpha$ = {alpha:g}")
    axes[4].set_ylim(0, 4.5)
    label(axes[4], r"$\lambda$", "density")
    return drawn


@picture
def differential_privacy() -> Figure:
    """Gradients of examples, clipped, and the noise that hides one of them."""
    torch.manual_seed(1)
    drawn, (left, right) = figure(2)
    gradients = torch.randn(40, 2) * 1.2 + torch.tensor([0.8, 0.3])
    clipped = gradients * (1 / gradients.norm(dim=1, keepdim=True)).clamp(max=1)
    for before, after in zip(gradients, clipped, strict=True):
        left.plot(*torch.stack((before, after)).T, color="0.8", linewidth=0.7)
    left.plot(*gradients.T, ".", color=ORANGE, label="$g_i$")
    left.plot(*clipped.T, ".", color=BLUE, label="clipped")
    left.add_patch(Circle((0, 0), 1, fill=False, color=BLACK, linewidth=0.8))
    left.set_aspect("equal", "datalim")
    label(left, "", "", "gradients of 40 examples, C = 1")
    grid = torch.linspace(-4, 5, 200)
    for mean, color, line, name in (
        (0.0, BLUE, "-", "without it"),
        (1.0, VERMILION, "--", "with one more example"),
    ):
        density = torch.distributions.Normal(mean, 1.0).log_prob(grid).exp()
        right.plot(grid, density, line, color=color, label=name)
    right.set_ylim(0, 0.6)
    label(right, "sum along one direction, in C", "density", r"noise of $\sigma = 1$")
    return drawn


@picture
def early_stopping() -> Figure:
    """Where each criterion stops on one run of errors."""
    torch.manual_seed(3)
    drawn, (axes,) = figure(width=6.0)
    t = torch.arange(1, 81)
    train = 0.9 * torch.exp(-t / 18) + 0.12
    errors = (
        0.30
        + 0.7 * torch.exp(-t / 9)
        + 0.0025 * (t - 22).clamp(min=0)
        - 0.06 * torch.exp(-(((t - 34) / 4) ** 2))
    )
    errors = (errors + 0.012 * torch.randn(80)).tolist()
    lowest = list(itertools.accumulate(errors, min))
    gl = [generalization_loss(e, low) for e, low in zip(errors, lowest, strict=True)]
    ends = range(4, 80, 5)
    stops = {
        "GL, $\\alpha = 5$": next(i for i in range(80) if gl[i] > 5 and i > 8),
        "PQ, $\\alpha = 0.5$": next(
            i
            for i in ends
            if i > 8 and progress_quotient(gl[i], training_progress(train[i - 4 : i + 1].tolist())) > 0.5
        ),
        "UP, s = 3": next(i for i in ends if successive_rises([errors[j] for j in ends if j <= i]) >= 3),
        "patience 10": next(i for i in range(80) if lowest[i] == lowest[i - 10] and i >= 10),
    }
    axes.plot(t, errors, color=BLACK, linewidth=1.2, label="validation error")
    axes.plot(t, train, ":", color=GREY, label="training error")
    best = min(range(80), key=errors.__getitem__)
    axes.plot(best + 1, errors[best], "*", color=GREEN, markersize=11, label="best", linestyle="none")
    for (name, stop), color, marker in zip(
        stops.items(), (BLUE, VERMILION, PURPLE, ORANGE), "os^D", strict=True
    ):
        axes.plot(
            stop + 1,
            errors[stop],
            marker,
            color=color,
            markersize=6,
            linestyle="none",
            label=f"{name}: {stop + 1}",
        )
    axes.set_ylim(0, 1)
    label(axes, "validation $t$", "error")
    return drawn


@picture
def penalties() -> Figure:
    """Penalties, their proximal maps, and weights against lambda."""
    torch.manual_seed(0)
    drawn, (left, middle, right) = figure(3, height=2.5)
    w = torch.linspace(-1.5, 1.5, 121)
    for values, color, line, name in (
        (w.abs(), BLUE, "-", "L1"),
        (w**2, VERMILION, "--", "L2"),
        (w.abs() + w**2, GREEN, ":", r"elastic, $\beta = 1$"),
    ):
        left.plot(w, values, line, color=color, label=name)
    for l1, l2, color, line in ((0.5, 0.0, BLUE, "-"), (0.0, 0.5, VERMILION, "--"), (0.5, 0.5, GREEN, ":")):
        mapped = w.clone()
        proximal_map(mapped, l1, l2)
        middle.plot(w, mapped, line, color=color)
    inputs = torch.randn(200, 6) @ (torch.eye(6) + 0.3)
    targets = inputs @ torch.tensor([2.0, -1.5, 0.8, 0.0, 0.0, 0.3]) + 0.5 * torch.randn(200)
    lambdas = torch.logspace(-2, 1, 25)
    paths = torch.stack([lasso(inputs, targets, strength) for strength in lambdas.tolist()])
    for number, color in enumerate(COLORS[:6]):
        right.semilogx(lambdas, paths[:, number], color=color, linewidth=1.2)
    left.set_ylim(0, 5)
    label(left, "$w$", "$R(w)$", "penalty")
    label(middle, "$w$", "", "proximal map, $\\eta\\lambda = 1/2$")
    label(right, r"$\lambda$", "", "weights, L1 with proximal")
    return drawn


def lasso(inputs: Tensor, targets: Tensor, strength: float) -> Tensor:
    """Weights of a linear model with an L1 penalty, by proximal gradient steps."""
    weight = torch.zeros(inputs.shape[1])
    for _ in range(500):
        weight -= 0.02 * inputs.T @ (inputs @ weight - targets) / len(inputs)
        proximal_map(weight, 0.02 * strength, 0.0)
    return weight


@picture
def max_norm() -> Figure:
    """The projection of weight vectors, and norms over a training with and without it."""
    torch.manual_seed(0)
    drawn, (left, right) = figure(2)
    before = 3 * torch.randn(14, 2)
    after = before.clone()
    project(after, 2.0)
    for pair in zip(before, after, strict=True):
        left.plot(*torch.stack(pair).T, color="0.7", linewidth=0.8)
    left.plot(*before.T, "o", color=ORANGE, markersize=4, label="after the step")
    left.plot(*after.T, "o", color=BLUE, markersize=4, label="projected")
    left.add_patch(Circle((0, 0), 2, fill=False, color=BLACK, linewidth=0.8))
    left.set_aspect("equal", "datalim")
    left.set_xlim(-8, 8)
    label(left, "", "", "units with two weights, c = 2")
    for bound, color, line in ((float("inf"), VERMILION, "--"), (2.0, BLUE, "-")):
        norms = norms_in_training(bound)
        for unit in range(4):
            name = ("no bound" if bound > 9 else "c = 2") if unit == 0 else None
            right.plot(norms[:, unit], line, color=color, linewidth=1, label=name)
    label(right, "step", r"$\Vert w_j \Vert$", "four units of a small network")
    return drawn


def norms_in_training(bound: float, steps: int = 150) -> Tensor:
    """Norms of the units of a hidden layer over steps of SGD at a high rate, (steps, units)."""
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(10, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    x = torch.randn(64, 10)
    y = (x[:, 0] * x[:, 1] > 0).long()
    sgd = torch.optim.SGD(net.parameters(), lr=1.0)
    norms = []
    for _ in range(steps):
        sgd.zero_grad()
        F.cross_entropy(net(x), y).backward()
        sgd.step()
        with torch.no_grad():
            project(net[0].weight, bound)
        norms.append(unit_norms(net[0].weight.detach()).flatten())
    return torch.stack(norms)


@picture
def gradient_noise() -> Figure:
    """How the noise fades, and how it leaves a saddle."""
    torch.manual_seed(0)
    drawn, (left, right) = figure(2)
    steps = range(1000)
    for eta, color, line in ((1.0, VERMILION, "--"), (0.3, ORANGE, "-."), (0.01, BLUE, "-")):
        left.loglog(
            [t + 1 for t in steps],
            [noise_std(t, eta) for t in steps],
            line,
            color=color,
            label=rf"$\eta$ = {eta:g}",
        )
    for eta, color, line in ((0.0, BLACK, ":"), (0.01, BLUE, "-")):
        for start in range(1 if eta == 0 else 4):
            x, values = 0.0, []
            for t in range(150):
                values.append(x**4 / 4 - x**2 / 2)
                x -= 0.05 * (x**3 - x + noise_std(t, eta) * torch.randn(()).item() * (eta > 0))
            name = None if start else ("without noise" if eta == 0 else r"four runs, $\eta$ = 0.01")
            right.plot(values, line, color=color, linewidth=1.2, label=name)
    label(left, "step $t$ + 1", r"$\sigma_t$", r"$\gamma = 0.55$")
    label(right, "step", "loss", "$x^4/4 - x^2/2$ from its saddle, $x = 0$")
    return drawn


@picture
def label_smoothing() -> Figure:
    """Smoothed targets, and the loss that has a minimum at a finite lead."""
    drawn, (left, right) = figure(2)
    one_hot = torch.eye(10)[3:4]
    left.bar(range(10), smooth(one_hot, 0.2)[0], color=BLUE, label=r"$\epsilon = 0.2$")
    left.step([2.5, 2.5, 3.5, 3.5], [0, 1, 1, 0], color=BLACK, linewidth=1, label="one-hot")
    label(left, "class", "target")
    lead = torch.linspace(0, 12, 121)
    scores = one_hot * lead[:, None]
    for epsilon, color, line in ((0.0, BLACK, ":"), (0.1, VERMILION, "--"), (0.2, BLUE, "-")):
        losses = F.cross_entropy(scores, smooth(one_hot, epsilon).expand(121, -1), reduction="none")
        right.plot(lead, losses, line, color=color, label=rf"$\epsilon$ = {epsilon:g}")
        if epsilon:
            right.plot(lead[losses.argmin()], losses.min(), "o", color=color)
    label(right, "lead of the true class's score", "loss", "ten classes")
    return drawn


@picture
def snapshot_ensemble() -> Figure:
    """The cyclic rate, and a noisy descent that comes to rest in a minimum at the end of each cycle."""
    torch.manual_seed(2)
    drawn, (left, right) = figure(2)
    ends = cycle_ends(1000, 5)
    factors = [cosine_factor(step, ends) for step in range(1000)]
    left.plot(range(1000), factors, color=BLUE)
    left.plot(ends, [0] * 5, "o", color=VERMILION, label="snapshot")
    left.set_ylim(-0.06, 1.25)
    label(left, "step", r"$\alpha(t) / \alpha_0$", "M = 5 cycles")
    x, found = 2.6, []
    for step in range(1000):
        slope = 3 * torch.tensor(3 * x).cos().item() + 0.2 * x
        x -= 0.12 * factors[step] * (slope + 4 * torch.randn(()).item())
        if step + 1 in ends:
            found.append(x)
    grid = torch.linspace(-4, 4, 200)
    right.plot(grid, (3 * grid).sin() + 0.1 * grid**2, color=BLACK, linewidth=1)
    for number, each in enumerate(found, start=1):
        height = torch.tensor(3 * each).sin().item() + 0.1 * each**2
        right.plot(each, height, "o", color=VERMILION)
        right.annotate(
            str(number), (each, height), xytext=(5, -9 + 2 * number), textcoords="offset points", fontsize=8
        )
    label(right, "weight", "loss", "where the five cycles ended")
    return drawn


@picture
def test_time_augmentation() -> Figure:
    """A picture and its ten crops."""
    drawn, axes = figure(11, height=0.95, width=8.2)
    image = landscape(64)[None]
    crops = torch.cat(list(TenCrop(48)(image)))
    show_images(axes[:1], image, ["image"])
    show_images(axes[1:], crops, ["centre", "corners", "", "", "", "mirrored", *[""] * 4])
    return drawn


@picture
def batch_augmentation() -> Figure:
    """A batch before and after three transforms."""
    drawn, axes = figure(8, 2, height=2.1, width=7.0)
    images = copies(8)
    images[1::2] = images[1::2].flip(1)
    changed = images
    for transform in (RandomCrop(padding=6), RandomHorizontalFlip(), RandomErasing(0.5)):
        changed = applied(transform, changed, seed=6)
    show_images(axes[:8], images, ["a batch", *[""] * 7])
    show_images(axes[8:], changed, ["the step gets", *[""] * 7])
    return drawn
