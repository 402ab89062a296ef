"""One process and two with the same global batches end with the same weights, or it is known why not."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_optreg import data
from tests.contracts.images import STEPS, SmallNet, train
from tests.contracts.layers import LAYERS
from tests.contracts.parts import CALLBACKS
from tests.processes import in_processes, needs_gloo

pytestmark = [
    pytest.mark.slow,
    needs_gloo,
    pytest.mark.filterwarnings("ignore:AdamToSGD.* end before at_step"),  # runs of a few steps
    pytest.mark.filterwarnings("ignore:NaNGuard. .*skipped:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Lazy modules"),
    pytest.mark.filterwarnings("ignore:DifferentialPrivacy. epsilon is computed for Poisson"),
]

PAGE = Path(__file__).parents[2] / "docs" / "multi_process.md"
TRANSFORMS = "all transforms"
REASONS = {
    **{name: part.ranks_differ for name, part in CALLBACKS.items()},
    **{f"layer {name}": layer.ranks_differ for name, layer in LAYERS.items()},
    TRANSFORMS: None,
}
SAME = [row for row, reason in REASONS.items() if reason is None]
DIFFERENT = [row for row, reason in REASONS.items() if reason is not None]


def transforms() -> list[data.BatchTransform]:
    """Every transform that works on images of any number of channels, and keeps their size."""
    return [
        data.RandomCrop(padding=2),
        data.RandomHorizontalFlip(),
        data.RandomResizedCrop((8, 10)),
        data.RandomStretch(),
        data.LensDistortion(),
        data.RandomPosterize(5),
        data.RandomSolarize(p=0.2),
        data.RandomInvert(p=0.2),
        data.RandomErasing(p=0.8, value="random"),
        data.PCAColorJitter(),
    ]


def row(name: str, folder: Path, processes: int, rank: int) -> dict[str, Any]:
    torch.manual_seed(3)
    if name in CALLBACKS:
        part = CALLBACKS[name]
        callback = part.build_for_images()
        net = SmallNet(nn.Identity(), part.network)
        return train(folder, [callback], processes, rank=rank, net=net, adam="Adam" in part.needs)
    if name == TRANSFORMS:
        net = SmallNet(nn.Identity())
        return train(folder, [], processes, rank=rank, net=net, augment=transforms())
    layer = LAYERS[name.removeprefix("layer ")].build()
    return train(folder, [], processes, rank=rank, net=SmallNet(layer))


def all_rows(rank: int, folder: Path) -> None:
    """What each of the two processes does."""
    for name in REASONS:
        result = row(name, folder / name / "two", 2, rank)
        torch.save(result, folder / f"{name}-{rank}.pt")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what two processes ended with. One start for all rows."""
    folder = tmp_path_factory.mktemp("numbers")
    in_processes(2, all_rows, folder)
    return folder


def compare(name: str, two: Path, folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]], float]:
    """Give the results of one process and of both of two, and the largest difference of their weights."""
    one = row(name, folder, 1, 0)
    ranks = [torch.load(two / f"{name}-{rank}.pt", weights_only=True) for rank in range(2)]
    largest = max(
        float((weight.double() - other["weights"][key].double()).abs().max())
        for other in ranks
        for key, weight in one["weights"].items()
    )
    return one, ranks, largest


@pytest.mark.parametrize("name", SAME)
def test_two_processes_end_with_the_weights_of_one(name: str, two: Path, tmp_path: Path) -> None:
    one, ranks, largest = compare(name, two, tmp_path)
    assert largest < 1e-5
    for other in ranks:
        assert one["steps"] == other["steps"]
        torch.testing.assert_close(one["evaluation"], other["evaluation"], rtol=1e-4, atol=1e-4)
    assert one["steps"] == STEPS or name in ("BatchSizeGrowth", "FullBatch", "AdamRestarts", "EarlyStopping")


@pytest.mark.parametrize("name", DIFFERENT)
def test_two_processes_differ_where_it_is_said(name: str, two: Path, tmp_path: Path) -> None:
    _, _, largest = compare(name, two, tmp_path)
    assert largest > 1e-3


def test_the_page_lists_what_differs() -> None:
    listed = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE.read_text(), re.M))
    differ: dict[str, str | None] = {
        name: part.ranks_differ for name, part in CALLBACKS.items() if part.ranks_differ
    }
    differ |= {name.split("-")[0]: layer.ranks_differ for name, layer in LAYERS.items() if layer.ranks_differ}
    assert listed == differ
