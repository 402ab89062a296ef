"""Which images a run with a curriculum sees, also when it is resumed, and how they are scored."""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn

from lightning_optreg.callbacks import Curriculum, ExactResume, FullBatch, NoiseFree
from lightning_optreg.callbacks.batches._image_scores import score_images
from lightning_optreg.data import BatchLoader, FashionMNISTDataModule, RandomCrop
from tests.contracts.runs import checkpoint_every_step
from tests.processes import needs_gloo
from tests.resume_tools import assert_identical, final_state, spoil_random_state
from tests.small_runs import Diary, quiet_trainer, step_by_hand

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")

IMAGES = 540  # of the small dataset's training split
BATCHES = 9  # of an epoch, with 60 images each


class Small(LightningModule):
    """A network with dropout and batch normalisation."""

    def __init__(self, manual: bool = False) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.AvgPool2d(4), nn.Flatten(), nn.Linear(49, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3)
        )
        self.net.append(nn.Linear(16, 10))
        self.automatic_optimization = not manual

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        if self.automatic_optimization:
            return loss
        step_by_hand(self, loss)
        return None

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Noting(FashionMNISTDataModule):
    """Writes down which images go to the device."""

    def __init__(self, folder: Path, **options: Any) -> None:
        options = {"batch_size": 60, "augment": [RandomCrop(padding=2)], "seed": 1, **options}
        super().__init__(str(folder), verify_checksum=False, **options)
        self.seen: list[list[int]] = []

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        if self.trainer is not None and self.trainer.lightning_module.net.training:  # not while scoring
            self.seen.append(batch.index.tolist())
        return super().transfer_batch_to_device(batch, device, dataloader_idx)


def fit(
    folder: Path,
    data: FashionMNISTDataModule,
    *callbacks: Callback,
    module: LightningModule | None = None,
    ckpt_path: Path | None = None,
    **options: Any,
) -> tuple[dict[str, Any], Trainer]:
    module = module or Small()
    trainer = quiet_trainer(
        default_root_dir=folder,
        callbacks=list(callbacks),
        limit_val_batches=0,
        **{"max_epochs": 3, **options},
    )
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return final_state(trainer, module), trainer


def joined(batches: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(batches))


def training_split(data: FashionMNISTDataModule) -> tuple[Tensor, Tensor, Tensor]:
    """Images and labels as they are stored, and the positions of the training split."""
    loader = data.train_dataloader()
    return loader.images, loader.labels, loader.indices


@pytest.fixture
def score_file(tmp_path: Path) -> Path:
    path = tmp_path / "scores.pt"
    torch.save(torch.randn(600, generator=torch.Generator().manual_seed(3)), path)
    return path


def from_file(path: Path, **options: Any) -> Curriculum:
    options = {"start": 0.1, "full_at": 0.6, "min_images": 1, "balanced": False, **options}
    return Curriculum("file", scores=path, **options)


# ---- which images ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manual", [False, True])
def test_with_all_images_from_the_start_nothing_changes(
    manual: bool, tmp_path: Path, fashion_mnist_dir: Path
) -> None:
    results = []
    for callbacks in ([], [Curriculum(start=1.0, rescore_every=2)]):
        seed_everything(5, verbose=False)
        data = Noting(fashion_mnist_dir)
        results.append((fit(tmp_path, data, *callbacks, module=Small(manual))[0], data.seen))
    assert_identical(*results)


@pytest.mark.parametrize("order", ["easy_first", "hard_first", "random"])
def test_batches_come_from_the_pool(
    order: Any, tmp_path: Path, fashion_mnist_dir: Path, score_file: Path
) -> None:
    """Linear, from 54 to 540 images in 16.2 of 27 batches; a pass keeps its pool until it is done."""
    data, diary = Noting(fashion_mnist_dir), Diary()
    fit(tmp_path, data, from_file(score_file, order=order), logger=diary)
    train = training_split(data)[2]
    scores = torch.load(score_file, weights_only=True)[train]
    ranked = train[scores.argsort(descending=order == "hard_first")].tolist()
    assert [len(batch) for batch in data.seen] == [60] * 27
    for batch, seen in enumerate(data.seen):
        share = min(0.1 + 0.9 * batch / 16.2, 1.0)
        size = diary.values[batch, "optreg/curriculum/images"]
        assert 54 <= size <= share * IMAGES + 1
        if order != "random":
            # A batch may hold the beginning of the next pass, whose pool is as large as it is by then.
            assert set(seen) <= set(ranked[: int(share * IMAGES) + 1])
            mean = scores.sort(descending=order == "hard_first").values[: int(size)].mean()
            assert diary.values[batch, "optreg/curriculum/score"] == pytest.approx(float(mean), abs=1e-5)
    assert len(set(data.seen[0])) == 54
    if order == "random":
        assert not set(data.seen[0]) <= set(ranked[:200])
        assert (0, "optreg/curriculum/score") not in diary.values
    assert sorted(joined(data.seen[18:])) == sorted(train.tolist())


def test_the_run_ends_where_steps_end(tmp_path: Path, fashion_mnist_dir: Path, score_file: Path) -> None:
    """Half of 3 steps of 4 batches: all images from batch 6 on."""
    diary = Diary()
    curriculum = from_file(score_file, pacing="step", full_at=0.5)
    options = {"max_epochs": -1, "max_steps": 3, "accumulate_grad_batches": 4}
    data = Noting(fashion_mnist_dir, batch_size=30)
    fit(tmp_path, data, curriculum, logger=diary, **options)
    assert len(set(joined(data.seen[:6]))) == 54
    assert len(set(joined(data.seen[6:]))) > 54
    assert curriculum._full_at_batch == 6.0


class Keep(Callback):
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        loader: Any = trainer.train_dataloader
        self.loader = loader


def test_the_loader_is_itself_again_after_an_exception(
    tmp_path: Path, fashion_mnist_dir: Path, score_file: Path
) -> None:
    class Fails(Keep):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 2:
                raise RuntimeError("broken")

    keep = Fails()
    with pytest.raises(RuntimeError, match="broken"):
        fit(tmp_path, Noting(fashion_mnist_dir), from_file(score_file), keep)
    keep.loader.set_epoch(7)
    assert len({i for batch in keep.loader for i in batch.index.tolist()}) == IMAGES


# ---- resume ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "scoring"),
    [
        (4, "file"),
        (13, "self_paced"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((4, "self_paced"), (9, "self_paced"), (9, "file"), (13, "file"))
        ),
    ],
)
def test_a_resumed_run_is_exact(
    scoring: Any, step: int, tmp_path: Path, fashion_mnist_dir: Path, score_file: Path
) -> None:
    def curriculum() -> Curriculum:
        if scoring == "file":
            return from_file(score_file)
        return Curriculum(start=0.1, full_at=0.9, min_images=40, rescore_every=2 if step == 13 else 1)

    seed_everything(5, verbose=False)
    first = Noting(fashion_mnist_dir)
    saver = checkpoint_every_step(tmp_path / "all")
    straight, _ = fit(tmp_path, first, ExactResume(), curriculum(), saver, enable_checkpointing=True)
    path = tmp_path / "all" / f"step={step}.ckpt"
    torch.load(path, weights_only=True)
    spoil_random_state()
    score_file.unlink()  # the scores are in the checkpoint
    second = Noting(fashion_mnist_dir)
    resumed, _ = fit(tmp_path, second, ExactResume(), curriculum(), ckpt_path=path)
    assert second.seen == first.seen[step:]
    assert_identical(straight, resumed)


class WriteResult(Callback):
    """Children of a fork can only leave files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        state = {**final_state(trainer, pl_module), "seen": trainer.datamodule.seen}  # type: ignore[attr-defined]
        torch.save(state, f"{self.path}-{trainer.global_rank}.pt")


@needs_gloo
def test_two_processes_resume_exactly(tmp_path: Path, fashion_mnist_dir: Path) -> None:
    def run(name: str, *callbacks: Callback, **options: Any) -> list[Any]:
        seed_everything(5, verbose=False)
        curriculum = Curriculum(start=0.1, full_at=0.9, min_images=40)
        written = WriteResult(tmp_path / name)
        data = Noting(fashion_mnist_dir, batch_size=30)
        options |= {"devices": 2, "strategy": "ddp_fork", "max_epochs": 2}
        fit(tmp_path, data, ExactResume(), curriculum, *callbacks, written, **options)
        return [torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True) for rank in range(2)]

    straight = run("straight", checkpoint_every_step(tmp_path / "all"), enable_checkpointing=True)
    resumed = run("resumed", ckpt_path=tmp_path / "all" / "step=4.ckpt")
    for state in straight:
        state["seen"] = state["seen"][-18 + 4 :]
    assert_identical(straight, resumed)


# ---- scores ------------------------------------------------------------------------------------------------


def reference_scores(module: Small, data: FashionMNISTDataModule, quantity: str) -> Tensor:
    """One image after the other, in double precision, from the definitions."""
    net = module.net.double().eval()
    images, labels, train = training_split(data)
    images, labels = images[train], labels[train]
    result = []
    for image, label in zip(data.pipeline.evaluate(images).double(), labels.tolist(), strict=True):
        p = net(image[None]).softmax(1)[0].tolist()
        wrong = max(q for k, q in enumerate(p) if k != label)
        result.append(-torch.tensor(p[label]).log() if quantity == "loss" else torch.tensor(wrong - p[label]))
    return torch.stack(result)


@pytest.mark.parametrize("quantity", ["loss", "margin"])
@pytest.mark.parametrize("bare", [False, True])
def test_scores_of_a_reference(quantity: Any, bare: bool, tmp_path: Path, fashion_mnist_dir: Path) -> None:
    module = Small()
    path = tmp_path / "reference.ckpt"
    torch.save(module.net.state_dict() if bare else {"state_dict": module.state_dict()}, path)
    curriculum = Curriculum(quantity, reference=path, start=0.5, min_images=1)
    data = Noting(fashion_mnist_dir)
    fit(tmp_path, data, curriculum, max_steps=4)
    assert curriculum._values is not None
    torch.testing.assert_close(
        curriculum._values.double(), reference_scores(module, data, quantity).double(), rtol=1e-4, atol=1e-5
    )


class Asked(Callback):
    """What scoring leaves behind."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        net, loader = pl_module.net, trainer.train_dataloader
        net[5].eval()  # a layer that somebody put into another mode than the rest
        before = [torch.get_rng_state(), [m.training for m in net.modules()], dict(net.state_dict())]
        before[2] = {name: value.clone() for name, value in before[2].items()}
        self.scores = score_images(trainer, net, None, loader, "loss", "Asked")
        after = [torch.get_rng_state(), [m.training for m in net.modules()], dict(net.state_dict())]
        assert_identical(before, after)


def test_scoring_leaves_no_trace(tmp_path: Path, fashion_mnist_dir: Path) -> None:
    asked = Asked()
    fit(tmp_path, Noting(fashion_mnist_dir), asked, max_steps=2)
    assert asked.scores.shape == (IMAGES,)


def test_self_paced_scores_are_those_of_the_epochs_begin(tmp_path: Path, fashion_mnist_dir: Path) -> None:
    class Compare(Callback):
        epochs = 0

        def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
            now = score_images(trainer, pl_module.net, None, trainer.train_dataloader, "loss", "Compare")  # type: ignore[arg-type]
            assert torch.equal(now, curriculum._values) is (trainer.current_epoch % 2 == 0)
            self.epochs += 1

    curriculum, compare = Curriculum(rescore_every=2), Compare()
    fit(tmp_path, Noting(fashion_mnist_dir), curriculum, compare)
    assert compare.epochs == 3


class SameRanking(Callback):
    def __init__(self, folder: Path, curriculum: Curriculum) -> None:
        self.folder, self.curriculum = folder, curriculum

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        state = {"scores": self.curriculum._values, "seen": trainer.datamodule.seen}  # type: ignore[attr-defined]
        torch.save(state, self.folder / f"rank-{trainer.global_rank}.pt")


@needs_gloo
def test_two_processes_rank_alike_and_see_what_one_sees(tmp_path: Path, fashion_mnist_dir: Path) -> None:
    """With the network as it starts; it has seen the same images then, whatever rounding does to scores."""
    seen = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        seed_everything(5, verbose=False)
        curriculum = Curriculum(start=0.3, min_images=1, rescore_every=9)
        strategy = "ddp_fork" if processes > 1 else "auto"
        data = Noting(fashion_mnist_dir, batch_size=60 // processes)
        options = {"devices": processes, "strategy": strategy, "max_epochs": 2}
        fit(folder, data, curriculum, SameRanking(folder, curriculum), **options)
        states = [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(processes)]
        assert torch.equal(states[0]["scores"], states[-1]["scores"])
        seen.append([sorted(joined(parts)) for parts in zip(*(s["seen"] for s in states), strict=True)])
    assert seen[0] == seen[1]


# ---- refusals ----------------------------------------------------------------------------------------------


class Plain(Small):
    """A BatchLoader of its own, without a data module."""

    def train_dataloader(self) -> BatchLoader:
        images = torch.zeros(8, 1, 28, 28, dtype=torch.uint8)
        return BatchLoader(images, torch.arange(8), batch_size=4, shuffle=True, seed=1)


def test_what_is_refused_before_the_first_step(
    tmp_path: Path, fashion_mnist_dir: Path, score_file: Path
) -> None:
    other = tmp_path / "other.ckpt"
    torch.save({"state_dict": {"net.2.weight": torch.zeros(3, 3)}}, other)
    for callbacks, options, message in (
        ([Curriculum()], {"max_epochs": -1}, "the run, which has no end: set max_epochs or max_steps"),
        (
            [Curriculum(), FullBatch()],
            {},
            "it shuffles images, which FullBatch turns off; remove one of the two",
        ),
        (
            [NoiseFree(), Curriculum()],
            {},
            "it shuffles images, which NoiseFree turns off; remove one of the two",
        ),
        ([Curriculum()], {"overfit_batches": 2}, "set its shuffle to every_epoch, and no overfit_batches"),
        (
            [Curriculum("loss", reference=other)],
            {},
            r"2.weight is \(3, 3\) in .*other.ckpt, expected \(16, 49\)",
        ),
        ([Curriculum(net="net.0")], {}, r"must return a score per class.*\(512, 1, 7, 7\)"),
    ):
        module = Small()
        before = {name: value.clone() for name, value in module.state_dict().items()}
        with pytest.raises(MisconfigurationException, match=f"^Curriculum: .*{message}"):
            fit(tmp_path, Noting(fashion_mnist_dir), *callbacks, module=module, **options)
        assert_identical(before, dict(module.state_dict()))
    plain = {"default_root_dir": tmp_path, "accelerator": "cpu", "logger": False, "max_epochs": 1}
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    with pytest.raises(
        MisconfigurationException, match="scoring images by a network needs a data module of lightning_optreg"
    ):
        Trainer(callbacks=[Curriculum()], **plain, **quiet).fit(Plain())
    with pytest.raises(FileNotFoundError, match=r"reference must be a file, .* does not exist"):
        fit(tmp_path, Noting(fashion_mnist_dir), Curriculum("margin", reference=tmp_path / "nothing"))
    torch.save(torch.zeros(540), score_file)
    with pytest.raises(ValueError, match=r"scores of shape \(540,\), expected \(600,\)"):
        fit(tmp_path, Noting(fashion_mnist_dir), from_file(score_file))
