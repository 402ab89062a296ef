"""What callbacks cost: training steps of ResNet-20 with each of them against the same steps without.

    python scripts/bench/callbacks.py                        # batch 128, float32
    python scripts/bench/callbacks.py --only MaxNorm L1Penalty --rounds 15
    python scripts/bench/callbacks.py --accelerator gpu --steps 100 --batch 1024

Short fits with and without the callback take turns. Printed are the median times of a step and the median,
over the rounds, of the ratio of neighbours in time. "(none)" is the measurement's own noise.
"""

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from paired import HEADER, Steps, device_name, seconds_of_a_step, take_turns
from torch.utils.data import DataLoader

from lightning_optreg import callbacks, data, nets
from lightning_optreg.runs.memory import keep_freed_memory

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


def fit(
    make: Callable[[], Callback],
    loader: DataLoader[Any],
    steps: int,
    precision: Any,
    accelerator: str,
    folder: Path,
) -> float:
    """Seconds of a step with a callback."""
    torch.manual_seed(0)
    module = Steps(nets.ResNet(10, (3, 32, 32), depth=20), torch.optim.Adam)
    return seconds_of_a_step(
        module,
        loader,
        make(),
        accelerator=accelerator,
        precision=precision,
        max_steps=steps,
        logger=CSVLogger(folder),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CALLBACKS, default=list(CALLBACKS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"])
    parser.add_argument("--accelerator", default="cpu", choices=["cpu", "gpu"])
    args = parser.parse_args()
    keep_freed_memory()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(args.batch, 3, 32, 32, generator=generator)
    labels = torch.randint(0, 10, (args.batch,), generator=generator)
    loader: DataLoader[Any] = DataLoader([(images, labels)] * args.steps, batch_size=None)
    print(
        f"ResNet-20, batch {args.batch}, {args.precision}, {device_name(args.accelerator)}, "
        f"{args.rounds} rounds of {args.steps} steps"
    )
    print(HEADER)
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only:
            row = take_turns(
                lambda make: fit(make, loader, args.steps, args.precision, args.accelerator, Path(folder)),
                CALLBACKS[name],
                args.rounds,
                digits=1,
            )
            print(f"{name:26}{row}", flush=True)


if __name__ == "__main__":
    main()
