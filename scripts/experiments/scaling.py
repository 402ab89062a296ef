"""Real runs of parallel SGD with 1 and 2 processes, beside what the simulation of them says.

    python scripts/experiments/scaling.py --output docs/images/scaling.csv

Trains softmax regression on Fashion-MNIST under `ddp`, `LocalSGD`, `ElasticAveraging` and `Hogwild`, each
with 1 and with 2 processes of one thread, and writes how accurate they were when: the marks of
`plot scaling --measured`. It also measures what a simulation needs (the time of a step of processes that do
not exchange anything, and of an all-reduce), simulates the same runs with it, and prints how far both agree.
Times mean something on a machine that does nothing else and has a core for each process.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

METHODS = ("DDP", "LocalSGD", "ElasticAveraging", "Hogwild")
PERIOD, BATCH, POINTS = 10, 32, 20
NEVER = 10**9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=192_000, help="of all processes together")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--output", type=Path, default=Path("scaling.csv"))
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)  # method, workers, file: a process of a run
    args = parser.parse_args()
    if args.one is not None:
        method, workers, file = args.one
        train(method, int(workers), args.images, args.lr, Path(file))
        return

    from lightning_optreg.commands.plot.scaling import make_workload

    torch.set_num_threads(1)
    workload = make_workload("softmax")
    rows: list[tuple[Any, ...]] = []
    real, step = {}, {}
    for workers in (1, 2):
        step[workers] = step_time(run("alone", workers, args))
        for method in METHODS:
            found = run(method, workers, args)
            points = [
                (p["seconds"], p["images"], p["bytes"], workload.evaluate(p["weights"])[1]) for p in found
            ]
            rows += [(method, workers, *point) for point in points]
            real[method, workers] = points
            print(f"{method}, {workers}: {points[-1][0]:.1f} s, accuracy {points[-1][3]:.4f}", flush=True)
    with args.output.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("method", "workers", "seconds", "images", "bytes", "accuracy"))
        table.writerows(
            (name, n, f"{seconds:.4g}", images, size, f"{accuracy:.4f}")
            for name, n, seconds, images, size, accuracy in rows
        )
    print(args.output)
    small, large = all_reduce_seconds(8), all_reduce_seconds(1 << 22)
    latency, bandwidth = small / 2, (1 << 22) / (large - small)  # of 2 processes: 2 delays, all of the bytes
    print(
        f"step of 1 process {1000 * step[1]:.3f} ms, of 2 at a time {1000 * step[2]:.3f} ms; "
        f"give plot scaling --step_time {step[2]:.3g} --latency {latency:.3g} --bandwidth {bandwidth:.3g}"
    )
    compare(workload, real, step, latency, bandwidth, args)


def run(method: str, workers: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Train in processes of their own and return what worker 0 noted."""
    from lightning_optreg.studies.stop import StopRequest, run_processes

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "points.pt")
        command = [
            *(sys.executable, __file__, "--one", method, str(workers), str(file)),
            *("--images", str(args.images), "--lr", str(args.lr)),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with StopRequest() as stop:  # a signal to this program ends the run in order
            (status,) = run_processes(command, 1, environment, stop, stdout=subprocess.DEVNULL)
        if status != 0:
            raise SystemExit(f"{method} with {workers} processes ended with status {status}")
        points: list[dict[str, Any]] = torch.load(file)
    return points


def train(method: str, workers: int, images: int, lr: float, file: Path) -> None:
    """One of the processes of a run."""
    import logging
    import warnings
    from functools import partial

    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.strategies import DDPStrategy, Strategy

    from lightning_optreg import ImageClassifier
    from lightning_optreg.data import FashionMNISTDataModule
    from lightning_optreg.nets import SoftmaxRegression
    from lightning_optreg.strategies import ElasticAveraging, Hogwild, LocalSGD

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    strategies: dict[str, Strategy] = {
        "DDP": DDPStrategy(),
        "LocalSGD": LocalSGD(period=PERIOD),
        "ElasticAveraging": ElasticAveraging(period=PERIOD),
        "Hogwild": Hogwild(),
        "alone": LocalSGD(period=NEVER),
    }
    strategy = strategies[method]
    own_steps = images // BATCH // workers
    every = max(own_steps // POINTS // PERIOD, 1) * PERIOD

    class Notes(Callback):
        """Keeps the common weights at times when they have just been made."""

        def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
            self.points: list[dict[str, Any]] = []
            self.steps = 0
            self.begin = time.perf_counter()

        def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
            if trainer.global_rank:
                return
            elastic = isinstance(strategy, ElasticAveraging)  # its exchange is before the step
            steps = self.steps
            self.steps += 1
            if not elastic:
                steps += 1
            if steps == 0 or steps % every:
                return
            weights = list(module.parameters())
            seen = trainer.global_step if isinstance(strategy, Hogwild) else steps * workers
            size = sum(weight.nbytes for weight in weights)
            self.points.append(
                {
                    "seconds": time.perf_counter() - self.begin,
                    "images": seen * BATCH,
                    "own_steps": self.steps,
                    "bytes": steps * 2 * (workers - 1) * size  # of an all-reduce of the gradients
                    if isinstance(strategy, DDPStrategy) and not hasattr(strategy, "bytes")
                    else getattr(strategy, "bytes", 0) * workers
                    if workers > 1
                    else 0,
                    "weights": [
                        weight.detach().clone()
                        for weight in (strategy.common(weights) if elastic else weights)
                    ],
                }
            )

        def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
            if trainer.global_rank == 0:
                torch.save(self.points, file)

    trainer = Trainer(
        strategy=strategy,
        accelerator="cpu",
        devices=workers,
        max_epochs=-1,
        max_steps=images // BATCH if method == "Hogwild" else own_steps,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Notes()],
    )
    trainer.fit(
        ImageClassifier(SoftmaxRegression(), optimizer=partial(torch.optim.SGD, lr=lr)),
        FashionMNISTDataModule(batch_size=BATCH),
    )


def step_time(points: list[dict[str, Any]]) -> float:
    """Seconds of a step of one worker, after the first ones."""
    first, last = points[0], points[-1]
    return (last["seconds"] - first["seconds"]) / (last["own_steps"] - first["own_steps"])


def all_reduce_seconds(size: int) -> float:
    """Median seconds of an all-reduce of 2 processes."""
    program = (
        "import sys, time, torch, torch.distributed as dist\n"
        "rank, size, store = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]\n"
        "dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)\n"
        "x, times = torch.zeros(size // 4), []\n"
        "for _ in range(200):\n"
        "    dist.barrier(); begin = time.perf_counter(); dist.all_reduce(x)\n"
        "    times.append(time.perf_counter() - begin)\n"
        "print(sorted(times)[100])\n"
        "dist.destroy_process_group()\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        started = [
            subprocess.Popen(
                [sys.executable, "-c", program, str(rank), str(size), f"{folder}/store"],
                stdout=subprocess.PIPE,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            for rank in (0, 1)
        ]
        return float([process.communicate(timeout=120)[0] for process in started][0])  # noqa: RUF015, both end


def compare(
    workload: Any,
    real: dict[tuple[str, int], list[tuple[float, int, int, float]]],
    step: dict[int, float],
    latency: float,
    bandwidth: float,
    args: argparse.Namespace,
) -> None:
    """Simulate the same runs and print both."""
    from lightning_optreg import analysis

    methods = {
        "DDP": analysis.SimulatedDDP(),
        "LocalSGD": analysis.SimulatedLocalSGD(PERIOD),
        "ElasticAveraging": analysis.SimulatedElasticAveraging(PERIOD),
        "Hogwild": analysis.SimulatedHogwild(),
    }
    print(
        f"{'method':<18}{'workers':>8}{'seconds':>9}{'simulated':>10}{'ratio':>7}"
        f"{'accuracy':>10}{'simulated':>10}{'mean |d|':>9}{'MB':>9}{'simulated':>10}"
    )
    for (method, workers), points in real.items():
        found = analysis.simulate(
            methods[method],
            workload,
            lambda params: torch.optim.SGD(params, lr=args.lr),
            workers=workers,
            images=args.images,
            batch_size=BATCH,
            step_times=analysis.StepTimes(step[workers]),
            wires=analysis.Interconnect(latency, bandwidth),
            measurements=args.images // BATCH // workers // PERIOD,  # at every exchange
        )
        at = [
            min(found.moments[1:], key=lambda each, images=images: abs(each.images - images))
            for _, images, _, _ in points
        ]
        mean = sum(abs(a.accuracy - p[3]) for a, p in zip(at, points, strict=True)) / len(points)
        seconds, _, size, accuracy = points[-1]
        print(
            f"{method:<18}{workers:>8}{seconds:>9.2f}{at[-1].seconds:>10.2f}{at[-1].seconds / seconds:>7.2f}"
            f"{accuracy:>10.4f}{at[-1].accuracy:>10.4f}{mean:>9.4f}"
            f"{size / 1e6:>9.3f}{at[-1].bytes / 1e6:>10.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
