import copy
import itertools
import math
from collections import namedtuple
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.cli import ReduceLROnPlateau as LightningPlateau
from lightning.pytorch.tuner import Tuner
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, Optimizer, Rprop, lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from lightning_optreg import losses
from lightning_optreg.callbacks import ExactResume, FullBatch
from lightning_optreg.classifier import ImageClassifier, brier_score
from lightning_optreg.classifier._compiled import compile_in_place
from lightning_optreg.data import FashionMNISTDataModule
from lightning_optreg.nets import LeNet5, SoftmaxRegression
from lightning_optreg.optimizers import Newton
from lightning_optreg.schedulers import Warmup
from tests.classifier.small_models import images, loader, small_model, small_net, trainer_for
from tests.resume_tools import SaveAlways, spoil_random_state
from tests.small_runs import Diary

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")


class Rates(Callback):
    """The learning rate of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self.values.append(trainer.optimizers[0].param_groups[0]["lr"])


# ---- metrics -----------------------------------------------------------------------------------------------

PROBABILITIES = torch.tensor(
    [
        [0.70, 0.10, 0.05, 0.05, 0.05, 0.05],
        [0.20, 0.62, 0.06, 0.05, 0.04, 0.03],
        [0.30, 0.25, 0.20, 0.15, 0.08, 0.02],
        [0.02, 0.03, 0.35, 0.30, 0.20, 0.10],
        [0.10, 0.15, 0.15, 0.15, 0.15, 0.30],
    ]
)
LABELS = torch.tensor([0, 0, 5, 2, 5])  # right, 2nd, last, right, right


def scored() -> tuple[ImageClassifier, DataLoader[Any]]:
    """A classifier whose probabilities are the table's, on batches of 2, 2 and 1."""
    model = ImageClassifier(nn.Flatten(), num_classes=6)
    data = TensorDataset(PROBABILITIES.log().view(5, 6, 1, 1), LABELS)
    return model, DataLoader(data, batch_size=2)


NLL = -(math.log(0.70) + math.log(0.20) + math.log(0.02) + math.log(0.35) + math.log(0.30)) / 5


def test_test_metrics_by_hand() -> None:
    model, data = scored()
    (result,) = trainer_for().test(model, data, verbose=False)
    brier = [
        0.30**2 + 0.10**2 + 4 * 0.05**2,
        0.80**2 + 0.62**2 + 0.06**2 + 0.05**2 + 0.04**2 + 0.03**2,
        0.30**2 + 0.25**2 + 0.20**2 + 0.15**2 + 0.08**2 + 0.98**2,
        0.02**2 + 0.03**2 + 0.65**2 + 0.30**2 + 0.20**2 + 0.10**2,
        0.10**2 + 4 * 0.15**2 + 0.70**2,
    ]
    # Bins of width 1/15: 0.70 alone in its own, 0.62 alone, 0.35 alone, and the two of 0.30 together, of
    # which one is right.
    calibration = (abs(0.70 - 1) + abs(0.62 - 0) + abs(0.35 - 1) + 2 * abs(0.30 - 0.5)) / 5
    assert result == {
        "test/loss": pytest.approx(NLL),
        "test/nll": pytest.approx(NLL),
        "test/accuracy": pytest.approx(3 / 5),
        "test/top5": pytest.approx(4 / 5),
        "test/brier": pytest.approx(sum(brier) / 5),
        "test/calibration_error": pytest.approx(calibration),
    }


def test_validation_metrics_by_hand() -> None:
    model, data = scored()
    (result,) = trainer_for().validate(model, data, verbose=False)
    assert result == {
        "val/loss": pytest.approx(NLL),
        "val/accuracy": pytest.approx(3 / 5),
        "val/top5": pytest.approx(4 / 5),
    }


def test_nll_is_of_the_probabilities_whatever_the_loss() -> None:
    model, data = scored()
    model.loss = losses.MulticlassHingeLoss()
    (result,) = trainer_for().test(model, data, verbose=False)
    hinge = float(losses.MulticlassHingeLoss()(PROBABILITIES.log(), LABELS))
    assert result["test/loss"] == pytest.approx(hinge)
    assert result["test/nll"] == pytest.approx(NLL)


def test_a_stage_begins_anew() -> None:
    model, data = scored()
    trainer = trainer_for()
    assert trainer.test(model, data, verbose=False) == trainer.test(model, data, verbose=False)
    assert trainer.validate(model, data, verbose=False) == trainer.validate(model, data, verbose=False)


def test_fewer_than_five_classes() -> None:
    (result,) = trainer_for().validate(small_model(), loader(), verbose=False)
    assert result["val/top5"] == 1.0


def test_prediction_is_the_softmax() -> None:
    model, data = scored()
    (first, *_) = trainer_for().predict(model, data) or []
    torch.testing.assert_close(first, PROBABILITIES[:2])
    torch.testing.assert_close(model.predict_step(PROBABILITIES.log().view(5, 6, 1, 1), 0), PROBABILITIES)


def test_brier_score_by_hand() -> None:
    scores = brier_score(torch.tensor([[1.0, 0.0], [0.5, 0.5], [1.0, 0.0]]), torch.tensor([0, 1, 1]))
    torch.testing.assert_close(scores, torch.tensor([0.0, 0.5, 2.0]))


# ---- training's means --------------------------------------------------------------------------------------


def by_hand(
    steps: int, accumulate: int = 1, criterion: nn.Module | None = None, lr: float = 0.1
) -> tuple[nn.Module, float, float]:
    """Train the small net with a plain loop; return it, the mean loss and the accuracy over the images."""
    net, total, right, count = small_net(), 0.0, 0, 0
    criterion = nn.CrossEntropyLoss() if criterion is None else criterion
    optimizer = SGD(net.parameters(), lr=lr)
    batches = list(loader())[:steps]
    for i, (x, y) in enumerate(batches):
        scores = net(x)
        loss = criterion(scores, y)
        (loss / accumulate).backward()
        if (i + 1) % accumulate == 0 or i + 1 == len(batches):
            optimizer.step()
            optimizer.zero_grad()
        total, count = total + float(loss.detach()) * len(y), count + len(y)
        right += int((scores.argmax(1) == y).sum())
    return net, total / count, right / count


@pytest.mark.parametrize("accumulate", [1, 2])
def test_epoch_means_are_over_images(accumulate: int) -> None:
    net, loss, accuracy = by_hand(3, accumulate)
    trainer, model = trainer_for(accumulate_grad_batches=accumulate), small_model()
    trainer.fit(model, loader())
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(loss, rel=1e-6)
    assert float(trainer.callback_metrics["train/accuracy"]) == pytest.approx(accuracy)
    for mine, other in zip(model.net.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


def test_each_epoch_counts_for_itself() -> None:
    diary = Diary()
    model = small_model(optimizer=partial(SGD, lr=0.0))
    trainer_for(max_epochs=3, logger=diary).fit(model, loader())
    values = [value for (_, name), value in diary.values.items() if name == "train/loss"]
    assert values == [pytest.approx(by_hand(3, lr=0.0)[1])] * 3


def test_logged_names() -> None:
    diary = Diary()
    trainer_for(logger=diary, log_every_n_steps=2).fit(small_model(), loader(), loader())
    epoch = {"train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/top5"}
    assert {name for _, name in diary.values} == epoch | {"train/loss_step"}
    assert [step for step, name in diary.values if name == "train/loss_step"] == [1]


@pytest.mark.parametrize("epoch", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_means_across_a_resume_in_the_middle_of_an_epoch(
    epoch: int, fashion_mnist_dir: Path, tmp_path: Path
) -> None:
    def fit(callbacks: list[Callback], ckpt_path: Path | None = None) -> dict[tuple[int, str], float]:
        diary = Diary()
        trainer = trainer_for(
            max_epochs=2,
            logger=diary,
            callbacks=[ExactResume(), *callbacks],
            enable_checkpointing=bool(callbacks),
            default_root_dir=tmp_path,
        )
        model = ImageClassifier(SoftmaxRegression(), optimizer=partial(SGD, lr=0.01))
        data = FashionMNISTDataModule(str(fashion_mnist_dir), batch_size=200, seed=1, verify_checksum=False)
        trainer.fit(model, data, ckpt_path=ckpt_path)
        return diary.values

    seed_everything(1, verbose=False)
    saver = SaveAlways(tmp_path)
    straight = fit([saver])
    assert sum(name == "train/loss" for _, name in straight) == 2
    assert len(saver.paths) == 2 * (3 + 1 + 1)
    for name, path in list(saver.paths.items())[5 * epoch : 5 * epoch + 5]:
        assert isinstance(torch.load(path, weights_only=True)["train_sums"], Tensor)
        spoil_random_state()
        resumed = fit([], path)
        assert resumed
        assert {key: straight[key] for key in resumed} == resumed, name


def test_two_processes_log_the_means_over_all_images(fashion_mnist_dir: Path, tmp_path: Path) -> None:
    class Write(Callback):
        def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            torch.save(
                dict(trainer.callback_metrics), tmp_path / f"{trainer.world_size}-{trainer.global_rank}"
            )

    def fit(batch_size: int, **options: Any) -> None:
        torch.manual_seed(0)
        model = ImageClassifier(SoftmaxRegression(), optimizer=partial(SGD, lr=0.01))
        data = FashionMNISTDataModule(
            str(fashion_mnist_dir), batch_size=batch_size, seed=1, verify_checksum=False
        )
        trainer_for(callbacks=[Write()], default_root_dir=tmp_path, **options).fit(model, data)

    fit(180)
    fit(90, strategy="ddp_fork", devices=2)
    alone, first, second = (torch.load(tmp_path / name, weights_only=True) for name in ("1-0", "2-0", "2-1"))
    for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/top5"):
        assert float(first[name]) == float(second[name]) == pytest.approx(float(alone[name]), abs=1e-5), name


# ---- losses, networks, layouts -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss",
    [nn.CrossEntropyLoss(label_smoothing=0.1), losses.MulticlassHingeLoss(), losses.SquaredLoss()],
    ids=lambda loss: type(loss).__name__,
)
def test_trains_on_any_loss(loss: nn.Module) -> None:
    net, mean, _ = by_hand(3, criterion=loss)
    trainer, model = trainer_for(), small_model(loss=loss)
    trainer.fit(model, loader())
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(mean, rel=1e-6)
    for mine, other in zip(model.net.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


def test_label_smoothing_by_hand() -> None:
    model, data = scored()
    model.loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    (result,) = trainer_for().validate(model, data, verbose=False)
    expected = 0.9 * NLL - 0.1 * float(PROBABILITIES.log().mean(dim=1).mean())
    assert result["val/loss"] == pytest.approx(expected)


def test_torchvision_network() -> None:
    from torchvision.models import resnet18

    x, y = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    model = ImageClassifier(resnet18(num_classes=4), num_classes=4)
    before = copy.deepcopy(model.net.state_dict())
    trainer_for().fit(model, DataLoader(TensorDataset(x, y), batch_size=4))
    assert not torch.equal(before["fc.weight"], model.net.state_dict()["fc.weight"])


def test_channels_last() -> None:
    seen: list[bool] = []

    class Spy(LeNet5):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.is_contiguous(memory_format=torch.channels_last))
            return super().forward(x)

    x = torch.randn(2, 3, 32, 32)
    torch.manual_seed(0)
    plain = ImageClassifier(Spy(input_shape=(3, 32, 32)))
    last = ImageClassifier(copy.deepcopy(plain.net), channels_last=True)
    torch.testing.assert_close(plain(x), last(x))
    assert seen == [False, True]
    weights = [p for p in last.net.parameters() if p.ndim == 4 and p.shape[1] > 1]
    assert weights
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)


@pytest.mark.slow  # the compiler takes 20 s
def test_compile_keeps_names_and_results(tmp_path: Path) -> None:
    plain, compiled = small_model(), small_model(compile=True)
    trainer_for(max_epochs=2).fit(plain, loader())
    trainer = trainer_for(max_epochs=2)
    trainer.fit(compiled, loader())
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    for name, value in compiled.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name])
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = ImageClassifier.load_from_checkpoint(tmp_path / "a.ckpt", net=small_net(), compile=False)
    torch.testing.assert_close(loaded(images()[:][0]), compiled(images()[:][0]))


def test_compiles_once_and_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, *a, **k: calls.append(self))
    model, trainer = small_model(compile=True), trainer_for()
    trainer.fit(model, loader())
    trainer.test(model, loader(), verbose=False)
    assert calls == [model.net]
    trainer_for().fit(small_model(), loader())
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("setting", "passed"),
    [
        (True, {}),
        ("default", {}),
        ("reduce-overhead", {"mode": "reduce-overhead"}),
        ("max-autotune", {"mode": "max-autotune"}),
    ],
)
def test_the_mode_of_compilation(
    setting: Any, passed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: calls.append(options) or function)
    model = small_model(compile=setting)
    trainer_for().fit(model, loader())
    assert calls == [passed]
    assert model.hparams["compile"] == setting


@pytest.mark.parametrize("setting", ["fast", "max-autotune-no-cudagraphs", None, 2])
def test_wrong_modes_of_compilation(setting: Any) -> None:
    with pytest.raises(
        ValueError, match="ImageClassifier: compile must be true, false, default, reduce-over"
    ):
        small_model(compile=setting)


def test_outputs_of_a_graph_outlive_its_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    memory = torch.zeros(2, 4)
    Outputs = namedtuple("Outputs", "scores auxiliary")  # like torchvision's

    class Graph(nn.Module):
        """Writes its outputs into the same memory again."""

        def __init__(self, pack: Callable[[Tensor], Any]) -> None:
            super().__init__()
            self.pack = pack

        def forward(self, x: Tensor) -> Any:
            return self.pack(memory.copy_(x))

    for pack in (lambda x: x, lambda x: (x, None), lambda x: Outputs(x, None)):
        net = Graph(pack)
        compile_in_place(net, "reduce-overhead")
        first, _ = net(torch.ones(2, 4)), net(torch.zeros(2, 4))
        assert type(first) is type(pack(memory))
        kept = first if isinstance(first, Tensor) else first[0]
        assert torch.equal(kept, torch.ones(2, 4))


def test_bf16_mixed() -> None:
    full, half = trainer_for(), trainer_for(precision="bf16-mixed")
    full.fit(small_model(), loader(), loader())
    half.fit(model := small_model(), loader(), loader())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    for name in ("train/loss", "val/loss"):
        assert half.callback_metrics[name].dtype == torch.float32
        a, b = float(full.callback_metrics[name]), float(half.callback_metrics[name])
        assert a == pytest.approx(b, rel=0.02)
        assert a != b


def test_forward_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = ImageClassifier(LeNet5())
        assert model(torch.empty(7, 1, 28, 28)).shape == (7, 10)


# ---- optimizer and schedule --------------------------------------------------------------------------------


def after_one_step(make: Callable[..., Optimizer]) -> tuple[nn.Module, dict[str, Tensor], dict[str, Tensor]]:
    """Train one step; return the network and the parameters and gradients before."""
    net = small_net()
    x, y = next(iter(loader()))
    F.cross_entropy(net(x), y).backward()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    gradients = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    model = small_model(optimizer=make, no_decay=True)
    trainer_for(max_steps=1, max_epochs=-1).fit(model, loader())
    return model.net, before, gradients


LR, DECAY, EPS = 0.01, 0.5, 1e-8


def sgd(p: Tensor, g: Tensor, decay: float) -> Tensor:
    return p - LR * (g + decay * p)


def adam(p: Tensor, g: Tensor, decay: float) -> Tensor:
    g = g + decay * p  # the L2 term is a part of the gradient, and Adam divides it too
    return p - LR * g / (g.abs() + EPS)  # in the first step both moments' corrections cancel


def adamw(p: Tensor, g: Tensor, decay: float) -> Tensor:
    return p * (1 - LR * decay) - LR * g / (g.abs() + EPS)


@pytest.mark.parametrize(
    ("optimizer", "formula"), [(SGD, sgd), (Adam, adam), (AdamW, adamw)], ids=["SGD", "Adam", "AdamW"]
)
def test_no_decay_against_the_formula(
    optimizer: type[Optimizer], formula: Callable[[Tensor, Tensor, float], Tensor]
) -> None:
    net, before, gradients = after_one_step(partial(optimizer, lr=LR, weight_decay=DECAY))
    decayed = {"1.weight", "3.weight"}  # not 2.weight: it is the LayerNorm's
    for name, parameter in net.named_parameters():
        expected = formula(before[name], gradients[name], DECAY if name in decayed else 0.0)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-6, msg=name)


def test_no_decay_needs_weight_decay() -> None:
    model = small_model(optimizer=partial(Rprop, lr=0.1), no_decay=True)
    with pytest.raises(
        MisconfigurationException, match="needs an optimizer with weight_decay; Rprop has none"
    ):
        trainer_for().fit(model, loader())


def test_default_optimizer() -> None:
    optimizer = small_model(optimizer=None).configure_optimizers()
    assert isinstance(optimizer, SGD)
    assert (optimizer.defaults["lr"], optimizer.defaults["momentum"]) == (0.1, 0.9)


def rates(epochs: int = 3, **arguments: Any) -> list[float]:
    recorder = Rates()
    trainer_for(max_epochs=epochs, callbacks=[recorder]).fit(small_model(**arguments), loader(), loader())
    return recorder.values


HALVE = partial(lr_scheduler.StepLR, step_size=1, gamma=0.5)


@pytest.mark.parametrize(
    ("interval", "frequency", "expected"),
    [
        ("epoch", 1, [8, 8, 8, 4, 4, 4, 2, 2, 2, 1, 1, 1]),
        ("epoch", 2, [8, 8, 8, 8, 8, 8, 4, 4, 4, 4, 4, 4]),
        ("step", 1, [8 / 2**i for i in range(12)]),
        ("step", 2, [8, 8, 4, 4, 4, 2, 2, 2, 1, 1, 1, 0.5]),  # counted within each epoch of 3
    ],
)
def test_intervals_and_frequencies(interval: Any, frequency: int, expected: list[float]) -> None:
    found = rates(
        4,
        optimizer=partial(SGD, lr=8.0),
        lr_scheduler=HALVE,
        lr_interval=interval,
        lr_frequency=frequency,
    )
    assert found == pytest.approx(expected)


def test_plateau() -> None:
    """No loss falls by 100: the first epoch is the best one, each further one halves the rate."""
    plateau = partial(
        lr_scheduler.ReduceLROnPlateau, factor=0.5, patience=0, threshold=100, threshold_mode="abs"
    )
    expected = [8, 8, 8, 8, 8, 8, 4, 4, 4, 2, 2, 2]
    for monitor in ("val/loss", "train/loss"):
        found = rates(4, optimizer=partial(SGD, lr=8.0), lr_scheduler=plateau, lr_monitor=monitor)
        assert found == pytest.approx(expected), monitor


def test_plateau_of_the_command_line_has_its_own_monitor() -> None:
    make = partial(
        LightningPlateau, monitor="val/accuracy", mode="max", factor=0.5, patience=0, threshold=100
    )
    found = rates(3, optimizer=partial(SGD, lr=8.0), lr_scheduler=make, lr_monitor="no/such")
    assert found == pytest.approx([8, 8, 8, 8, 8, 8, 4, 4, 4])


@pytest.mark.parametrize(
    ("options", "frequency", "known"),
    [({}, 1, 3), ({"accumulate_grad_batches": 2}, 1, 3), ({"check_val_every_n_epoch": 2}, 4, 6)],
)
@pytest.mark.parametrize(
    "make", [lr_scheduler.ReduceLROnPlateau, lambda o: Warmup(o, lr_scheduler.ReduceLROnPlateau, 1)]
)
def test_a_plateau_by_steps_asks_for_no_value_that_is_not_known(
    make: Any, options: dict[str, Any], frequency: int, known: int
) -> None:
    model = small_model(lr_scheduler=make, lr_interval="step", lr_frequency=frequency)
    with pytest.raises(
        MisconfigurationException, match=rf"'val/loss' after \d batches, .* after {known}; set"
    ):
        trainer_for(**options).fit(model, loader(), loader())
    assert model.trainer.global_step == 0
    later = small_model(lr_scheduler=make, lr_interval="step", lr_frequency=3)
    trainer_for().fit(later, loader(), loader())


def test_newton_is_refused_without_the_closure_that_it_needs() -> None:
    model = small_model(optimizer=Newton)
    with pytest.raises(MisconfigurationException, match=r"^Newton: it needs .* add the callback FullBatch"):
        trainer_for().fit(model, loader())
    trainer_for(callbacks=[FullBatch()]).fit(small_model(optimizer=Newton), loader())


def cosine(optimizer: Optimizer) -> lr_scheduler.LRScheduler:
    return lr_scheduler.CosineAnnealingLR(optimizer, T_max=3)


def warm_up(optimizer: Optimizer) -> lr_scheduler.LRScheduler:
    return lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=3)


FACTORS = {
    None: [1.0, 1.0, 1.0],
    cosine: [1.0, 0.75, 0.25],
    warm_up: [0.1, 0.4, 0.7],
}


SOME = [
    ("tuner", "epoch", None),
    ("tuner", "epoch", warm_up),
    ("tuner", "step", cosine),
    ("callback", "step", None),
    ("callback", "epoch", cosine),
    ("callback", "step", warm_up),
]


@pytest.mark.parametrize(
    ("way", "interval", "schedule"),
    [
        pytest.param(*case, marks=[] if case in SOME else pytest.mark.slow)
        for case in itertools.product(("tuner", "callback"), ("epoch", "step"), FACTORS)
    ],
)
def test_the_found_rate_is_trained_with(
    way: str, interval: Any, schedule: Callable[..., Any] | None, tmp_path: Path
) -> None:
    recorder = Rates()
    model = small_model(
        optimizer=partial(SGD, lr=123.0, weight_decay=0.1),
        lr_scheduler=schedule,
        lr_interval=interval,
        no_decay=True,
    )
    data = loader(20, batch_size=1)
    arguments = {"min_lr": 1e-4, "max_lr": 1.0, "early_stop_threshold": None}
    finder = [] if way == "tuner" else [LearningRateFinder(num_training_steps=20, **arguments)]
    trainer = trainer_for(
        max_epochs=3,
        callbacks=[*finder, recorder],
        enable_checkpointing=True,
        default_root_dir=tmp_path,
    )
    if way == "tuner":
        Tuner(trainer).lr_find(model, data, num_training=20, **arguments)
    trainer.fit(model, data)
    assert model.lr is not None
    assert 1e-4 <= model.lr <= 1.0
    found = recorder.values[-60:]  # the finder's own steps may have come before
    steps = found[::20] if interval == "epoch" else found[:3]
    assert steps == pytest.approx([model.lr * factor for factor in FACTORS[schedule]])
    assert {group["initial_lr"] for group in trainer.optimizers[0].param_groups if schedule} <= {model.lr}


@pytest.mark.parametrize(
    ("schedule", "peak"),
    [
        (partial(lr_scheduler.OneCycleLR, max_lr=0.5, pct_start=0.5), 30),
        (partial(Warmup, schedule=partial(lr_scheduler.OneCycleLR, max_lr=0.5), warmup=30), 39),
        (partial(lr_scheduler.CyclicLR, base_lr=0.1, max_lr=0.5, step_size_up=30), 30),
    ],
)
def test_a_schedule_with_a_highest_rate_of_its_own_rises_to_the_found_one(
    schedule: Any, peak: int, tmp_path: Path
) -> None:
    recorder = Rates()
    finder = LearningRateFinder(1e-4, 0.1, num_training_steps=20, early_stop_threshold=None)
    model = small_model(lr_scheduler=schedule, lr_interval="step")
    trainer = trainer_for(
        max_epochs=3, callbacks=[finder, recorder], enable_checkpointing=True, default_root_dir=tmp_path
    )
    trainer.fit(model, loader(20, batch_size=1))
    assert model.lr is not None
    rates = recorder.values[-60:]
    assert max(rates) == pytest.approx(model.lr, rel=0.05)
    assert abs(rates.index(max(rates)) - peak) <= 2


# ---- checkpoints and hyperparameters -----------------------------------------------------------------------


def test_checkpoint_of_a_model_built_in_python(tmp_path: Path) -> None:
    trainer, model = trainer_for(), small_model(lr_interval="step")
    trainer.fit(model, loader())
    path = tmp_path / "a.ckpt"
    trainer.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["hyper_parameters"]["lr_interval"] == "step"
    assert not {"net", "loss", "optimizer", "lr_scheduler"} & checkpoint["hyper_parameters"].keys()
    assert not any("_sums" in name for name in checkpoint["state_dict"])

    loaded = ImageClassifier.load_from_checkpoint(path, net=small_net(), weights_only=True)
    x = images()[:][0]
    assert torch.equal(loaded(x), model(x))
    assert (loaded.num_classes, loaded.lr_interval) == (3, "step")


@pytest.mark.parametrize(
    ("arguments", "loss"),
    [
        ([], "CrossEntropyLoss()"),
        (["--model.loss=MulticlassHingeLoss", "--model.loss.reduction=mean"], "MulticlassHingeLoss"),
        (["--model.loss=SquaredLoss"], "SquaredLoss"),
        (
            ["--model.loss=torch.nn.CrossEntropyLoss", "--model.loss.label_smoothing=0.1"],
            "CrossEntropyLoss()",
        ),
    ],
)
def test_checkpoint_of_a_configured_model(
    arguments: list[str], loss: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["pytest"])
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning 2.6 uses add_instantiator
    configured = [
        "--seed_everything=1",
        "--model.net=LeNet5",
        "--model.net.input_shape=[1,28,28]",
        "--model.optimizer=AdamW",
        "--model.optimizer.lr=0.01",
        "--model.lr_scheduler=CosineAnnealingLR",
        "--model.lr_scheduler.T_max=1",
        *arguments,
    ]
    cli = LightningCLI(
        ImageClassifier,
        run=False,
        args=configured,
        save_config_callback=None,
        auto_configure_optimizers=False,
        trainer_defaults={
            "logger": False,
            "accelerator": "cpu",
            "max_epochs": 1,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
    )
    assert loss in repr(cli.model.loss)
    data = TensorDataset(torch.randn(4, 1, 28, 28), torch.arange(4))
    cli.trainer.fit(cli.model, DataLoader(data, batch_size=4))
    path = tmp_path / "a.ckpt"
    cli.trainer.save_checkpoint(path)
    hparams = torch.load(path, weights_only=True)["hyper_parameters"]
    assert hparams["net"]["class_path"] == "lightning_optreg.nets.LeNet5"

    loaded = ImageClassifier.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    assert isinstance(loaded.net, LeNet5)
    assert repr(loaded.loss) == repr(cli.model.loss)
    assert getattr(loaded.loss, "label_smoothing", 0) == getattr(cli.model.loss, "label_smoothing", 0)
    assert torch.equal(loaded(data[:][0]), cli.model(data[:][0]))
    configuration = loaded.configure_optimizers()
    assert isinstance(configuration["optimizer"], AdamW)
    assert configuration["lr_scheduler"]["scheduler"].T_max == 1


# ---- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_scores_of_another_width(stage: str) -> None:
    model = ImageClassifier(small_net(), num_classes=4)
    with pytest.raises(ValueError, match=r"scores must have shape \(N, 4\) for num_classes=4, got \(4, 3\)"):
        getattr(trainer_for(), stage)(model, loader())


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
@pytest.mark.parametrize(("label", "found"), [(3, "0 to 3"), (-1, "-1 to 2")])
def test_labels_out_of_range(stage: str, label: int, found: str) -> None:
    x, y = images()[:]
    y[1] = label
    data = DataLoader(TensorDataset(x, y), batch_size=4)
    with pytest.raises(ValueError, match=rf"labels must be in \[0, 3\), got {found}$"):
        getattr(trainer_for(), stage)(small_model(), data)


@pytest.mark.parametrize("labels", [torch.zeros(4), torch.ones(4, 2), torch.zeros(4, 1, dtype=torch.int64)])
def test_labels_of_another_kind(labels: Tensor) -> None:
    data = DataLoader(TensorDataset(images(4)[:][0], labels), batch_size=4)
    with pytest.raises(ValueError, match=r"labels must be int64 of shape \(4,\), one per image, got"):
        trainer_for().fit(small_model(), data)


def test_labels_that_are_no_probabilities() -> None:
    data = DataLoader(TensorDataset(images(4)[:][0], torch.full((4, 3), 0.5)), batch_size=4)
    with pytest.raises(ValueError, match="labels that are probabilities must sum to 1"):
        trainer_for().fit(small_model(), data)
    with pytest.raises(ValueError, match="labels must be int64"):
        trainer_for().validate(small_model(), data)


def test_probabilities_as_labels_count_like_their_largest() -> None:
    x, y = images(8)[:]
    results = []
    for labels in (y, torch.nn.functional.one_hot(y, 3).float() * 0.7 + 0.1):
        torch.manual_seed(0)
        trainer = trainer_for()
        trainer.fit(small_model(), DataLoader(TensorDataset(x, labels), batch_size=4))
        results.append(trainer.callback_metrics["train/accuracy"])
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"net": "LeNet5"}, TypeError, "net must be an nn.Module, got str"),
        ({"loss": F.cross_entropy}, TypeError, "loss must be an nn.Module, got function"),
        ({"lr_interval": "batch"}, ValueError, "lr_interval must be epoch or step, got 'batch'"),
        ({"lr_frequency": 0}, ValueError, "lr_frequency must be >= 1, got 0"),
        ({"num_classes": 1}, ValueError, "num_classes must be >= 2, got 1"),
    ],
)
def test_wrong_values(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^ImageClassifier: {message}$"):
        ImageClassifier(**{"net": small_net(), **arguments})
