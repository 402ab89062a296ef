"""Overlays of configs/methods over recipes: nothing that one sets is lost to another, or it is refused."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_optreg.__main__ import main
from tests.cli.tools import SHORT

CONFIGS = Path(__file__).parents[2] / "configs"
METHODS = [path.stem for path in sorted(CONFIGS.glob("methods/*.yaml"))]
RECIPE, COLOURED = "fashion_mnist/lenet5", "cifar10/resnet20"
# Methods that find nothing to do in LeNet-5: no dropout, no residual blocks, no batch normalisation
NEEDS = {"batch_norm_recalibration": COLOURED, "noisy_ensemble": COLOURED}
NEEDS["noise_marginalization"] = "fashion_mnist/mlp"

ORDERED = list(itertools.permutations(METHODS, 2))
SOME = [
    ("tensorboard", "wandb"),
    ("wandb", "histograms"),
    ("random_erasing", "lbfgs"),
    ("adam_to_sgd", "batch_size_growth"),
    ("lbfgs", "channels_last"),
    ("batch_norm_recalibration", "random_erasing"),
]


def file_of(name: str) -> Path:
    return CONFIGS / (f"{name}.yaml" if "/" in name else f"methods/{name}.yaml")


def over(recipe: str, *methods: str) -> list[str]:
    """A recipe with overlays, as options."""
    return [f"--config={file_of(name)}" for name in (recipe, *methods)]


def missing(given: Any, effective: Any, key: str = "") -> list[str]:
    """The keys of a configuration that have no effect in another."""
    if isinstance(effective, dict) and isinstance(given, str) and "class_path" in effective:
        given = {"class_path": given}
    if isinstance(given, dict) and isinstance(effective, dict):
        lost = []
        for name, value in given.items():
            where = f"{key}.{name}" if key else name
            if name.endswith("+"):
                present = effective.get(name[:-1]) or []
                lost += [where for one in value if all(missing(one, other) for other in present)]
            else:
                lost += missing(value, effective.get(name), where)
        return lost
    if isinstance(given, list) and isinstance(effective, list):
        return [key for one in given if all(missing(one, other) for other in effective)]
    if key.endswith("class_path"):
        return [] if str(given).rpartition(".")[2] == str(effective).rpartition(".")[2] else [key]
    return [] if given == effective else [key or repr(given)]


def without(given: dict[str, Any], others: list[dict[str, Any]]) -> dict[str, Any]:
    """A recipe without what overlays are there to change: its scalars, its optimizer, its schedule."""
    kept = {}
    for name, value in given.items():
        theirs = [other[name] for other in others if isinstance(other, dict) and name in other]
        if not theirs:
            kept[name] = value
        elif isinstance(value, dict) and not any(their is None or "class_path" in their for their in theirs):
            kept[name] = without(value, theirs)
    return kept


def nothing_is_lost(
    recipe: str, methods: tuple[str, ...], capsys: pytest.CaptureFixture[str], *more: str
) -> None:
    capsys.readouterr()
    status = main(["fit", *over(recipe, *methods), *more, "--print_config"])
    out, err = capsys.readouterr()
    if status == 2:
        (line,) = err.splitlines()
        assert all(str(file_of(name)) in line for name in methods), line
        return
    assert status == 0, err
    effective = yaml.safe_load(out)
    given = [yaml.safe_load(file_of(name).read_text()) for name in (recipe, *methods)]
    for name, one in zip(methods, given[1:], strict=True):
        assert missing(one, effective) == [], f"of {name}"
    assert missing(without(given[0], given[1:]), effective) == [], f"of {recipe}"
    classes = [callback["class_path"].rpartition(".")[2] for callback in effective["trainer"]["callbacks"]]
    assert classes[:5] == ["ExactResume", "ModelCheckpoint", "ModelCheckpoint", "Curves", "Throughput"]
    assert effective["trainer"]["logger"][0]["class_path"].endswith(".RunCSVLogger")


@pytest.mark.parametrize("methods", SOME, ids="-".join)
def test_a_pair_loses_nothing(methods: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    nothing_is_lost(COLOURED, methods, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("methods", ORDERED, ids="-".join)
def test_every_pair_loses_nothing(methods: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    nothing_is_lost(COLOURED, methods, capsys)


def trains(methods: tuple[str, ...], folder: Path, data: Path) -> int:
    """Fit a recipe with overlays for a few steps."""
    recipe = next((NEEDS[name] for name in methods if name in NEEDS), RECIPE)
    small = ["--data=FashionMNISTDataModule", f"--data.data_dir={data}", *SHORT]
    small += ["--trainer.limit_train_batches=5"]  # as many steps as a snapshot ensemble has cycles
    if recipe == COLOURED:
        small += ["--model.net.depth=8"]
    return main(["fit", *over(recipe, *methods), *small, f"--trainer.default_root_dir={folder}"])


# One line each, by which half of the pair or both are named.
REFUSED = {
    ("swa", "ema"): "StochasticWeightAveraging and EMAWeightAveraging",
    ("ema", "swa"): "EMAWeightAveraging and StochasticWeightAveraging",
    ("swa", "snapshot_ensemble"): "SnapshotEnsemble: StochasticWeightAveraging",
    ("swa", "adam_restarts"): "AdamRestarts: StochasticWeightAveraging",
    ("ema", "adam_restarts"): "AdamRestarts: EMAWeightAveraging",
    ("lbfgs", "mix_up"): "MixUp: it makes training steps random, which FullBatch turns off",
    ("lbfgs", "gradient_noise"): "GradientNoise: it makes training steps random, which FullBatch",
    ("lbfgs", "lr_finder"): "FullBatch: an epoch has one batch, but LearningRateFinder",
    ("lbfgs", "adam_to_sgd"): "optimizer: ",
}


OFTEN = (("swa", "ema"), ("lbfgs", "mix_up"), ("lbfgs", "adam_to_sgd"))


@pytest.mark.parametrize(
    "methods",
    [pytest.param(pair, marks=[pytest.mark.slow] * (pair not in OFTEN)) for pair in REFUSED],
    ids="-".join,
)
def test_methods_that_undo_each_other_are_refused(
    methods: tuple[str, str], tmp_path: Path, fashion_mnist_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trains(methods, tmp_path / "runs", fashion_mnist_dir) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert REFUSED[methods] in lines[0]
    assert not (tmp_path / "runs").exists()


UNORDERED = [pair for pair in itertools.combinations(METHODS, 2) if "compile" not in pair]


@pytest.mark.slow
@pytest.mark.usefixtures("wandb_disabled")
@pytest.mark.filterwarnings("ignore")  # Lightning's and torch's remarks on a run of five steps
@pytest.mark.parametrize("methods", UNORDERED, ids="-".join)
def test_every_pair_trains_or_is_refused_in_a_line(
    methods: tuple[str, str],
    tmp_path: Path,
    fashion_mnist_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = trains(methods, tmp_path / "runs", fashion_mnist_dir)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert (status, len(errors)) in ((0, 0), (2, 1)), errors
    assert status == 0 or not (tmp_path / "runs").exists()


def test_the_command_line_decides_between_overlays(capsys: pytest.CaptureFixture[str]) -> None:
    methods = over(RECIPE, "channels_last", "lbfgs")
    assert main(["fit", *methods, "--print_config"]) == 2
    assert "error: model.channels_last: " in capsys.readouterr().err
    assert main(["fit", *methods, "--model.channels_last=false", "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["channels_last"] is False


@pytest.mark.parametrize(
    ("first", "second", "refused"),
    [
        ("{trainer: {max_epochs: 3}}", "{trainer: {max_epochs: 4}}", "trainer.max_epochs"),
        ("{trainer: {max_epochs: 3}}", "{trainer: {max_epochs: 3}}", None),
        ("{trainer: {callbacks+: [MixUp]}}", "{trainer: {callbacks: []}}", "trainer.callbacks"),
        ("{trainer: {callbacks: []}}", "{trainer: {callbacks+: [MixUp]}}", None),
        ("{lr_scheduler: null}", "{lr_scheduler: {class_path: ExponentialLR}}", "lr_scheduler"),
        ("{lr_scheduler: {class_path: ExponentialLR}}", "{lr_scheduler: null}", "lr_scheduler"),
        ("{optimizer: {class_path: Adam}}", "{optimizer: {class_path: torch.optim.Adam}}", None),
        ("{optimizer: {class_path: Adam}}", "{optimizer: {init_args: {lr: 0.2}}}", None),
    ],
)
def test_files_of_ones_own_are_held_to_it_too(
    first: str, second: str, refused: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    for file, text in zip(files, (first, second), strict=True):
        file.write_text(text)
    options = [*over(RECIPE), *(f"--config={file}" for file in files)]
    gamma = ["--lr_scheduler.gamma=0.9"] if "{class_path: ExponentialLR}" in second else []
    status = main(["fit", *options, *gamma, "--print_config"])
    assert status == (0 if refused is None else 2)
    if refused is not None:
        err = capsys.readouterr().err
        assert f"error: {refused}: {files[0]} and {files[1]} set it differently" in err


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (["--optimizer=Adam"], "optimizer"),
        (["--optimizer", "Adam", "--optimizer.lr", "0.1"], "optimizer"),
        (["--optimizer.lr=0.3"], "optimizer"),
        (["--optimizer.init_args.lr=0.3"], "optimizer"),
        (["--trainer.max_epochs", "3"], "trainer.max_epochs"),
        (["--data={class_path: CIFAR10DataModule}"], "data"),
        (["--data.augment=[]"], "data"),
    ],
)
def test_an_option_that_a_later_file_undoes_is_refused(
    options: list[str], key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *options, *over(RECIPE), "--print_config"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {options[0].partition('=')[0]} stands before --config {file_of(RECIPE)}")
    assert f"which sets {key}" in line
    assert line.endswith("put options after the files that they change")


@pytest.mark.parametrize(
    "options",
    [
        ["--ckpt_path=last"],
        pytest.param(["--trainer.precision=64-true"], marks=pytest.mark.slow),
        ["--optimizer=SGD"],
        pytest.param(["--model.net=LeNet5"], marks=pytest.mark.slow),
        ["--trainer.callbacks+=MixUp", "--trainer.callbacks.alpha=0.5"],
    ],
)
def test_an_option_that_no_later_file_sets_may_stand_anywhere(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *options, *over(RECIPE), "--print_config"]) == 0
    first = yaml.safe_load(capsys.readouterr().out)
    assert main(["fit", *over(RECIPE), *options, "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == first


def test_a_file_twice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *over(RECIPE, "mix_up", "mix_up"), "--print_config"]) == 2
    said = f"error: config: {file_of('mix_up')} is given twice; remove one\n"
    assert capsys.readouterr().err == said


def test_what_an_option_adds_is_not_lost_to_a_later_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("trainer:\n  callbacks:\n    - class_path: CutMix\n")
    options = ["--trainer.callbacks+=MixUp", *over(RECIPE), f"--config={file}", "--print_config"]
    assert main(["fit", *options]) == 2
    assert f"--trainer.callbacks+ stands before --config {file}" in capsys.readouterr().err
