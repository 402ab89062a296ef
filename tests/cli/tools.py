"""What the tests of the command line share."""

from pathlib import Path
from typing import Any

import torch
import yaml

# Options of a run that takes a fraction of a second, apart from its data and its root.
SHORT = [
    "--data.verify_checksum=false",
    "--data.batch_size=8",
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
    "--trainer.limit_predict_batches=1",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]


def short(data: Path, root: Path, net: str = "SoftmaxRegression") -> list[str]:
    """Options of a short run on a small Fashion-MNIST."""
    return [
        "--data=FashionMNISTDataModule",
        f"--data.data_dir={data}",
        f"--model.net={net}",
        f"--trainer.default_root_dir={root}",
        *SHORT,
    ]


def read(path: Path) -> dict[str, Any]:
    """A configuration file."""
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    return config


def load(path: Path) -> dict[str, Any]:
    """A checkpoint."""
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    return checkpoint
