"""Workers that share weights: what they make together, and what worker 0 sees of it."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, StochasticWeightAveraging
from torch.utils.data import DataLoader, IterableDataset

from lightning_optreg.strategies import Hogwild
from tests.strategies.shared_memory.hogwild_tools import Regression, Told, hogwild, told, trainer_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:The '.*_dataloader' does not have many workers", "ignore:Checkpoint directory"
)


def test_one_worker_trains_as_without_the_strategy(tmp_path: Path) -> None:
    modules, trainers = [], []
    for strategy in ("auto", hogwild()):
        torch.manual_seed(0)
        modules.append(Regression())
        trainers.append(trainer_of(tmp_path, 1, strategy=strategy))
        trainers[-1].fit(modules[-1])
    plain, ours = modules
    for name, value in plain.state_dict().items():
        assert torch.equal(value, ours.state_dict()[name]), name
    assert trainers[0].callback_metrics == trainers[1].callback_metrics
    assert str(trainers[0].optimizers[0].state_dict()) == str(trainers[1].optimizers[0].state_dict())


class Run:
    """A run of two workers for two epochs, with everything around it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.module = Regression()
        self.by_steps = ModelCheckpoint(folder / "steps", "{step}", every_n_train_steps=3, save_top_k=-1)
        self.best = ModelCheckpoint(folder / "best", "{epoch}", monitor="val", save_top_k=-1)
        self.trainer = trainer_of(
            folder,
            callbacks=[Told(folder), self.by_steps, self.best, EarlyStopping("val", patience=9)],
            enable_checkpointing=True,
            max_epochs=3,
        )
        self.trainer.fit(self.module)

    def checkpoint(self, name: str) -> dict[str, Any]:
        saved: dict[str, Any] = torch.load(self.folder / name, weights_only=True)
        return saved


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context():
        return Run(tmp_path_factory.mktemp("run"))


def test_all_steps_are_counted(run: Run) -> None:
    assert run.trainer.global_step == 3 * 12
    for worker in (0, 1):
        batches = told(run.folder, worker, "batch")
        assert len(batches) == 3 * 6
        counts = [int(words[1]) for words in batches]
        assert counts == sorted(counts)
        assert max(counts) <= 36
    last = max(
        told(run.folder, 0, "batch"), told(run.folder, 1, "batch"), key=lambda lines: int(lines[-1][1])
    )
    assert int(last[-1][1]) == 36


def test_schedules_follow_the_steps_of_all(run: Run) -> None:
    for worker in (0, 1):
        for _, count, rate, *_ in told(run.folder, worker, "batch"):
            # from 0.02 to a tenth over the 36 steps of both
            assert float(rate) == pytest.approx(0.02 * (1 - 0.9 * int(count) / 36), abs=1e-8)


def test_each_example_is_used_once_in_an_epoch(run: Run) -> None:
    everything = sorted(f"{float(x):.6f}" for x in run.module._data().tensors[0][:, 0])
    for epoch in range(3):
        seen = [
            x
            for worker in (0, 1)
            for words in told(run.folder, worker, "batch")
            if int(words[0]) == epoch
            for x in words[3:]
        ]
        assert sorted(seen) == everything


def test_other_workers_have_none_of_the_duties(run: Run) -> None:
    first, other = (told(run.folder, worker, "start")[0] for worker in (0, 1))
    assert first[2] == other[2] == "2"  # world_size
    assert "ModelCheckpoint," in first
    assert other[3:] == ["BeforeAll,", "InOthers,", "Told"]


def test_weights_are_one_set_and_stay_tied(run: Run) -> None:
    assert run.module.first.weight is run.module.again.weight
    best = run.checkpoint("best/epoch=2.ckpt")["state_dict"]
    assert torch.equal(best["first.weight"], best["again.weight"])
    assert int(run.module.norm.num_batches_tracked) <= 36
    assert int(run.module.norm.num_batches_tracked) >= 18  # of both, unless two counted at the same time


def test_checkpoints_hold_what_was_validated(run: Run) -> None:
    for epoch in range(3):
        saved = run.checkpoint(f"best/epoch={epoch}.ckpt")
        assert torch.equal(saved["state_dict"]["last.weight"], run.module.validated[epoch])
        assert saved["global_step"] == 12 * (epoch + 1) == sum(saved["Hogwild"]["steps"])


def test_checkpoints_by_steps_miss_none(run: Run) -> None:
    names = sorted(path.name for path in (run.folder / "steps").iterdir())
    assert names == sorted(f"step={step}.ckpt" for step in range(3, 37, 3))
    for step in range(3, 37, 3):
        saved = run.checkpoint(f"steps/step={step}.ckpt")
        loops = saved["loops"]["fit_loop"]["epoch_loop.automatic_optimization.optim_progress"]
        assert step <= saved["global_step"] == sum(saved["Hogwild"]["steps"])
        assert saved["global_step"] == loops["optimizer"]["step"]["total"]["completed"]
        assert saved["Hogwild"]["others"][0]["global_step"] == saved["global_step"]


def test_nothing_is_left_of_the_workers(run: Run) -> None:
    assert multiprocessing.active_children() == []
    assert run.trainer.world_size == 1
    assert not any(type(each).__module__.endswith("shared_memory._hooks") for each in run.trainer.callbacks)
    with torch.no_grad():
        before = run.module.last.weight.clone()
        run.module.last.weight.add_(1).sub_(1)
    assert torch.allclose(before, run.module.last.weight)
    metrics = run.trainer.validate(run.module, verbose=False)[0]
    assert metrics["val"] == pytest.approx(float(run.trainer.callback_metrics["val"]))


@pytest.mark.parametrize(("devices", "steps"), [(2, 17), (3, 2)])
def test_max_steps_is_the_number_of_all(tmp_path: Path, devices: int, steps: int) -> None:
    trainer = trainer_of(tmp_path, devices, max_steps=steps, max_epochs=-1, callbacks=[Told(tmp_path)])
    trainer.fit(Regression())
    made = sum(len(told(tmp_path, worker, "batch")) for worker in range(devices) if _wrote(tmp_path, worker))
    assert trainer.global_step == made == steps


def _wrote(folder: Path, worker: int) -> bool:
    return (folder / f"worker{worker}.txt").exists()


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_resumed_workers_go_on_where_they_were(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path / "saved", "{step}", every_n_train_steps=15, save_top_k=-1)
    first = trainer_of(tmp_path, callbacks=[saving], enable_checkpointing=True)
    first.fit(Regression())
    path = tmp_path / "saved" / "step=15.ckpt"
    saved = torch.load(path, weights_only=True)["Hogwild"]
    momentum = saved["others"][0]["optimizer_states"][0]["state"][0]["momentum_buffer"]
    second = trainer_of(tmp_path, callbacks=[Told(tmp_path), _State(tmp_path)])
    second.fit(Regression(), ckpt_path=path)
    assert torch.equal(torch.load(tmp_path / "momentum1.pt"), momentum)
    for worker in (0, 1):
        assert told(tmp_path, worker, "start")[0][0] == str(sum(saved["steps"]))
    assert second.global_step >= 24  # a DataLoader can't be resumed within an epoch, so some are done again
    with pytest.raises(MisconfigurationException, match="by 2 workers in the middle of an epoch"):
        trainer_of(tmp_path, 3).fit(Regression(), ckpt_path=path)


class _State(Told):
    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        buffer = trainer.optimizers[0].state[pl_module.first.weight]["momentum_buffer"]
        torch.save(buffer, self.folder / f"momentum{trainer.global_rank}.pt")

    def on_train_batch_end(self, *args: Any) -> None:
        pass


def test_shared_state_is_that_of_the_first_step(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, strategy=hogwild(shared_state=True), callbacks=[_AtEnd(tmp_path)])
    module = Regression()
    trainer.fit(module)
    assert trainer.global_step == 24
    first, other = (torch.load(tmp_path / f"end{worker}.pt") for worker in (0, 1))
    assert torch.equal(first, other)


class _AtEnd(Told):
    def on_train_start(self, *args: Any) -> None:
        pass

    def on_train_batch_end(self, *args: Any) -> None:
        pass

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        buffer = trainer.optimizers[0].state[pl_module.first.weight]["momentum_buffer"]
        torch.save(buffer, self.folder / f"end{trainer.global_rank}.pt")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"callbacks": [StochasticWeightAveraging(0.1)]}, "StochasticWeightAveraging doesn't work"),
        ({"num_nodes": 2}, "set num_nodes to 1, got 2"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(MisconfigurationException, match=said):
        trainer_of(tmp_path, **change).fit(Regression())
    assert multiprocessing.active_children() == []


class _Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(torch.ones(4), torch.ones(1))] * 8)


def test_streams_that_nobody_deals_out_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="batches of a DataLoader can't be dealt out"):
        trainer_of(tmp_path).fit(Regression(), DataLoader(_Stream(), batch_size=4))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="Hogwild: start_method must be 'fork' or 'spawn', got 'thread'"):
        Hogwild(start_method="thread")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Hogwild: timeout must be in \(0, inf\), got 0"):
        Hogwild(timeout=0)
    with pytest.raises(TypeError, match="Hogwild: shared_state must be True or False, got 1"):
        Hogwild(shared_state=1)  # type: ignore[arg-type]


def test_it_has_a_name(tmp_path: Path) -> None:
    assert isinstance(trainer_of(tmp_path, strategy="Hogwild").strategy, Hogwild)


@pytest.mark.slow  # spawned processes import everything again
def test_spawned_workers_do_the_same(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, strategy=Hogwild(start_method="spawn"), callbacks=[Told(tmp_path)])
    trainer.fit(Regression())
    assert trainer.global_step == 24
    assert len(told(tmp_path, 0, "batch")) == len(told(tmp_path, 1, "batch")) == 12
