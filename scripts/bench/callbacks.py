"""What callbacks cost: training steps of ResNet-20 with each of them against the same steps without.

    python scripts/bench/callbacks.py                        # batch 128, float32
    python scripts/bench/callbacks.py --only MaxNorm L1Penalty --rounds 15

Short fits with and without the callback take turns. Printed are the median times of a step and the median,
over the rounds, of the ratio of neighbours in time. "(none)" is the measurement's own noise.
"""

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_optreg import callbacks, data, nets
from lightning_optreg.cli.memory import keep_freed_memory

CALLBACKS: dict[str, Callable[[], Callback]] = {
    "(none)": Callback,
    "AdamToSGD": lambda: callbacks.AdamToSGD(at_step=10**9),
    "AdamToSGD, by projection": callbacks.AdamToSGD,
    "BatchAugmentation, erasing": lambda: callbacks.BatchAugmentation([data.RandomErasing()]),
    "BatchSizeGrowth": lambda: callbacks.BatchSizeGrowth([1000]),
    "CutMix": lambda: callbacks.CutMix(num_classes=10),
    "EarlyStopping": lambda: callbacks.EarlyStopping("loss", strict=False, restore_best=True),
    "ElasticNet": callbacks.ElasticNet,
    "ExactResume": callbacks.ExactResume,
    "GradientNoise": callbacks.GradientNoise,
    "L1Penalty": callbacks.L1Penalty,
    "L1Penalty, proximal": lambda: callbacks.L1Penalty(proximal=True),
    "L2Penalty": callbacks.L2Penalty,
    "LabelSmoothing": lambda: callbacks.LabelSmoothing(num_classes=10),
    "MaxNorm": callbacks.MaxNorm,
    "MixUp": lambda: callbacks.MixUp(num_classes=10),
    "NaNGuard": callbacks.NaNGuard,
    "NaNGuard, skipping": lambda: callbacks.NaNGuard("skip"),
    "NoisyEnsemble": callbacks.NoisyEnsemble,
    "SnapshotEnsemble": lambda: callbacks.SnapshotEnsemble(1, folder=tempfile.mkdtemp()),
    "Throughput": callbacks.Throughput,
}


class Steps(LightningModule):
    """A network on the same batch again and again."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-4)


class Clock(Callback):
    """When each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *args: Any) -> None:
        self.times.append(time.perf_counter())

    def seconds(self) -> float:
        """Mean seconds of a step, from the end of the second to that of the last."""
        return (self.times[-1] - self.times[1]) / (len(self.times) - 2)


def fit(
    make: Callable[[], Callback], loader: DataLoader[Any], steps: int, precision: Any, folder: Path
) -> float:
    """Seconds of a step with a callback."""
    torch.manual_seed(0)
    clock = Clock()
    trainer = Trainer(
        accelerator="cpu",
        precision=precision,
        max_steps=steps,
        callbacks=[make(), clock],
        logger=CSVLogger(folder),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Steps(nets.ResNet(10, (3, 32, 32), depth=20)), loader)
    return clock.seconds()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CALLBACKS, default=list(CALLBACKS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"])
    args = parser.parse_args()
    keep_freed_memory()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(args.batch, 3, 32, 32, generator=generator)
    labels = torch.randint(0, 10, (args.batch,), generator=generator)
    loader: DataLoader[Any] = DataLoader([(images, labels)] * args.steps, batch_size=None)
    print(
        f"ResNet-20, batch {args.batch}, {args.precision}, {torch.get_num_threads()} threads, "
        f"{args.rounds} rounds of {args.steps} steps"
    )
    print(f"{'':26}{'without, ms':>12}{'with, ms':>12}{'ratio':>8}{'spread of ratios':>20}")
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only:
            pairs = []
            for index in range(args.rounds + 1):
                makes = [Callback, CALLBACKS[name]]
                order = makes if index % 2 == 0 else makes[::-1]
                times = [fit(make, loader, args.steps, args.precision, Path(folder)) for make in order]
                pairs.append(times if index % 2 == 0 else times[::-1])
            pairs = pairs[1:]  # the first warms up
            ratios = sorted(with_it / without for without, with_it in pairs)
            medians = [1e3 * statistics.median(column) for column in zip(*pairs, strict=True)]
            quartiles = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
            print(
                f"{name:26}{medians[0]:12.1f}{medians[1]:12.1f}{statistics.median(ratios):8.3f}"
                f"{quartiles[0]:12.3f} - {quartiles[1]:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
