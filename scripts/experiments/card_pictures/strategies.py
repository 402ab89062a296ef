"""Pictures of the strategies' cards, by the simulator of parallel training and by the update rules."""

from functools import partial
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from torch.optim import SGD, Adagrad

from card_pictures.registry import picture
from card_pictures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION, figure, label
from lightning_optreg.nets import MLP
from lightning_optreg.parallel import (
    Delays,
    DownpourServer,
    DownpourWorker,
    elastic_difference,
    move_centre,
    outer_step,
    pull_worker,
)
from lightning_optreg.strategies import tensor_parallel_plan

SCALES = torch.tensor([0.1, 1.0])  # the curvatures of the bowl that all workers descend


def gradient(point: Tensor, generator: torch.Generator, noise: float = 1.0) -> Tensor:
    """The gradient of half of x^T diag(0.1, 1) x, with noise."""
    return SCALES * point + noise * torch.randn(2, generator=generator)


def start(workers: int) -> list[Tensor]:
    """Where each worker begins."""
    return [torch.tensor([-6.0, 2.0]) for _ in range(workers)]


def draw(axes: Axes, paths: list[Tensor], common: Tensor, title: str, name: str) -> None:
    """The workers' ways and that of what they have in common."""
    for number, (way, color) in enumerate(zip(paths, (BLUE, GREEN, ORANGE, PURPLE), strict=False)):
        axes.plot(*way.T, color=color, linewidth=0.8, alpha=0.8, label="workers" if number == 0 else None)
    axes.plot(*common.T, "o-", color="black", markersize=3, linewidth=1.2, label=name)
    axes.plot(0, 0, "*", color=VERMILION, markersize=10)
    label(axes, "$x$", "$y$", title)


def local(period: int, steps: int, outer: Any = None, lr: float = 0.15) -> tuple[list[Tensor], Tensor]:
    """Local SGD with four workers."""
    generator = torch.Generator().manual_seed(1)
    workers, common = start(4), torch.tensor([-6.0, 2.0])
    optimizer = None if outer is None else outer([common])
    ways: list[list[Tensor]] = [[x.clone()] for x in workers]
    means = [common.clone()]
    for step in range(1, steps + 1):
        for x, way in zip(workers, ways, strict=True):
            x -= lr * gradient(x, generator)
            way.append(x.clone())
        if step % period == 0:
            outer_step([common], [torch.stack(workers).mean(0)], optimizer)
            means.append(common.detach().clone())
            for x, way in zip(workers, ways, strict=True):
                x.copy_(common)
                way.append(x.clone())
    return [torch.stack(way) for way in ways], torch.stack(means)


@picture
def local_sgd() -> Figure:
    """Four workers that average every ten steps, and with an outer optimizer."""
    drawn, (left, right) = figure(2)
    draw(left, *local(10, 60), "local SGD, period 10", "mean")
    outer = partial(SGD, lr=0.7, momentum=0.6, nesterov=True)
    draw(right, *local(10, 60, outer), "DiLoCo, period 10", "common weights")
    return drawn


@picture
def elastic_averaging() -> Figure:
    """Four workers on springs, soft and stiff."""
    drawn, axes = figure(2)
    for each, beta in zip(axes, (0.2, 0.9), strict=True):
        generator = torch.Generator().manual_seed(1)
        workers, centre = start(4), torch.tensor([-6.0, 2.0])
        ways: list[list[Tensor]] = [[x.clone()] for x in workers]
        centres = [centre.clone()]
        for step in range(80):
            steps = [0.2 * gradient(x, generator) for x in workers]
            if step % 5 == 0:
                pulls = [elastic_difference([x], [centre], beta / 4) for x in workers]
                move_centre([centre], [torch.stack(workers).mean(0)], beta)
                centres.append(centre.clone())
                for x, pull in zip(workers, pulls, strict=True):
                    pull_worker([x], pull)
            for x, change, way in zip(workers, steps, ways, strict=True):
                x -= change
                way.append(x.clone())
        draw(
            each,
            [torch.stack(way) for way in ways],
            torch.stack(centres),
            rf"$\beta = {beta}$, period 5",
            "centre",
        )
    return drawn


@picture
def downpour() -> Figure:
    """The loss under a server whose workers push late gradients, by how often they fetch."""
    drawn, (left, right) = figure(2)
    for fetch, color in ((1, BLUE), (5, GREEN), (20, VERMILION)):
        delays, values = run_downpour(fetch)
        left.plot(range(0, len(values), 6), values[::6], color=color, linewidth=1, label=f"n_fetch = {fetch}")
        bounds = range(0, 200, 4)
        shares = [100 * sum(n for delay, n in delays.counts() if delay <= bound) / 600 for bound in bounds]
        right.plot(bounds, shares, color=color, linewidth=1.2)
    left.set_yscale("log")
    label(left, "updates of the server", "loss", "8 workers, Adagrad on the server")
    label(right, "delay", "% of updates with at most it", "how many updates old a gradient is")
    return drawn


def run_downpour(fetch: int, workers: int = 8, updates: int = 600) -> tuple[Delays, list[float]]:
    """The delays and the losses of simulated workers, who take turns at random."""
    generator = torch.Generator().manual_seed(0)
    theta = torch.tensor([-6.0, 2.0])
    server = DownpourServer(Adagrad([theta], lr=0.5))
    replicas = [torch.tensor([-6.0, 2.0]) for _ in range(workers)]
    clients = [DownpourWorker([w], n_push=1, n_fetch=fetch) for w in replicas]
    delays, values = Delays(), []
    for number, w in enumerate(replicas):
        w.copy_(server.fetch(number)[0].detach())
    for _ in range(updates):
        number = int(torch.randint(workers, (1,), generator=generator))
        client, w = clients[number], replicas[number]
        pushed, fetches = client.step([gradient(w, generator, 0.3)], [0.05])
        if pushed is not None:
            delays.add(server.push(number, pushed))
        if fetches:
            w.copy_(server.fetch(number)[0].detach())
        values.append((SCALES * theta.detach().square()).sum().item() / 2)
    return delays, values


@picture
def hogwild() -> Figure:
    """How often two steps of sparse gradients meet, by the number of coordinates and workers."""
    drawn, (left, right) = figure(2)
    generator = torch.Generator().manual_seed(0)
    sizes = (100, 1_000, 10_000, 100_000)
    for workers, color in ((2, BLUE), (8, GREEN), (32, VERMILION)):
        shares = [share_of_overlaps(size, 20, workers, generator) for size in sizes]
        left.loglog(sizes, shares, "o-", color=color, label=f"{workers} workers")
    label(left, "weights", "share of written weights", "written by two at once, 20 in a step")
    for workers, color in ((1, GREY), (8, BLUE)):
        right.semilogy(
            stale_descent(workers), color=color, linewidth=1.2, label=f"{workers} worker{'s' * (workers > 1)}"
        )
    label(right, "steps of all", "loss", "sparse least squares")
    return drawn


def share_of_overlaps(size: int, non_zeros: int, workers: int, generator: torch.Generator) -> float:
    """The share of the weights written in one round that are written more than once; 50 rounds."""
    shared = written = 0
    for _ in range(50):
        rows = torch.stack([torch.randint(size, (non_zeros,), generator=generator) for _ in range(workers)])
        counts = rows.unique(return_counts=True)[1]
        shared += int((counts > 1).sum())
        written += len(counts)
    return max(shared / written, 1e-5)


def stale_descent(workers: int, steps: int = 800) -> list[float]:
    """SGD on sparse least squares, where each worker reads before the others of its round have written."""
    generator = torch.Generator().manual_seed(0)
    truth, x = torch.randn(500, generator=generator), torch.zeros(500)
    values = []
    for _ in range(steps // workers):
        rows = [torch.randperm(500, generator=generator)[:10] for _ in range(workers)]
        errors = [(x[row] - truth[row]).sum() for row in rows]
        for row, error in zip(rows, errors, strict=True):
            x[row] -= 0.1 * error
            values.append((x - truth).square().mean().item())
    return values


@picture
def pipeline() -> Figure:
    """The timetable of three stages and six micro-batches, and the share of a step that is idle."""
    drawn, (left, right) = figure(2)
    stages, batches = 3, 6
    for stage in range(stages):
        for number in range(batches):
            left.barh(stage, 1, left=stage + number, color=BLUE, edgecolor="white", height=0.8)
            back = batches + stages - 1 + 2 * (stages - 1 - stage) + 2 * number
            left.barh(stage, 2, left=back, color=ORANGE, edgecolor="white", height=0.8)
            left.text(
                stage + number + 0.5,
                stage,
                str(number + 1),
                ha="center",
                va="center",
                fontsize=7,
                color="white",
            )
            left.text(back + 1, stage, str(number + 1), ha="center", va="center", fontsize=7)
    left.barh(0, 0, color=BLUE, label="forward")
    left.barh(0, 0, color=ORANGE, label="backward")
    left.set_yticks(range(stages), [f"stage {k + 1}" for k in range(stages)])
    left.set_ylim(stages + 0.2, -0.6)
    left.grid(visible=False)
    label(left, "time", "", "GPipe, 6 micro-batches")
    counts = torch.arange(1, 33)
    for number, color in ((2, BLUE), (4, GREEN), (8, VERMILION)):
        right.plot(counts, 100 * (number - 1) / (counts + number - 1), color=color, label=f"{number} stages")
    label(right, "micro-batches $m$", "idle, % of a step", "$(P - 1) / (m + P - 1)$")
    return drawn


@picture
def tensor_parallel() -> Figure:
    """Which part of each weight matrix of an MLP one of two processes holds."""
    net = MLP(hidden=[256, 128])
    plan = tensor_parallel_plan(net)
    drawn, axes = figure(len(plan), width=6.4, height=2.4)
    for each, (name, style) in zip(axes, plan.items(), strict=True):
        rows, columns = net.get_submodule(name).weight.shape
        by_rows = type(style).__name__ == "ColwiseParallel"
        each.axis("off")
        each.set_xlim(-0.05, 1.05)
        each.set_ylim(1.05, -0.05)
        halves = (((0, 0), 1, 0.5), ((0, 0.5), 1, 0.5)) if by_rows else (((0, 0), 0.5, 1), ((0.5, 0), 0.5, 1))
        for number, ((x, y), width, height) in enumerate(halves):
            each.add_patch(
                Rectangle((x, y), width, height, color=(BLUE, ORANGE)[number], label=f"process {number}")
            )
        each.set_title(f"{name}: {rows} x {columns},\nby {'rows' if by_rows else 'columns'}", fontsize=9)
    axes[0].legend(fontsize=8, loc="center")
    return drawn
