"""What all tests share: small data sets that can be learned, a cache of their own, one thread."""

import gzip
import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

# One thread: sums are then made in one order, so "bit for bit" means something. Subprocesses inherit it.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# The same on a GPU.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
torch.backends.cudnn.deterministic = True

# Shells start background jobs with SIGINT ignored, nohup ignores SIGHUP, and many CI systems do so too. What
# tests start would inherit that: a process that is sent the signal would never end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True, scope="session")
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep caches out of the home folder; subprocesses inherit this too."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def no_leftover_process_group() -> Iterator[None]:
    """Lightning leaves the group of a test's trainer there, and the next test would seem distributed."""
    yield
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture(autouse=True)
def no_leftover_seed() -> Iterator[None]:
    """seed_everything leaves its number in the environment, where the next test would find it."""
    os.environ.pop("PL_GLOBAL_SEED", None)
    yield
    os.environ.pop("PL_GLOBAL_SEED", None)


@pytest.fixture
def wandb_disabled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let Weights & Biases keep and send nothing; it reads its environment once, so it begins anew."""
    wandb = pytest.importorskip("wandb", reason="the extra 'wandb' is not installed")
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "disabled")
    yield
    wandb.teardown()


@pytest.fixture
def blank_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the pictures of runs' curves empty: to draw them takes longer than a short run."""
    from matplotlib.figure import Figure

    name = "lightning_optreg.callbacks.records.curves.draw_curves"
    monkeypatch.setattr(name, lambda history: Figure(figsize=(1, 1)))


@pytest.fixture(scope="session")
def fashion_mnist_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the four files of Fashion-MNIST, 600 + 100 images that a small network can learn.

    Their checksums are not the published ones: give `verify_checksum=False`.
    """
    folder = tmp_path_factory.mktemp("fashion-mnist")
    for prefix, count, seed in (("train", 600, 1), ("t10k", 100, 2)):
        images, labels = make_images(count, (1, 28, 28), seed=seed)
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images[:, 0])
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels)
    return folder


@pytest.fixture(scope="session")
def cifar10_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `cifar-10-batches-bin/` in the official layout, 5 x 100 + 100 images.

    There are fewer images than in the official files: give `verify_checksum=False`.
    """
    folder = tmp_path_factory.mktemp("cifar10")
    binary = folder / "cifar-10-batches-bin"
    binary.mkdir()
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    for seed, name in enumerate(names):
        images, labels = make_images(100, (3, 32, 32), seed=seed)
        (binary / name).write_bytes(np.concatenate([labels[:, None], images.reshape(100, -1)], 1).tobytes())
    return folder


def make_images(count: int, shape: tuple[int, int, int], *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, C, H, W) of 10 classes, uint8: a bright blob whose place tells the class, and noise."""
    rng = np.random.default_rng(seed)
    channels, height, width = shape
    labels = rng.permutation(np.arange(count) % 10).astype(np.uint8)
    y, x = np.mgrid[0:height, 0:width]
    angle = 2 * np.pi * labels / 10
    # Small random shifts, so that the classes differ by the place and not by single pixels.
    center_y = height * (0.5 + 0.3 * np.sin(angle)) + rng.normal(0, 1, count)
    center_x = width * (0.5 + 0.3 * np.cos(angle)) + rng.normal(0, 1, count)
    distance = (y - center_y[:, None, None]) ** 2 + (x - center_x[:, None, None]) ** 2
    blob = 180 * np.exp(-distance / (0.02 * height * width))[:, None]  # (count, 1, H, W)
    tint = np.linspace(1.0, 0.7, channels)[:, None, None]
    noise = rng.normal(40, 15, (count, channels, height, width))
    return np.clip(blob * tint + noise, 0, 255).astype(np.uint8), labels


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write a uint8 array as an idx file, gzipped if the name says so."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    content = header + array.tobytes()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
