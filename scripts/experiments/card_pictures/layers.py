"""Pictures of the layers' cards."""

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from card_pictures.registry import picture
from card_pictures.style import BLACK, BLUE, COLORS, GREY, ORANGE, VERMILION, figure, label
from lightning_optreg.functional import (
    batch_statistics,
    gaussian_relu,
    masked_linear,
    masked_moments,
    patch_covariance,
    random_edges,
    relative_std,
    survival_probabilities,
    whitening_filters,
)
from lightning_optreg.functional import (
    gaussian_noise as add_noise,
)
from lightning_optreg.functional import (
    local_response_norm as normalized,
)
from lightning_optreg.layers import BatchNorm, Dropout


@picture
def dropout() -> Figure:
    """Activations with some set to zero, and the mean output of both forms over draws."""
    torch.manual_seed(0)
    drawn, (left, right) = figure(2)
    x = torch.rand(16) + 0.2
    y = Dropout(0.5, form="vanilla")(x)
    left.bar(range(16), x, color="0.85", label="x")
    left.bar(range(16), y, color=BLUE, label="u x")
    left.set_xticks(range(0, 16, 5))
    left.set_ylim(0, 1.5)
    label(left, "activation", "value", "vanilla, p = 0.5, one draw")
    draws = torch.arange(1, 201)
    for form, expected, color in (("inverted", "x", VERMILION), ("vanilla", "(1 - p) x", BLUE)):
        y = Dropout(0.5, form=form)(torch.ones(200))
        right.plot(
            draws,
            y.cumsum(0) / draws,
            color=color,
            label=f"{form}: mean of u x{' / (1 - p)' * (form == 'inverted')}",
        )
        right.axhline(1.0 if form == "inverted" else 0.5, color=color, linestyle=":", linewidth=1)
        right.text(
            200, (1.0 if form == "inverted" else 0.5) + 0.03, f"test: {expected}", ha="right", fontsize=8
        )
    right.set_ylim(0, 2)
    label(right, "draws", "mean output", "x = 1")
    return drawn


@picture
def drop_connect() -> Figure:
    """A unit's input over masks, and three estimates of its mean output."""
    torch.manual_seed(0)
    drawn, (left, right) = figure(2)
    v, weight = torch.rand(100), torch.randn(1, 100) / 10
    u = masked_linear(v.expand(4000, -1), weight, None, 0.5)[:, 0]
    (mu,), (s,) = (moment.flatten() for moment in masked_moments(v[None], weight, None, 0.5))
    left.hist(u.tolist(), bins=40, density=True, color=BLUE, alpha=0.6, label="4,000 masks")
    grid = torch.linspace(u.min().item(), u.max().item(), 100)
    left.plot(
        grid, torch.exp(-((grid - mu) ** 2) / (2 * s**2)) / (s * 2.5066), color=BLACK, label=r"$N(\mu, s^2)$"
    )
    label(left, "u, the input of a unit", "density", "100 weights, p = 0.5")
    left.set_ylim(0, left.get_ylim()[1] * 1.35)
    left.legend(fontsize=8, frameon=False, ncols=2, loc="upper center")
    shifts = torch.linspace(-2, 2, 41)
    draws = (u - mu)[:, None] + (shifts * s)[None]
    right.plot(
        shifts, draws.relu().mean(0), "o", color=BLUE, markersize=3, label="mean of relu(u) over masks"
    )
    right.plot(shifts, gaussian_relu(shifts * s, s.expand(41)), color=BLACK, label="closed form")
    right.plot(shifts, (shifts * s).relu(), "--", color=VERMILION, label=r"relu($\mu$)")
    label(right, r"$\mu / s$", "output", "what the layer computes at test")
    return drawn


@picture
def fractional_max_pool() -> Figure:
    """Edges of windows: three draws, and those of evaluation."""
    torch.manual_seed(1)
    drawn, axes = figure(4, height=2.0)
    for number, each in enumerate(axes):
        regions = "random" if number < 3 else "fixed"
        rows, columns = (random_edges(13, 9, regions, torch.device("cpu")).tolist() for _ in range(2))
        each.hlines(rows, 0, 13, color=BLUE, linewidth=1.2)
        each.vlines(columns, 0, 13, color=BLUE, linewidth=1.2)
        each.set_xticks(range(14), [])
        each.set_yticks(range(14), [])
        each.tick_params(length=0)
        each.spines[:].set_visible(False)
        each.set_aspect("equal")
        label(each, "", "", f"draw {number + 1}" if number < 3 else "at test")
    drawn.suptitle("13 x 13 pixels become 9 x 9: windows of one or two rows and columns", fontsize=9)
    return drawn


@picture
def stochastic_depth() -> Figure:
    """Survival probabilities of ResNet-110's blocks, and the blocks that some batches go through."""
    torch.manual_seed(0)
    drawn, (left, right) = figure(2)
    survival = torch.tensor(survival_probabilities(54, 0.5))
    blocks = torch.arange(1, 55)
    left.plot(blocks, survival, color=BLUE, label=f"$p_L = 0.5$: {survival.sum():.0f} of 54 on average")
    left.plot(blocks, survival_probabilities(54, 0.8), color=ORANGE, linestyle="--", label="$p_L = 0.8$")
    left.set_ylim(0, 1.05)
    label(left, "block $l$", "$p_l$", "probability to survive")
    for batch in range(1, 9):
        kept = blocks[torch.rand(54) < survival]
        right.plot(kept, [batch] * len(kept), "s", color=BLUE, markersize=2.6)
    right.invert_yaxis()
    label(right, "block $l$", "mini-batch", "blocks that are computed")
    return drawn


@picture
def gaussian_noise() -> Figure:
    """A noisy signal, and how the noise follows the activations."""
    torch.manual_seed(0)
    drawn, (left, right) = figure(2)
    time = torch.linspace(0, 6.28, 120)
    left.plot(time, add_noise(time.sin(), 0.2), ".", color=VERMILION, markersize=4, label=r"$x + 0.2\, z$")
    left.plot(time, time.sin(), color=BLACK, label="x")
    label(left, "", "activation", "fixed standard deviation")
    images = torch.randn(40, 3, 8, 8) * torch.linspace(0.2, 3, 40)[:, None, None, None]
    own = images.std((1, 2, 3))
    for relative_to, color, marker in (("image", BLUE, "o"), ("batch", ORANGE, "s")):
        std = (0.1 * relative_std(images, relative_to)).expand(40, 1, 1, 1).flatten()
        right.plot(own, std, marker, color=color, markersize=3, label=f"relative to the {relative_to}")
    label(right, "standard deviation of an image", "of its noise", r"$\sigma = 0.1$")
    return drawn


@picture
def local_response_norm() -> Figure:
    """Activations of channels around a strong one, before and after."""
    torch.manual_seed(2)
    drawn, (left, right) = figure(2)
    a = 20 + 60 * torch.rand(20)
    a[7] = 300.0
    b = normalized(a[None, :, None], 5, 1e-4, 0.75, 2.0).flatten()
    colors = [VERMILION if channel == 7 else BLUE for channel in range(20)]
    left.bar(range(20), a, color=colors)
    label(left, "channel", "$a_i$", "before")
    right.bar(range(20), a * 2**-0.75, color="0.85", label=r"$a_i / k^\beta$: without neighbours")
    right.bar(range(20), b, color=colors)
    label(right, "channel", "$b_i$", r"after: n = 5, $\alpha = 10^{-4}$, $\beta = 0.75$, k = 2")
    return drawn


@picture
def whitened_conv() -> Figure:
    """Filters of synthetic colour images, and covariances before and after."""
    torch.manual_seed(0)
    drawn, (left, middle, right) = figure(3, height=2.6)
    images = F.interpolate(torch.randn(200, 3, 6, 6), size=24, mode="bicubic")
    images = images + 0.8 * images.mean(1, keepdim=True) + 0.05 * torch.randn_like(images)
    images = (images - images.mean()) / images.std()
    covariance = patch_covariance(images, 2)
    filters = whitening_filters(covariance, 5e-4).float()[:12]
    mosaic = torch.full((3, 3 * 3 + 1, 4 * 3 + 1), 0.85)
    for number, each in enumerate(filters.view(12, 3, 2, 2)):
        row, column = 1 + number // 4 * 3, 1 + number % 4 * 3
        mosaic[:, row : row + 2, column : column + 2] = 0.5 + 0.5 * each / each.abs().max()
    left.imshow(mosaic.permute(1, 2, 0))
    after = filters @ covariance.float() @ filters.T
    for axes, matrix, title in ((middle, covariance, "patches"), (right, after, "responses")):
        bound = matrix.abs().max().item()
        shown = axes.imshow(matrix, cmap="RdBu_r", vmin=-bound, vmax=bound)
        axes.set_title(f"covariance: {title}", fontsize=9)
        drawn.colorbar(shown, ax=axes, shrink=0.7).ax.tick_params(labelsize=7)
    left.set_title("filters, 2 x 2 x RGB", fontsize=9)
    for axes in (left, middle, right):
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    return drawn


@picture
def batch_norm() -> Figure:
    """Distributions of channels before and after, and running averages on their way."""
    torch.manual_seed(0)
    drawn, (left, middle, right) = figure(3)
    layer = BatchNorm(4)
    scale, shift = torch.tensor([0.5, 1.0, 2.0, 0.8]), torch.tensor([-3.0, 0.0, 1.0, 4.0])
    averages = []
    for _ in range(60):
        x = shift + scale * torch.randn(4096, 4)
        y = layer(x)
        averages.append(layer.running_mean.clone())
    bins = torch.linspace(-7, 7, 57)
    centres = (bins[1:] + bins[:-1]) / 2
    for channel, (color, line) in enumerate(zip(COLORS, ("-", "--", "-.", ":"), strict=False)):
        for axes, values in ((left, x), (middle, y.detach())):
            counts = torch.histogram(values[:, channel], bins, density=True).hist
            axes.plot(centres, counts, line, color=color, linewidth=1.3)
        right.plot(torch.stack(averages)[:, channel], line, color=color)
        right.axhline(batch_statistics(x)[0][channel].item(), color=GREY, linewidth=0.6)
    label(left, "x", "density", "four channels")
    label(middle, r"$\hat{x}$", "", "normalised")
    label(right, "training step", "running mean", "momentum 0.1")
    return drawn
