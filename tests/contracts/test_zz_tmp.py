import torch, sys, pytest
from pathlib import Path
from typing import Any
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import nn
from lightning_optreg import ImageClassifier, optimizers
from tests.contracts.images import FewImages, SmallNet
from tests.contracts.optimizers import FIRST_ORDER
from tests.contracts.parts import CALLBACKS
from tests.small_runs import quiet_trainer
from tests.fake_device import *

class First(Callback):
    def __init__(self, d): self.d=d
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.current_epoch and batch_idx: self.d.watching=True
class Last(Callback):
    def __init__(self, d): self.d=d
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.is_last_batch: self.d.watching=False

def fit(folder, callbacks, optimizer, kind="plain", data={}, **options):
    seed_everything(1, verbose=False)
    with FakeDevice() as d:
        module = ImageClassifier(SmallNet(nn.Identity(), kind), optimizer=optimizer, num_classes=3)
        trainer = quiet_trainer(accelerator="cpu", strategy=FakeDevice.strategy(), max_epochs=3, callbacks=[First(d), *callbacks, Last(d)],
            num_sanity_val_steps=0, default_root_dir=folder, log_every_n_steps=100, **options)
        trainer.fit(module, datamodule=FewImages(batch_size=16, val_fraction=0.28, cache_dir=str(folder/"cache"), **data))
        return module, d
WATCHED = [name for name, part in CALLBACKS.items() if "waits for nothing" not in part.excused]
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", ["none", *WATCHED])
def test_cb(name, precision, tmp_path):
    part = CALLBACKS.get(name)
    adam = part is not None and "Adam" in part.needs
    _, d = fit(tmp_path, [part.build_for_images()] if part else [],
        (lambda p: torch.optim.Adam(p, lr=0.01)) if adam else (lambda p: torch.optim.SGD(p, lr=0.1)),
        part.network if part else "plain", {"device":"cpu:1"}, precision=precision)
    assert d.copies == []
@pytest.mark.parametrize("name", [name for name, rule in FIRST_ORDER.items()])
def test_opt(name, tmp_path):
    fit(tmp_path, [], lambda p: getattr(optimizers, name)(p, **FIRST_ORDER[name].arguments))
