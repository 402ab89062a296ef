"""Gloo processes: a stopped and resumed run equals one that never stopped, on each rank.

With two processes to the last bit, from a checkpoint taken anywhere; with another number of processes that
takes as many images a step, up to the rounding of sums in another order.
"""

import warnings
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torchmetrics import CatMetric, MaxMetric, MeanMetric, Metric, MetricCollection, SumMetric

from lightning_optreg import ImageClassifier
from lightning_optreg.callbacks import ExactResume
from lightning_optreg.data.loader import Batch, BatchLoader
from lightning_optreg.trainer.across_ranks import gather_ranks, gather_tensors, tensors_of_rank
from tests.processes import in_processes, needs_gloo
from tests.resume_tools import SaveAlways, assert_identical, final_state, spoil_random_state
from tests.small_runs import Diary

pytestmark = needs_gloo


class MeanOfBatches(Metric):
    """A metric whose state is a mean, which torchmetrics weights with the number of updates."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("mean", torch.tensor(0.0), dist_reduce_fx="mean")

    def update(self, value: Tensor) -> None:
        self.mean = self.mean + value

    def compute(self) -> Tensor:
        return self.mean


class LogsAll(LightningModule):
    """Whatever can be logged: each reduction, by step and epoch, seldom, twice a batch, and torchmetrics."""

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16, 8),
            nn.BatchNorm1d(8) if dropout else nn.Identity(),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(8, 3),
        )
        self.net.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # the same on all ranks
        self.error, self.weighted = MeanMetric(), MeanOfBatches()
        self.several = MetricCollection({"total": SumMetric(), "highest": MaxMetric()})
        self.only_by_epoch = MeanMetric()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        n = len(batch.labels)
        loss = nn.functional.cross_entropy(self.net(batch.images / 255), batch.labels)
        value = loss.detach() + self.global_rank
        for name in ("mean", "sum", "max", "min"):
            for sync in (False, True):
                for on_step in (False, True):
                    key = f"{name}{'_sync' * sync}{'_both' * on_step}"
                    self.log(
                        key,
                        value,
                        on_step=on_step,
                        on_epoch=True,
                        sync_dist=sync,
                        reduce_fx=name,
                        batch_size=n,
                    )
        for part in (1.0, 1 / 3, 0.1):
            self.log("thrice", part * value, on_step=False, on_epoch=True, sync_dist=True, batch_size=n)
        if batch_idx == 0:
            self.log("seldom", value, on_step=True, on_epoch=True, sync_dist=True, batch_size=n)
        self.error.update(value)
        self.weighted(value)
        self.several.update(value)
        self.only_by_epoch.update(value)
        self.log("error", self.error, on_step=False, on_epoch=True)
        self.log("weighted", self.weighted, on_step=False, on_epoch=True)
        self.log_dict(self.several, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("only_by_epoch", self.only_by_epoch.compute(), sync_dist=True)
        self.only_by_epoch.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        loss = nn.functional.cross_entropy(self.net(batch.images / 255), batch.labels)
        self.log("val_loss", loss, sync_dist=True, batch_size=len(batch.labels))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "mean_sync"}}


class Classifier(ImageClassifier):
    """The package's own module, which counts in tensors of its own."""

    def __init__(self) -> None:
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
        super().__init__(net, num_classes=3)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> list[Tensor]:
        return [batch.images / 255, batch.labels]


def loaders(rank: int, world_size: int, images: int = 39) -> tuple[BatchLoader, BatchLoader]:
    """Training batches of 8 and validation batches of 10 images over all processes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (images, 1, 4, 4), dtype=torch.uint8, generator=generator)
    y = torch.randint(0, 3, (images,), generator=generator)
    train = BatchLoader(
        x, y, batch_size=8 // world_size, shuffle=True, seed=3, rank=rank, world_size=world_size
    )
    val = BatchLoader(x[:20], y[:20], batch_size=5, shuffle=False, seed=3, rank=rank, world_size=world_size)
    return train, val


def fit(
    module: LightningModule,
    folder: Path,
    rank: int,
    world_size: int,
    *,
    ckpt_path: Path | None = None,
    images: int = 39,
    **options: Any,
) -> dict[str, Any]:
    """Train, from the start with checkpoints at every moment, or from one of them."""
    saver, diary = SaveAlways(folder / "all"), Diary()
    trainer = Trainer(
        accelerator="cpu",
        # Not a minute's wait for a rank that waits for the other one in vain.
        strategy=DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=60))
        if world_size > 1
        else "auto",
        devices=world_size,
        max_epochs=2,
        logger=diary,
        callbacks=[ExactResume(), *([] if ckpt_path else [saver])],
        log_every_n_steps=1,
        enable_checkpointing=ckpt_path is None,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )
    train, val = loaders(rank, world_size, images)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, train, val, ckpt_path=ckpt_path)
    return {
        "state": final_state(trainer, module),
        "logged": diary.values,
        "logged_before": saver.logged,
        "paths": {name: str(path) for name, path in saver.paths.items()},
        "said": [str(warning.message) for warning in caught if "ExactResume" in str(warning.message)],
    }


# ---- as many processes -------------------------------------------------------------------------------------

CASES: dict[str, tuple[type[LightningModule], dict[str, Any]]] = {
    "every batch a step": (LogsAll, {}),
    "windows": (LogsAll, {"accumulate_grad_batches": 3, "val_check_interval": 2}),
    "windows in bf16": (LogsAll, {"accumulate_grad_batches": 3, "precision": "bf16-mixed"}),
    "classifier": (Classifier, {"accumulate_grad_batches": 3, "val_check_interval": 2}),
}
CHOSEN = 4  # of the moments of saving, in turn, so that the cases together have all
FEW = ("windows", "classifier")
OTHERS = tuple(name for name in CASES if name not in FEW)  # in slow tests


def straight_and_resumed(rank: int, folder: Path, names: tuple[str, ...]) -> None:
    """What each of the two processes does."""
    for turn, (name, (module, options)) in enumerate(CASES.items()):
        if name not in names:
            continue
        seed_everything(5, verbose=False)
        straight = fit(module(), folder / name, rank, 2, **options)
        resumed = {}
        for place, path in list(straight["paths"].items())[turn % CHOSEN :: CHOSEN]:
            spoil_random_state()
            resumed[place] = fit(module(), folder / name, rank, 2, ckpt_path=Path(path), **options)
        torch.save({"straight": straight, "resumed": resumed}, folder / f"{name}-{rank}.pt")


# ---- another number of processes ---------------------------------------------------------------------------


class PerImage(LightningModule):
    """Logs what does not depend on how images are dealt out; draws nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
        self.several = MetricCollection({"average": MeanMetric(), "highest": MaxMetric(), "all": CatMetric()})

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        scores = self.net(batch.images / 255)
        losses = nn.functional.cross_entropy(scores, batch.labels, reduction="none")
        each = losses.detach()
        n = len(each)
        self.log("mean", each.mean(), on_step=False, on_epoch=True, sync_dist=True, batch_size=n)
        self.log("sum", each.sum(), on_step=False, on_epoch=True, sync_dist=True, reduce_fx="sum")
        self.log("max", each.max(), on_step=False, on_epoch=True, sync_dist=True, reduce_fx="max")
        if batch_idx == 0:
            self.log("first", each.mean(), on_step=False, on_epoch=True, sync_dist=True, batch_size=n)
        self.several.update(each)
        return losses.mean()

    def on_train_epoch_end(self) -> None:
        values = self.several.compute()
        self.log_dict({"average": values["average"], "highest": values["highest"]}, sync_dist=True)
        self.log("images", float(values["all"].numel()), sync_dist=True)
        self.several.reset()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


CHANGES = {"accumulate_grad_batches": 3, "images": 40}
PLACES = ["000-batch-0-0", "002-batch-0-1", "003-batch-0-1", "005-epoch-0-2"]  # in windows, at ends of one


def fit_one_process(folder: Path) -> None:
    """Leave the checkpoints of one process, and its end."""
    seed_everything(5, verbose=False)
    torch.save(fit(PerImage(), folder / "one", 0, 1, **CHANGES), folder / "one.pt")


def fit_two_processes(rank: int, folder: Path) -> None:
    """Leave the checkpoints of two processes, and their end."""
    seed_everything(5, verbose=False)
    torch.save(fit(PerImage(), folder / "two", rank, 2, **CHANGES), folder / f"two-{rank}.pt")


def change_to_two(rank: int, folder: Path) -> None:
    """Continue one process with two."""
    paths = torch.load(folder / "one.pt", weights_only=True)["paths"]
    resumed = {
        place: fit(PerImage(), folder, rank, 2, ckpt_path=Path(paths[place]), **CHANGES) for place in PLACES
    }
    torch.save(resumed, folder / f"changed-{rank}.pt")


def tensors(rank: int) -> dict[str, Tensor]:
    """Tensors of a rank, of every kind of number, equal and not."""
    mine = {
        "equal": torch.arange(3.0),
        "part": torch.arange(10.0)[2 * rank : 2 * rank + 2],
        "half": torch.full((2, 2), 1.5 + rank, dtype=torch.bfloat16),
        "whole": torch.tensor(rank),
        "truth": torch.tensor([True, rank == 1]),
        "empty": torch.zeros(0, 3),
        "sparse": torch.sparse_coo_tensor([[rank]], [2.0], (3,), check_invariants=True),
        "channels last": torch.ones(1, 2, 2, 2).to(memory_format=torch.channels_last) * (rank + 1),
    }
    if rank == 1:
        mine["only here"] = torch.ones(1)
    return mine


def gather(rank: int, folder: Path) -> None:
    """Gather in the group of processes that the fits have left."""
    trainer: Any = SimpleNamespace(world_size=2, strategy=None)
    results = {
        "plain": gather_ranks(trainer, {"rank": rank}),
        "all": gather_tensors(trainer, tensors(rank), if_equal=True),
        "different": gather_tensors(trainer, tensors(rank), if_equal=False),
    }
    torch.save(results, folder / f"gathered-{rank}.pt")


def what_two_do(rank: int, folder: Path) -> None:
    """All that needs two processes."""
    straight_and_resumed(rank, folder, FEW)
    fit_two_processes(rank, folder)
    gather(rank, folder)


def what_two_do_besides(rank: int, folder: Path) -> None:
    """All that slow tests need of two processes."""
    straight_and_resumed(rank, folder, OTHERS)
    change_to_two(rank, folder)


def assert_goes_on(resumed: dict[str, Any], straight: dict[str, Any], place: str, words: str) -> None:
    for name, value in straight["state"]["weights"].items():
        torch.testing.assert_close(resumed["state"]["weights"][name], value, msg=f"{place}: {name}")
    for key in straight["logged"].keys() - straight["logged_before"][place]:
        assert resumed["logged"][key] == pytest.approx(straight["logged"][key]), f"{place}: {key}"
    assert len(resumed["said"]) == 1
    assert words in resumed["said"][0]
    assert "a step takes" not in resumed["said"][0]


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_two_processes_go_on_where_one_was(place: str, besides: Path) -> None:
    straight = torch.load(besides / "one.pt", weights_only=True)
    ranks = [torch.load(besides / f"changed-{rank}.pt", weights_only=True)[place] for rank in range(2)]
    assert_identical(ranks[0]["state"], ranks[1]["state"])
    assert_goes_on(ranks[0], straight, place, "comes from 1 process(es), this run has 2, so layers")


@pytest.mark.parametrize("place", PLACES)
def test_one_process_goes_on_where_two_were(place: str, two: Path, tmp_path: Path) -> None:
    straight = torch.load(two / "two-0.pt", weights_only=True)
    resumed = fit(PerImage(), tmp_path, 0, 1, ckpt_path=Path(straight["paths"][place]), **CHANGES)
    assert_goes_on(resumed, straight, place, "comes from 2 process(es), this run has 1, so layers")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what each rank had at the end of each run. One start of two processes for all cases."""
    folder = tmp_path_factory.mktemp("two")
    in_processes(2, what_two_do, folder)
    return folder


@pytest.fixture(scope="module")
def besides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of the slow tests."""
    folder = tmp_path_factory.mktemp("besides")
    fit_one_process(folder)
    in_processes(2, what_two_do_besides, folder)
    return folder


def check_resumes(case: str, folder: Path) -> None:
    ranks = [torch.load(folder / f"{case}-{rank}.pt", weights_only=True) for rank in range(2)]
    for runs in ranks:
        straight = runs["straight"]
        for place, resumed in runs["resumed"].items():
            assert_identical(straight["state"], resumed["state"], place)
            assert not resumed["said"]
    straight = ranks[0]["straight"]  # rank 0 logs
    assert len(ranks[0]["resumed"]) >= 3
    for place, resumed in ranks[0]["resumed"].items():
        for key, value in resumed["logged"].items():
            assert straight["logged"][key] == value, f"{place}: {key}"
        missing = straight["logged"].keys() - straight["logged_before"][place] - resumed["logged"].keys()
        assert not missing, f"{place}: {sorted(missing)} are not logged after the resume"


@pytest.mark.parametrize("case", FEW)
def test_two_processes_resume_exactly_anywhere(case: str, two: Path) -> None:
    check_resumes(case, two)


@pytest.mark.slow
@pytest.mark.parametrize("case", OTHERS)
def test_two_processes_resume_other_runs_exactly(case: str, besides: Path) -> None:
    check_resumes(case, besides)


def test_gradients_are_kept_within_a_window_only_those_of_each_rank(two: Path) -> None:
    paths = torch.load(two / "windows-0.pt", weights_only=True)["straight"]["paths"]
    parameters = dict(LogsAll().named_parameters())
    size = sum(parameter.nbytes for parameter in parameters.values())
    for place, path in paths.items():
        state = torch.load(path, weights_only=True)["callbacks"]["ExactResume"]
        kept = [tensor for tensors in state["gradients"].values() for tensor in tensors]
        batch = batches_done(path)
        # an epoch has 5 batches: windows of 3 and of 2
        assert sum(tensor.nbytes for tensor in kept) == (0 if batch in (3, 5) else 2 * size), place
        # the statistics of batch normalisation, of each rank; not the buffer that is the same on both
        assert state["buffers"].keys() <= {"net.2.running_mean", "net.2.running_var"}, place


def batches_done(path: str) -> int:
    loop = torch.load(path, weights_only=True)["loops"]["fit_loop"]
    return int(loop["epoch_loop.batch_progress"]["current"]["processed"])


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_the_first_process_has_what_differs_and_others_nothing(two: Path) -> None:
    first, second = (torch.load(two / f"gathered-{rank}.pt", weights_only=True) for rank in range(2))
    assert second == {"plain": [], "all": {}, "different": {}}
    assert first["plain"] == [{"rank": 0}, {"rank": 1}]
    equal = {"equal", "empty"}
    assert {name for name, kept in first["all"].items() if len(kept) == 1} == equal
    assert first["different"].keys() == tensors(1).keys() - equal
    for rank in range(2):
        got, expected = tensors_of_rank(first["all"], rank), tensors(rank)
        assert got.keys() == expected.keys()
        for name, tensor in expected.items():
            assert got[name].dtype == tensor.dtype
            assert torch.equal(got[name].to_dense(), tensor.to_dense()), name
    # a part of a larger tensor travels and is written without the rest
    assert first["all"]["part"][1].untyped_storage().nbytes() == 8
