"""Whitening at the start of a fit: from which images, when, once for all processes; biases stop exactly."""

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_optreg import ImageClassifier
from lightning_optreg.callbacks import ExactResume, MixUp, PatchWhitening
from lightning_optreg.data import RandomHorizontalFlip
from lightning_optreg.layers import WhitenedConv2d
from lightning_optreg.layers.whitened_conv import patch_covariance
from lightning_optreg.randomness.kept_generators import Generators, same_states
from tests.contracts.images import FewImages
from tests.contracts.layers import SHAPE
from tests.contracts.runs import checkpoint_every_step
from tests.processes import ddp, in_processes, needs_gloo
from tests.resume_tools import assert_identical, final_state
from tests.small_runs import quiet_trainer


def small_net(channels: int = SHAPE[0]) -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(
        WhitenedConv2d(channels), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * channels, 3)
    )


def classifier() -> ImageClassifier:
    return ImageClassifier(
        small_net(),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
        num_classes=3,
    )


class Biases(Callback):
    """Keeps the bias, and whether it requires a gradient, after each step."""

    def __init__(self) -> None:
        self.values: list[Tensor] = []
        self.required: list[bool] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        self.values.append(pl_module.net[0].bias.detach().clone())
        self.required.append(pl_module.net[0].bias.requires_grad)


def train(
    folder: Path, callbacks: list[Callback], module: LightningModule | None = None, **options: Any
) -> tuple[Any, Trainer]:
    seed_everything(1, verbose=False)
    module = module or classifier()
    ckpt_path = options.pop("ckpt_path", None)
    data = FewImages(
        batch_size=16, val_fraction=0.28, augment=[RandomHorizontalFlip()], cache_dir=str(folder / "cache")
    )
    trainer = quiet_trainer(
        callbacks=callbacks,
        default_root_dir=folder,
        **{"max_epochs": 3, "num_sanity_val_steps": 0, **options},
    )
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module, trainer


@pytest.mark.parametrize(("count", "every"), [(5000, 72), (18, 18)])
def test_filters_are_those_of_training_images_as_in_evaluation(
    count: int, every: int, tmp_path: Path
) -> None:
    module, trainer = train(tmp_path, [PatchWhitening(count)], max_epochs=1)
    data = trainer.datamodule  # type: ignore[attr-defined]  # a connector sets it
    loader = data.train_dataloader()
    chosen = loader.indices[torch.arange(every) * 72 // every]
    pixels = loader.images[chosen].double() / 255
    mean, std = (data.statistics.mean, data.statistics.std)
    images = (pixels - mean[:, None, None]) / std[:, None, None]
    expected = WhitenedConv2d(SHAPE[0]).double()
    expected.whiten(images)
    found = module.net[0]
    torch.testing.assert_close(found.weight, expected.weight.float(), rtol=1e-4, atol=1e-4)
    assert found.patches == every * 7 * 9


class Foreign(LightningModule):
    """Somebody's module, whose loader shuffles with the global generator and has one of its own."""

    place: int | str = 0

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.net = small_net(channels)
        self.seen: list[Tensor] = []

    def train_dataloader(self) -> Any:
        generator = torch.Generator().manual_seed(0)
        x, y = torch.randn(24, 3, 6, 6, generator=generator), torch.arange(24) % 3
        rows: Any = list(zip(x, y, strict=True))
        if self.place == "image":
            rows = [{"image": a, "label": b} for a, b in rows]
        return DataLoader(rows, batch_size=8, shuffle=True)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch.values() if isinstance(batch, dict) else batch
        self.seen.append(x.clone())
        return nn.functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class InDictionaries(Foreign):
    place = "image"


@pytest.mark.parametrize(("kind", "place"), [(Foreign, 0), (InDictionaries, "image")])
def test_other_data_give_their_first_batch(kind: type[Foreign], place: Any, tmp_path: Path) -> None:
    module, generators = kind(), None
    runs = []
    for callbacks in ([], [PatchWhitening(images=place)]):
        seed_everything(1, verbose=False)
        module = kind()
        trainer = quiet_trainer(callbacks=callbacks, max_epochs=2, default_root_dir=tmp_path)
        trainer.fit(module)
        states = Generators(torch.device("cpu")).read()
        assert generators is None or same_states(states, generators), "generators were drawn from"
        generators = states
        runs.append(module.seen)
    assert_identical(*runs)  # the same batches in the same order
    expected = WhitenedConv2d(3)
    expected.whiten(module.seen[0])
    assert torch.equal(module.net[0].weight, expected.weight)


def test_generators_and_order_are_left_alone(tmp_path: Path) -> None:
    class Images(Callback):
        def __init__(self) -> None:
            self.seen: list[Tensor] = []

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            self.seen.append(batch[0].clone())

    runs, states = [], []
    for callbacks in ([], [PatchWhitening()]):
        images = Images()
        train(tmp_path, [*callbacks, images])
        runs.append(images.seen)
        states.append(Generators(torch.device("cpu")).read())
    assert_identical(*runs)
    assert same_states(*states)


@pytest.mark.parametrize("bias_epochs", [0, 1, 2])
def test_the_bias_stops_exactly(bias_epochs: int, tmp_path: Path) -> None:
    biases = Biases()
    module, _ = train(tmp_path, [PatchWhitening(bias_epochs=bias_epochs), biases])
    steps = bias_epochs * 5
    assert len(biases.values) == 15
    assert biases.required == [True] * steps + [False] * (15 - steps)
    values = [torch.zeros(8 * SHAPE[0]), *biases.values]
    changes = [not torch.equal(a, b) for a, b in pairwise(values)]
    assert changes == biases.required  # neither momentum nor weight decay moves it afterwards
    assert module.net[0].bias.requires_grad, "it can be trained again after the run"


def test_the_bias_is_always_trained_if_asked(tmp_path: Path) -> None:
    biases = Biases()
    train(tmp_path, [PatchWhitening(bias_epochs=None), biases])
    assert all(biases.required)


def test_a_bias_that_its_user_froze_stays_frozen(tmp_path: Path) -> None:
    module, biases = classifier(), Biases()
    module.net[0].bias.requires_grad_(False)
    train(tmp_path, [PatchWhitening(bias_epochs=1), biases], module)
    assert not any(biases.required)
    assert not module.net[0].bias.requires_grad


@pytest.mark.parametrize(
    ("step", "exact"),
    # In the middle of an epoch, Lightning by itself does not resume exactly.
    [(3, True), (5, True), (5, False), (7, True), (10, True), (10, False), (12, True)],
)
def test_a_resumed_run_stops_at_the_same_step(step: int, exact: bool, tmp_path: Path) -> None:
    """In the middle and at the end of epochs, before and after the bias stops."""

    def callbacks() -> list[Callback]:
        return [*([ExactResume()] if exact else []), PatchWhitening(bias_epochs=2)]

    saver = checkpoint_every_step(tmp_path)
    module, trainer = train(tmp_path, [*callbacks(), saver], enable_checkpointing=True)
    straight = final_state(trainer, module)
    other = classifier()
    other.net[0].reset_parameters()  # other filters than those of the checkpoint
    module, trainer = train(tmp_path, callbacks(), other, ckpt_path=tmp_path / f"step={step}.ckpt")
    assert_identical(straight, final_state(trainer, module))


def test_filters_of_a_checkpoint_and_loaded_ones_are_kept(tmp_path: Path) -> None:
    module = classifier()
    module.net[0].whiten(torch.randn(8, *SHAPE))
    before = module.net[0].weight.clone()
    train(tmp_path, [PatchWhitening()], module, max_epochs=1)
    assert torch.equal(module.net[0].weight, before)
    plain, saver = classifier(), checkpoint_every_step(tmp_path)
    before = plain.net[0].weight.clone()
    train(tmp_path, [saver], plain, max_epochs=1, enable_checkpointing=True)
    resumed, _ = train(tmp_path, [PatchWhitening()], max_epochs=2, ckpt_path=tmp_path / "step=5.ckpt")
    assert torch.equal(resumed.net[0].weight, before)


def test_a_validation_before_the_first_step_sees_the_filters(tmp_path: Path) -> None:
    class Look(Callback):
        patches = 0

        def on_sanity_check_start(self, trainer: Trainer, module: Any) -> None:
            self.patches = int(module.net[0].patches)

    look = Look()
    train(tmp_path, [PatchWhitening(), look], max_epochs=1, num_sanity_val_steps=2)
    assert look.patches == 72 * 7 * 9


@pytest.mark.parametrize("accumulate", [1, 3])
def test_gradients_are_dropped_before_others_see_them(accumulate: int, tmp_path: Path) -> None:
    class Sees(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, module: Any, optimizer: Any) -> None:
            assert (module.net[0].bias.grad is None) == (trainer.current_epoch >= 1)

    train(tmp_path, [Sees(), PatchWhitening(bias_epochs=1)], accumulate_grad_batches=accumulate)


def in_two(rank: int, folder: Path) -> None:
    """What each process does, with data of this package and with other data."""
    biases = Biases()
    module, _ = train(folder, [PatchWhitening(bias_epochs=1), biases], strategy=ddp(), devices=2)
    seed_everything(10 + rank, verbose=False)
    other = Foreign()
    trainer = quiet_trainer(
        callbacks=[PatchWhitening()], max_epochs=1, strategy=ddp(), devices=2, default_root_dir=folder
    )
    trainer.fit(other)
    found = {
        "ours": copy.deepcopy(module.state_dict()),
        "other": other.state_dict(),
        "first": other.seen[0],
        "values": biases.values,
    }
    torch.save(found, folder / f"{rank}.pt")


@needs_gloo
def test_two_processes(tmp_path: Path) -> None:
    in_processes(2, in_two, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert_identical(first["ours"], second["ours"])
    assert_identical(first["other"], second["other"])
    assert not torch.equal(first["first"], second["first"])
    expected = WhitenedConv2d(3)
    expected.whiten(first["first"])
    assert torch.equal(second["other"]["net.0.weight"], expected.weight)
    alone, _ = train(tmp_path, [PatchWhitening()], max_epochs=1)
    assert torch.equal(first["ours"]["net.0.weight"], alone.net[0].weight)
    stopped = first["values"][2:]  # epochs of three batches of twice as many images
    assert all(torch.equal(value, stopped[0]) for value in stopped)
    assert not torch.equal(first["values"][1], stopped[0])


@pytest.mark.parametrize(
    ("module", "callback", "message"),
    [
        (
            Foreign(4),
            PatchWhitening(),
            "net.0 takes 4 channels, but images have 3; a WhitenedConv2d must get",
        ),
        (Foreign(), PatchWhitening(images=2), r"images=2 is not in a training batch, which has \[0, 1\]"),
        (Foreign(), PatchWhitening(images=1), r"images must be a tensor \(N, C, H, W\) in a .*, got \(8,\)"),
    ],
)
def test_refusals(module: Foreign, callback: PatchWhitening, message: str, tmp_path: Path) -> None:
    before = copy.deepcopy(module.state_dict())
    trainer = quiet_trainer(callbacks=[callback], max_epochs=1, default_root_dir=tmp_path)
    with pytest.raises(MisconfigurationException, match=f"^PatchWhitening: {message}"):
        trainer.fit(module)
    assert_identical(dict(before), dict(module.state_dict()))
    assert module.net[0].bias.requires_grad


def test_mixed_images_are_taken_as_they_come(tmp_path: Path) -> None:
    module = Foreign()
    trainer = quiet_trainer(
        callbacks=[MixUp(num_classes=3, seed=1), PatchWhitening()], max_epochs=1, default_root_dir=tmp_path
    )
    trainer.fit(module)
    covariance = patch_covariance(module.seen[0], 2)
    torch.testing.assert_close(
        module.net[0].weight[:12].flatten(1).double().square().sum(),
        (1 / (torch.linalg.eigvalsh(covariance) + 5e-4)).sum(),
        rtol=1e-4,
        atol=1e-4,
    )
