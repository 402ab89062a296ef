"""What a test says of a network's robustness, and that it changes nothing for the test itself."""

import copy
import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from lightning_optreg import ImageClassifier
from lightning_optreg.attacks import FGSM, IFGSM, PGD, CarliniWagner
from lightning_optreg.callbacks import NoiseMarginalization, NoisyEnsemble, RobustnessEvaluation
from lightning_optreg.callbacks.robustness._accuracies import wilson_interval
from lightning_optreg.layers import GaussianNoise
from lightning_optreg.randomness.kept_generators import Generators, same_states
from tests.attacks.small_attacked import SPACE, images_and_labels, trained
from tests.small_runs import quiet_trainer

NORMALISED: dict[str, Any] = {"mean": [0.4, 0.5], "std": [0.25, 0.3]}


def loader(count: int = 200, batch_size: int = 60) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*images_and_labels(count)), batch_size=batch_size)


def outcome(
    folder: Path, callbacks: list[Any], net: nn.Module | None = None, **options: Any
) -> dict[str, float]:
    module = ImageClassifier(net or trained(), num_classes=3)
    trainer = quiet_trainer(callbacks=callbacks, default_root_dir=folder, **options)
    torch.manual_seed(1)
    (found,) = trainer.test(module, loader(), verbose=False)
    return {name: float(value) for name, value in found.items()}


def test_the_accuracies_are_those_of_the_attacked_images(tmp_path: Path) -> None:
    attacks = [FGSM(0.05), IFGSM(0.05, steps=5), FGSM(0.1)]
    found = outcome(tmp_path, [RobustnessEvaluation(attacks, **NORMALISED)])
    net, right = trained(), []
    images, labels = images_and_labels()
    for attack in attacks:
        with torch.no_grad():
            parts = [
                net(attack(net, x, y, SPACE)).argmax(1) == y
                for x, y in zip(images.split(60), labels.split(60), strict=True)
            ]
        right.append(torch.cat(parts))
    names = ["fgsm", "ifgsm_5", "fgsm_2"]
    for name, each in zip(names, right, strict=True):
        assert found[f"optreg/robustness/{name}"] == pytest.approx(each.float().mean().item())
    with torch.no_grad():
        natural = net(images).argmax(1) == labels
    worst = torch.stack([natural, *right]).all(0).float().mean().item()
    assert found["optreg/robustness/worst"] == pytest.approx(worst)
    assert found["optreg/robustness/natural"] == found["test/accuracy"]


def test_tables_and_a_picture_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    place = "lightning_optreg.callbacks.robustness.robustness_evaluation.rank_zero_info"
    monkeypatch.setattr(place, said.append)
    callback = RobustnessEvaluation([FGSM(0.1), CarliniWagner(1.0, steps=5)], max_images=100, **NORMALISED)
    outcome(tmp_path, [callback])
    lines = (tmp_path / "robustness.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["natural", "FGSM", "C&W", "worst"]
    with (tmp_path / "robustness.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["images"] for row in rows] == ["100"] * 4
    for row, line, result in zip(rows, lines[2:], callback.results, strict=True):
        share = int(row["right"]) / 100
        assert float(row["accuracy"]) == share == result.share
        low, high = wilson_interval(int(row["right"]), 100)
        assert (float(row["low"]), float(row["high"])) == (low, high)
        assert f"{100 * share:.2f}" in line
    assert not (tmp_path / "robustness.png").exists()  # images of two channels are no picture
    assert said == [f"RobustnessEvaluation: wrote {tmp_path / 'robustness'}.md and .csv"]


def test_nothing_is_written_without_an_output(tmp_path: Path) -> None:
    outcome(tmp_path, [RobustnessEvaluation([FGSM(0.1)], output=None, **NORMALISED)])
    assert not list(tmp_path.iterdir())


def test_the_interval_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for right, images in ((0, 10), (3, 10), (10, 10), (912, 1000)):
        wanted = stats.binomtest(right, images).proportion_ci(method="wilson")
        assert wilson_interval(right, images) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def noisy() -> nn.Module:
    """Noisy in evaluation, from the global generator."""
    noise = GaussianNoise(0.3)
    noise.sampling = True
    return nn.Sequential(noise, trained())


class Residual(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * x.tanh()


CASES: dict[str, Any] = {
    "still": (trained, []),
    "noisy layers": (noisy, []),
    "NoisyEnsemble": (
        lambda: nn.Sequential(Residual(), trained()),
        [NoisyEnsemble(0.3, blocks=["Residual"], samples=3, seed=1)],
    ),
    "NoiseMarginalization": (lambda: nn.Sequential(nn.Dropout(0.3), trained()), [NoiseMarginalization(3)]),
}


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(True, id="before them", marks=pytest.mark.slow),
        pytest.param(False, id="after them"),
    ],
)
@pytest.mark.parametrize("case", CASES)
def test_the_test_itself_is_the_same(case: str, first: bool, tmp_path: Path) -> None:
    make, others = CASES[case]
    mine = RobustnessEvaluation([FGSM(0.05), PGD(0.05, steps=2, samples=2)], output=None, **NORMALISED)
    states = []
    results = []
    for callbacks in (others, [mine, *others] if first else [*others, mine]):
        results.append(outcome(tmp_path, callbacks, make()))
        states.append(Generators(torch.device("cpu")).read())
    plain, found = results
    assert {name: value for name, value in found.items() if "robustness" not in name} == plain
    assert same_states(*states)
    again = outcome(tmp_path, [mine], make()) if not others else found
    assert {n: v for n, v in again.items() if "robustness" in n} == {
        n: v for n, v in found.items() if "robustness" in n
    }


def test_averaged_predictions_are_attacked(tmp_path: Path) -> None:
    """With many passes the noise of an ensemble averages out, and so does that of its attack."""
    make, _ = CASES["NoisyEnsemble"]
    attack = RobustnessEvaluation([FGSM(0.1)], output=None, **NORMALISED)
    ensemble = NoisyEnsemble(0.05, blocks=["Residual"], samples=20, seed=1)
    averaged = outcome(tmp_path, [ensemble, attack], make())
    plain = outcome(tmp_path, [attack], make())
    assert averaged["optreg/robustness/fgsm"] == pytest.approx(plain["optreg/robustness/fgsm"], abs=0.05)
    assert averaged["optreg/robustness/fgsm"] < averaged["optreg/robustness/natural"] - 0.3


def test_in_the_validations_of_a_fit(tmp_path: Path) -> None:
    module = ImageClassifier(
        copy.deepcopy(trained()).train(), num_classes=3, optimizer=lambda p: SGD(p, lr=0.0)
    )
    callback = RobustnessEvaluation([FGSM(0.1)], stages=["validate"], every_n_epochs=2, **NORMALISED)
    seen: list[list[str]] = []

    class Watches(Callback):
        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            seen.append([name for name in trainer.callback_metrics if "robustness" in name])

    quiet_trainer(
        callbacks=[callback, Watches()], default_root_dir=tmp_path, max_epochs=2, num_sanity_val_steps=0
    ).fit(module, loader(), loader(40))
    assert [len(names) for names in seen] == [0, 3]
    assert not (tmp_path / "robustness.md").exists()


class Regression(ImageClassifier):
    def test_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])


@pytest.mark.parametrize(
    ("callback", "net", "message"),
    [
        (
            RobustnessEvaluation([FGSM(0.1)]),
            None,
            r"pixels must be on \[0, 1\], .*give mean",
        ),
        (
            RobustnessEvaluation([FGSM(0.1)], **NORMALISED),
            nn.Sequential(nn.Flatten(), nn.Linear(128, 1)),
            r"the network must return scores \(N, K\) of K >= 2 classes, got \(60, 1\)",
        ),
        (RobustnessEvaluation([FGSM(0.1)], net="body", **NORMALISED), None, "net='body' is not a module"),
        (RobustnessEvaluation([FGSM(0.1)], images="image", **NORMALISED), None, "images='image' is not in"),
    ],
)
def test_refusals(
    callback: RobustnessEvaluation, net: nn.Module | None, message: str, tmp_path: Path
) -> None:
    module = Regression(net or trained(), num_classes=3)
    trainer = quiet_trainer(callbacks=[callback], default_root_dir=tmp_path)
    with pytest.raises(MisconfigurationException, match=f"^RobustnessEvaluation: {message}"):
        trainer.test(module, loader(), verbose=False)


def test_labels_of_attacks() -> None:
    names = RobustnessEvaluation([FGSM(), FGSM(0.1), PGD(samples=2, restarts=3, norm="l2")]).names
    assert names == ["natural", "FGSM", "FGSM (2)", "EOT-PGD-l2-20x3", "worst"]


class Normalises(ImageClassifier):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward((images - SPACE.mean) / SPACE.std)


def test_a_module_that_normalises_by_itself_is_attacked_whole(tmp_path: Path) -> None:
    images, labels = images_and_labels()
    pixels = DataLoader(TensorDataset(SPACE.pixels(images), labels), batch_size=60)

    def found(net: str | None) -> Any:
        callback = RobustnessEvaluation([FGSM(0.1)], output=None, net=net)
        trainer = quiet_trainer(callbacks=[callback], default_root_dir=tmp_path)
        (values,) = trainer.test(Normalises(trained(), num_classes=3), pixels, verbose=False)
        return values

    with pytest.warns(UserWarning, match="RobustnessEvaluation: the test step does not call Sequential"):
        found("net")
    values = found("self")
    assert values["optreg/robustness/natural"] == values["test/accuracy"]
    wanted = outcome(tmp_path, [RobustnessEvaluation([FGSM(0.1)], output=None, **NORMALISED)])
    assert values["optreg/robustness/fgsm"] == pytest.approx(wanted["optreg/robustness/fgsm"], abs=0.01)


def test_a_process_may_have_no_image_of_a_batch(tmp_path: Path) -> None:
    class Share(ImageClassifier):
        def test_step(self, batch: Any, batch_idx: int) -> Any:
            return super().test_step(batch, batch_idx) if len(batch[0]) else None

    images, labels = images_and_labels(10)
    parts = DataLoader([(images, labels), (images[:0], labels[:0])], batch_size=None)
    callback = RobustnessEvaluation([FGSM(0.1)], output=None, **NORMALISED)
    quiet_trainer(callbacks=[callback], default_root_dir=tmp_path).test(
        Share(trained(), num_classes=3), parts, verbose=False
    )
    assert callback.results[0].images == 10
