"""Multiples of the learning rate for some parameters, which every schedule keeps."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LearningRateFinder, LearningRateMonitor
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CyclicLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
)

from lightning_optreg.__main__ import main
from lightning_optreg.callbacks import AdamToSGD
from lightning_optreg.classifier import ImageClassifier
from lightning_optreg.optimizers import FilterMuon, Lookahead
from lightning_optreg.schedulers import InverseTimeDecay, SnapshotCosine, Warmup
from tests.classifier.small_models import loader, small_model, small_net, trainer_for
from tests.small_runs import Diary

FACTORS = {"LayerNorm.bias": 64.0, "net.3.*": 0.5}
RATES = {"x1": 0.1, "x0.5": 0.05, "x64": 6.4}


def made(**arguments: Any) -> tuple[Optimizer, Any]:
    configured = small_model(lr_factors=FACTORS, **arguments).configure_optimizers()
    if isinstance(configured, dict):
        return configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    return configured, None


def rates(optimizer: Optimizer) -> dict[str, float]:
    return {group["name"]: float(group["lr"]) for group in optimizer.param_groups}


@pytest.mark.parametrize(
    "make",
    [
        partial(SGD, lr=0.1),
        partial(AdamW, lr=0.1),
        partial(SGD, lr=torch.tensor(0.1, dtype=torch.float64)),
        partial(FilterMuon, lr=0.1),
        partial(Lookahead, optimizer=partial(SGD, lr=0.1)),
        None,
    ],
    ids=["sgd", "adamw", "tensor", "muon", "lookahead", "default"],
)
def test_groups_have_their_rates(make: Any) -> None:
    optimizer, _ = made(optimizer=make)
    assert rates(optimizer) == pytest.approx(RATES)
    given = getattr(make, "keywords", {}).get("lr")
    if isinstance(given, Tensor):
        assert given.item() == 0.1


def test_a_step_is_longer_by_the_factor() -> None:
    plain, scaled = small_model(), small_model(lr_factors=FACTORS)
    before = {name: p.detach().clone() for name, p in plain.named_parameters()}
    for model in (plain, scaled):
        trainer_for(max_steps=1, max_epochs=-1).fit(model, loader(), loader())
    others = dict(scaled.named_parameters())
    for name, parameter in plain.named_parameters():
        factor = {"net.2.bias": 64.0, "net.3.weight": 0.5, "net.3.bias": 0.5}.get(name, 1.0)
        step, longer = parameter - before[name], others[name] - before[name]
        torch.testing.assert_close(longer, factor * step, rtol=1e-4, atol=1e-6)


SCHEDULES: dict[str, Any] = {
    "OneCycleLR": partial(OneCycleLR, max_lr=0.1, total_steps=20),
    "CyclicLR": partial(CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=4),
    "CyclicLR of two makers": partial(partial(CyclicLR, base_lr=0.01), max_lr=0.1, step_size_up=4),
    "OneCycleLR after a warm-up": partial(Warmup, schedule=partial(OneCycleLR, max_lr=0.1, total_steps=20)),
    "CosineAnnealingLR": partial(CosineAnnealingLR, T_max=20),
    "LinearLR": LinearLR,
    "MultiStepLR": partial(MultiStepLR, milestones=[3, 6]),
    "SnapshotCosine": partial(SnapshotCosine, total_steps=20, cycles=2),
    "InverseTimeDecay": InverseTimeDecay,
    "a function that keeps them": lambda o: CosineAnnealingLR(o, 20),
    "a function with a list": lambda o: OneCycleLR(o, [0.1, 0.05, 6.4], total_steps=20),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_keeps_them(name: str) -> None:
    optimizer, schedule = made(optimizer=partial(SGD, lr=0.1, momentum=0.9), lr_scheduler=SCHEDULES[name])
    seen = []
    for _ in range(15):
        found = rates(optimizer)
        assert found["x64"] == pytest.approx(64 * found["x1"])
        assert found["x0.5"] == pytest.approx(0.5 * found["x1"])
        seen.append(found["x1"])
        optimizer.step()
        schedule.step()
    assert len(set(seen)) > 2
    assert max(seen) <= 0.1 + 1e-9


def test_a_plateau_keeps_them() -> None:
    optimizer, schedule = made(lr_scheduler=partial(ReduceLROnPlateau, patience=0, factor=0.1))
    for _ in range(3):
        schedule.step(1.0)
    assert rates(optimizer) == pytest.approx({name: rate / 100 for name, rate in RATES.items()})


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: OneCycleLR(o, 0.1, total_steps=20),
        lambda o: CyclicLR(o, 0.01, 0.1),
        lambda o: Warmup(o, lambda o: OneCycleLR(o, 0.1, total_steps=20)),
    ],
    ids=["one cycle", "cycles", "after a warm-up"],
)
def test_a_function_whose_schedule_loses_them(schedule: Any) -> None:
    with pytest.raises(
        MisconfigurationException, match=r"^lr_scheduler: \w+ has set one rate for all groups"
    ):
        made(optimizer=partial(SGD, lr=0.1, momentum=0.9), lr_scheduler=schedule)


def test_a_rate_that_was_found_is_multiplied() -> None:
    model = small_model(lr_factors=FACTORS, lr_scheduler=partial(OneCycleLR, max_lr=0.1, total_steps=20))
    model.lr = 0.2
    found = model.configure_optimizers()["optimizer"]
    assert [group["max_lr"] for group in found.param_groups] == pytest.approx([0.2, 0.1, 12.8])
    model.make_lr_scheduler = None
    assert rates(model.configure_optimizers()) == pytest.approx({n: 2 * r for n, r in RATES.items()})


def test_lightnings_finder_and_monitor(tmp_path: Path) -> None:
    model, diary = small_model(lr_factors=FACTORS), Diary()
    finder = LearningRateFinder(min_lr=1e-3, max_lr=0.1, num_training_steps=20, early_stop_threshold=None)
    trainer = trainer_for(callbacks=[finder, LearningRateMonitor()], logger=diary, default_root_dir=tmp_path)
    trainer.fit(model, loader(100), loader())
    assert model.lr is not None
    logged = {name: value for (_, name), value in diary.values.items() if name.startswith("lr-")}
    assert logged == pytest.approx(
        {"lr-SGD/x1": model.lr, "lr-SGD/x0.5": 0.5 * model.lr, "lr-SGD/x64": 64 * model.lr}
    )


def test_after_adam_sgd_has_the_same_ratios() -> None:
    model = small_model(lr_factors=FACTORS, optimizer=partial(Adam, lr=1e-3))
    trainer = trainer_for(max_epochs=2, callbacks=[AdamToSGD(at_epoch=1, lr=0.01)])
    trainer.fit(model, loader(), loader())
    found = [group["lr"] for group in trainer.optimizers[0].param_groups]
    assert [rate / found[0] for rate in found] == pytest.approx([1.0, 0.5, 64.0])


def test_without_factors_groups_are_as_before() -> None:
    (group,) = small_model().configure_optimizers().param_groups
    assert not group.keys() & {"lr_factor", "name"}


def test_wrong_factors() -> None:
    with pytest.raises(
        ValueError, match=r"^ImageClassifier: lr_factors\['\*'\] must be in \(0, inf\), got -1"
    ):
        small_model(lr_factors={"*": -1})
    with pytest.raises(
        ValueError, match=r"lr_factors must match .* got 'LayerNrm.bias'; did you mean LayerNorm"
    ):
        small_model(lr_factors={"LayerNrm.bias": 2.0}).configure_optimizers()


def test_an_optimizer_of_other_groups() -> None:
    net = small_net()
    model = ImageClassifier(
        net, num_classes=3, optimizer=lambda groups: SGD(net.parameters(), lr=0.1), lr_factors=FACTORS
    )
    with pytest.raises(MisconfigurationException, match=r"^ImageClassifier: lr_factors need an optimizer of"):
        model.configure_optimizers()

    class NoRate(Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {})

    with pytest.raises(MisconfigurationException, match=r"lr_factors needs an optimizer with lr; NoRate has"):
        ImageClassifier(nn.Linear(4, 3), optimizer=NoRate, lr_factors={"*": 2.0}).configure_optimizers()


def test_from_a_configuration(
    fashion_mnist_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also from the one that the run writes, and in a schedule of the command line."""
    given = tmp_path / "factors.yaml"
    given.write_text(yaml.safe_dump({"model": {"lr_factors": {"Conv2d.bias": 64, "net.output.*": 0.5}}}))
    options = ["--model.net=LeNet5", f"--data.data_dir={fashion_mnist_dir}", "--data.verify_checksum=false"]
    options += [f"--trainer.default_root_dir={tmp_path}", "--trainer.max_epochs=1", "--data.batch_size=8"]
    options += ["--lr_scheduler=OneCycleLR", "--lr_scheduler.max_lr=0.1", "--model.lr_interval=step"]
    options += ["--trainer.limit_train_batches=3", "--trainer.limit_val_batches=1"]
    options += ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    assert main(["fit", "--data=FashionMNISTDataModule", *options, "--config", str(given)]) == 0
    run = tmp_path / "version_0"
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    groups = checkpoint["optimizer_states"][0]["param_groups"]
    assert {g["name"]: g["max_lr"] for g in groups} == pytest.approx({"x1": 0.1, "x0.5": 0.05, "x64": 6.4})
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert written["model"]["lr_factors"] == {"Conv2d.bias": 64, "net.output.*": 0.5}
    assert main(["fit", "--config", str(run / "config.yaml"), "--trainer.max_epochs=2"]) == 0
    capsys.readouterr()
    given.write_text(yaml.safe_dump({"model": {"lr_factors": {"Conv2.bias": 64}}}))
    assert main(["fit", "--data=FashionMNISTDataModule", *options, "--config", str(given)]) != 0
    assert "did you mean Conv2d.bias" in capsys.readouterr().err
