"""A run that is stopped and continued sees the batches of one that never stopped."""

import pytest
import torch
from lightning.pytorch import Callback, LightningModule

from lightning_optreg.data.loader import BatchLoader
from tests.data.expected_warnings import FEW_BATCHES, WORKERS
from tests.small_runs import quiet_trainer

pytestmark = [*WORKERS, FEW_BATCHES]


class Recorder(LightningModule):
    """Writes down which images it is trained on."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch_idx, batch.place.epoch, batch.index.tolist()))
        return self.layer(batch.images.float().flatten(1)).mean()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Saver(Callback):
    """Saves a checkpoint wherever callbacks do, with the number of training batches seen before it."""

    def __init__(self, folder):
        self.folder = folder
        self.saved = []

    def save(self, trainer, hook):
        path = self.folder / f"{hook}-{len(trainer.lightning_module.seen)}.ckpt"
        trainer.save_checkpoint(path)
        self.saved.append((path, len(trainer.lightning_module.seen)))

    def on_train_batch_end(self, trainer, *_):
        self.save(trainer, "batch")

    def on_validation_end(self, trainer, *_):
        if not trainer.sanity_checking:
            self.save(trainer, "validation")

    def on_train_epoch_end(self, trainer, *_):
        self.save(trainer, "epoch")


def run(folder, *, ckpt_path=None, num_workers=0, callbacks=(), batch_size=4, clock=False, **options):
    images = torch.arange(22, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    labels = torch.arange(22)
    model = Recorder()
    trainer = quiet_trainer(
        default_root_dir=folder, callbacks=list(callbacks), **{"max_epochs": 3, **options}
    )
    train = BatchLoader(  # 6 batches
        images,
        labels,
        batch_size=batch_size,
        shuffle=True,
        seed=5,
        num_workers=num_workers,
        clock=(lambda: (trainer.current_epoch, trainer.fit_loop.batch_idx + 1)) if clock else None,
    )
    val = BatchLoader(images, labels, batch_size=8, shuffle=False, seed=5)
    trainer.fit(model, train, val, ckpt_path=ckpt_path, weights_only=True)
    return model.seen


def expected_order():
    images, labels = torch.zeros(22, 1, 1, 1, dtype=torch.uint8), torch.arange(22)
    loader = BatchLoader(images, labels, batch_size=4, shuffle=True, seed=5)
    order = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        order += [(epoch, batch.place.step, epoch, batch.index.tolist()) for batch in loader]
    return order


@pytest.mark.parametrize(
    "options",
    [
        {"limit_train_batches": 4},
        {"clock": True, "max_epochs": -1, "max_steps": 15},
        {"clock": True, "reload_dataloaders_every_n_epochs": 1},
        *(
            pytest.param(options, marks=pytest.mark.slow)
            for options in (
                {},
                {"num_workers": 2},
                {"accumulate_grad_batches": 2},
                {"val_check_interval": 0.5},
                {"clock": True},
                {"clock": True, "num_workers": 2},
                {"clock": True, "val_check_interval": 0.5, "accumulate_grad_batches": 2},
                {"clock": True, "limit_train_batches": 4},
            )
        ),
    ],
    ids=lambda options: "-".join(f"{k}={v}" for k, v in options.items()) or "plain",
)
def test_resume_from_every_checkpoint(tmp_path, options):
    saver = Saver(tmp_path)
    straight = run(tmp_path, callbacks=[saver], **options)
    wanted = expected_order()
    if "limit_train_batches" in options:
        wanted = [entry for entry in wanted if entry[1] < 4]
    assert straight == wanted[: options.get("max_steps")]
    chosen = saver.saved[::4] if options.get("num_workers") else saver.saved
    for path, before in chosen:
        assert run(tmp_path, ckpt_path=path, **options) == straight[before:], path.name


def test_a_new_fit_starts_at_the_beginning(tmp_path):
    assert run(tmp_path, num_sanity_val_steps=2) == run(tmp_path, num_sanity_val_steps=0) == expected_order()


def test_another_batch_size_in_mid_epoch_is_refused_and_at_its_end_taken(tmp_path):
    saver = Saver(tmp_path)
    run(tmp_path, callbacks=[saver], max_epochs=1)
    middle, end = tmp_path / "batch-3.ckpt", tmp_path / "epoch-6.ckpt"
    with pytest.raises(ValueError, match=r"took 4 images per batch .* would take 8"):
        run(tmp_path, ckpt_path=middle, batch_size=8)
    assert [len(index) for *_, index in run(tmp_path, ckpt_path=end, batch_size=8)] == [8, 8, 6] * 2


class Breakdown(Saver):
    """Fails in the middle of a training step and saves what is then there, as OnExceptionCheckpoint does."""

    def on_train_batch_start(self, trainer, *_):
        if (trainer.current_epoch, trainer.fit_loop.batch_idx) == (1, 2):
            raise RuntimeError("breakdown")

    def on_train_batch_end(self, *_):
        pass

    def on_exception(self, trainer, *_):
        self.save(trainer, "exception")


def test_a_batch_that_was_broken_off_comes_again(tmp_path):
    breakdown = Breakdown(tmp_path)
    with pytest.raises(RuntimeError, match="breakdown"):
        run(tmp_path, callbacks=[breakdown], clock=True)
    path, _ = breakdown.saved[-1]
    assert path.name == "exception-8.ckpt"
    assert run(tmp_path, ckpt_path=path, clock=True) == expected_order()[8:]
