"""Recipes that name a published program or paper do what it does; each figure is that source's."""

from pathlib import Path
from typing import Any

import pytest
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
