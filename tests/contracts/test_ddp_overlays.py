"""The command line with each overlay of configs/methods: one process and two end with the same weights."""

from pathlib import Path

import pytest
import torch

from lightning_optreg.__main__ import main
from tests.processes import in_processes, needs_gloo

pytestmark = [pytest.mark.slow, needs_gloo]

CONFIGS = Path(__file__).parents[2] / "configs"
STRATEGIES = "it has a strategy of its own"
NOT_COMPARED = {
    "async_elastic_averaging": STRATEGIES,
    "batch_norm_recalibration": "batch normalisation, see test_ddp_numbers",
    "bf16": "it is a precision, and rounding is taken out here by another one",
    "compile": "it takes a minute",
    "diloco": STRATEGIES,
    "downpour": STRATEGIES,
    "elastic_averaging": STRATEGIES,
    "hogwild": STRATEGIES,
    "local_sgd": STRATEGIES,
    "lr_finder": "it looks at the losses of the first process, and finds another rate there",
    "noise_marginalization": "noise layers, see test_ddp_numbers",
    "noisy_ensemble": "noise, see test_ddp_numbers",
    "pipeline": STRATEGIES,
}
OVERLAYS = [path.stem for path in sorted(CONFIGS.glob("methods/*.yaml")) if path.stem not in NOT_COMPARED]


def fit(overlay: str, folder: Path, data: str, processes: int) -> None:
    files = [CONFIGS / "fashion_mnist" / "lenet5.yaml", CONFIGS / "methods" / f"{overlay}.yaml"]
    if overlay == "histograms":  # after a logger that draws them
        files.insert(1, CONFIGS / "methods" / "tensorboard.yaml")
    status = main(
        [
            "fit",
            *(f"--config={file}" for file in files),
            f"--trainer.default_root_dir={folder / overlay / str(processes)}",
            "--trainer.accelerator=cpu",
            f"--trainer.devices={processes}",
            "--oversubscribe=true",  # wherever the tests run
            *(["--trainer.strategy=ddp"] if processes > 1 else []),
            # Without it rounding may grow to any size, at rates as high as these.
            "--trainer.precision=64-true",
            f"--trainer.max_epochs={11 if overlay == 'batch_size_growth' else 4}",
            "--trainer.limit_train_batches=4",
            "--trainer.limit_val_batches=1",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            "--trainer.log_every_n_steps=1",
            f"--data.data_dir={data}",
            "--data.verify_checksum=false",
            f"--data.batch_size={32 // processes}",
        ]
    )
    assert status == 0


def fit_all(rank: int, folder: Path) -> None:
    """What each of the two processes does."""
    for overlay in OVERLAYS:
        fit(overlay, folder, (folder / "data").read_text(), 2)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, fashion_mnist_dir: Path) -> Path:
    """Folder with the runs of two processes. One start for all overlays."""
    folder = tmp_path_factory.mktemp("overlays")
    (folder / "data").write_text(str(fashion_mnist_dir))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        in_processes(2, fit_all, folder)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    saved: dict[str, torch.Tensor] = torch.load(folder / "version_0" / "checkpoints" / "last.ckpt")[
        "state_dict"
    ]
    return saved


@pytest.mark.usefixtures("wandb_disabled")
@pytest.mark.filterwarnings("ignore:.* end before")  # what comes after four epochs
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_two_processes_end_with_the_weights_of_one(overlay: str, two: Path, fashion_mnist_dir: Path) -> None:
    fit(overlay, two, str(fashion_mnist_dir), 1)
    one, other = weights(two / overlay / "1"), weights(two / overlay / "2")
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], rtol=0.0, atol=1e-6, msg=name)


def test_what_is_left_out_exists() -> None:
    assert all((CONFIGS / "methods" / f"{name}.yaml").exists() for name in NOT_COMPARED)
