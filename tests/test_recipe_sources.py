"""Recipes that name a published program or paper do what it does; each figure is that source's."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

CONFIGS = Path(__file__).parents[1] / "configs"


def recipe(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    return found


def fb_resnet_torch(epoch: int) -> float:
    """Its train.lua; epochs count from 1."""
    return 0.1 * 0.1 ** (2 if epoch >= 122 else 1 if epoch >= 81 else 0)


def stochastic_depth(epoch: int) -> float:
    """Section 4: divided by 10 after epochs 250 and 375."""
    return 0.1 * 0.1 ** (2 if epoch > 375 else 1 if epoch > 250 else 0)


def en_resnet(epoch: int) -> float:
    """Its main_pgd_enresnet5_20.py, which counts epochs from 0."""
    return 0.1 * 0.1 ** sum(epoch - 1 >= start for start in (80, 120, 160))


def pytorch_cifar(epoch: int) -> float:
    """Its README until November 2020: [0, 150), [150, 250), [250, 350)."""
    return 0.1 * 0.1 ** sum(epoch - 1 >= start for start in (150, 250))


@pytest.mark.parametrize(
    ("name", "epochs", "rate"),
    [
        *(
            (f"cifar10/{name}", 164, fb_resnet_torch)
            for name in ("plain20", "plain56", "resnet20", "resnet56")
        ),
        ("cifar10/resnet110", 164, fb_resnet_torch),
        ("cifar10/preact_resnet164", 164, fb_resnet_torch),
        ("cifar10/stochastic_depth110", 500, stochastic_depth),
        ("cifar10/en_resnet20", 200, en_resnet),
        ("cifar10/vgg16", 350, pytorch_cifar),
        ("cifar10/googlenet", 350, pytorch_cifar),
    ],
)
def test_rates_fall_when_the_sources_do(name: str, epochs: int, rate: Any) -> None:
    settings = recipe(name)
    schedule = settings["lr_scheduler"]["init_args"]
    assert settings["trainer"]["max_epochs"] == epochs
    warm = schedule.get("warmup", 0)  # ours where the source's is in steps; its README or paper says so
    for epoch in range(warm + 1, epochs + 1):
        falls = sum(milestone <= epoch - 1 for milestone in schedule["milestones"])
        assert settings["optimizer"]["init_args"]["lr"] * schedule["gamma"] ** falls == pytest.approx(
            rate(epoch)
        )


def test_wide_resnet_is_the_papers_without_dropout() -> None:
    """Section 3: padding by reflection; 4.00 % is table 5, which has no dropout."""
    settings = recipe("cifar10/wide_resnet28_10")
    assert not settings["model"]["net"]["init_args"].get("dropout")
    crop = settings["data"]["init_args"]["augment"][0]
    assert crop == {"class_path": "RandomCrop", "init_args": {"padding": 4, "padding_mode": "reflect"}}


def test_googlenet_has_rate_and_length_of_one_schedule() -> None:
    """Caffe's solver.prototxt: times 0.96 every 320,000 of 10 million steps, in batches of 32."""
    settings = recipe("imagenet/googlenet")
    assert settings["lr_scheduler"]["init_args"] == {"step_size": 8, "gamma": 0.96}
    epoch = 1_281_167 / settings["data"]["init_args"]["batch_size"]
    assert round(320_000 / epoch) == 8
    assert settings["trainer"]["max_epochs"] == round(10_000_000 / epoch, -1)


def test_airbench_has_the_published_steps() -> None:
    """Its airbench94.py: the loss is a sum over 1024 images, rate and decay are decoupled from momentum."""
    settings = recipe("cifar10/airbench")
    lookahead = settings["optimizer"]["init_args"]
    sgd = lookahead["optimizer"]["init_args"]
    momentum, batch = 0.85, 1024
    kilostep_scale = 1024 * (1 + 1 / (1 - momentum))
    rate = 11.5 / kilostep_scale
    decay = 0.0153 * batch / kilostep_scale
    assert settings["data"]["init_args"]["batch_size"] == batch
    assert sgd["momentum"] == momentum
    assert sgd["lr"] == pytest.approx(rate * batch)  # a mean's gradient is a sum's over the batch
    assert sgd["lr"] * sgd["weight_decay"] == pytest.approx(decay, rel=1e-4)
    # torch's decay is added to the mean's gradient, so per step it is the rate times the decay, as there
    steps = 480
    assert lookahead["decay_steps"] == steps == settings["trainer"]["max_epochs"] * (50_000 // batch)
    assert 1 - lookahead["alpha_end"] == pytest.approx(0.95**5)
    arguments = settings["lr_scheduler"]["init_args"]
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=sgd["lr"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, **arguments, total_steps=steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"] / sgd["lr"])
        optimizer.step()
        schedule.step() if len(rates) < steps else None
    warm = int(0.23 * steps)
    for step, found in enumerate(rates):
        rising = 0.2 + 0.8 * step / warm
        falling = 1 - 0.93 * (step - warm) / (steps - warm)
        # OneCycleLR reaches its peak and its end a step earlier
        assert found == pytest.approx(rising if step < warm else falling, abs=0.01), step
