"""Every file in configs/ is a test: it parses, builds, and trains a step on small data of the same format."""

from collections.abc import Iterable, Iterator
from itertools import permutations
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from lightning_optreg.__main__ import main

CONFIGS = Path(__file__).parent.parent / "configs"
DATA_SETS = ("fashion_mnist", "cifar10", "imagenet")
RECIPES = [path for data in DATA_SETS for path in sorted(CONFIGS.glob(f"{data}/*.yaml"))]
METHODS = sorted(CONFIGS.glob("methods/*.yaml"))
BASE = CONFIGS / "fashion_mnist" / "lenet5.yaml"
# Methods that find nothing to do in LeNet-5: no dropout, no residual blocks, no batch normalisation
NEEDS = {
    "batch_norm_recalibration": "resnet20.yaml",
    "noise_marginalization": "mlp.yaml",
    "noisy_ensemble": "resnet20.yaml",
}
# Networks of the same class with a fraction of the work, for recipes whose step takes seconds on a CPU
SMALLER = {
    "alexnet": ["--model.net.channels=[2,4,4,4,4]", "--model.net.hidden=8"],
    "googlenet": ["--model.net.width=0.05", "--model.net.aux_hidden=8"],
    "plain56": ["--model.net.depth=8"],
    "preact_resnet164": ["--model.net.depth=20"],
    "resnet56": ["--model.net.depth=8"],
    "resnet110": ["--model.net.depth=8"],
    "resnext29_8x64d": ["--model.net.depth=11", "--model.net.width=4"],
    "resnet50": ["--model.net.depth=18", "--model.net.width=8", "--data.image_size=64"],
    "stochastic_depth110": ["--model.net.depth=8"],
    "vgg16": ["--model.net.width=2", "--model.net.hidden=8"],
    "wide_resnet28_10": ["--model.net.widen_factor=1"],
    "zfnet": ["--model.net.channels=[2,4,4,4,4]", "--model.net.hidden=8"],
}

pytestmark = [
    # Lightning's and torch's remarks on a run of two steps
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS).with_suffix(""))


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """A folder with two classes of four small images for training and two for validation."""
    for part, count in (("train", 4), ("val", 2)):
        for label in ("cat", "dog"):
            folder = tmp_path / "images" / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (20, 16), (50 * i, 99, 10)).save(folder / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture
def quick(
    tmp_path: Path, fashion_mnist_dir: Path, cifar10_dir: Path, image_folder: Path
) -> Iterator[dict[str, list[str]]]:
    """Options that make a run of any recipe short, by its dataset."""
    options = [
        f"--trainer.default_root_dir={tmp_path}",
        "--trainer.accelerator=cpu",
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=2",
        "--trainer.limit_val_batches=1",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--trainer.log_every_n_steps=1",
    ]
    own = ["--data.verify_checksum=false"]
    folders = {
        "fashion_mnist": (fashion_mnist_dir, [*own, "--data.batch_size=16"]),
        # fewer, since many of its networks are deep
        "cifar10": (cifar10_dir, [*own, "--data.batch_size=4"]),
    }
    folders["imagenet"] = (image_folder, ["--data.batch_size=2"])
    yield {data: [*options, *extra, f"--data.data_dir={folder}"] for data, (folder, extra) in folders.items()}
    torch.set_float32_matmul_precision("highest")


def test_there_are_configs() -> None:
    assert len(RECIPES) >= 20
    assert {path.parent.name for path in CONFIGS.glob("*/*.yaml")} == {*DATA_SETS, "methods", "studies"}
    assert len(METHODS) >= 13


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_a_recipe_trains(recipe: Path, quick: dict[str, list[str]], tmp_path: Path) -> None:
    smaller = SMALLER.get(recipe.stem, [])
    assert main(["fit", "--config", str(recipe), *quick[recipe.parent.name], *smaller]) == 0
    (checkpoint,) = tmp_path.glob("version_0/checkpoints/last.ckpt")
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 2


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_a_recipe_says_where_it_comes_from_and_where_it_writes(recipe: Path) -> None:
    assert recipe.read_text().startswith("# ")
    config = yaml.safe_load(recipe.read_text())
    assert config["trainer"]["default_root_dir"] == f"runs/{name(recipe)}"
    schedule = config.get("lr_scheduler", {}).get("init_args", {})
    assert schedule.get("T_max", config["trainer"]["max_epochs"]) == config["trainer"]["max_epochs"]


@pytest.mark.parametrize("method", METHODS, ids=name)
def test_a_method_is_laid_over_a_recipe(
    method: Path, quick: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    overlays = [method]
    if method.stem == "histograms":  # as it says, after a logger that draws them
        overlays.insert(0, method.with_name("tensorboard.yaml"))
    files = [argument for path in overlays for argument in ("--config", str(path))]
    base = BASE.with_name(NEEDS.get(method.stem, BASE.name))
    command = ["fit", "--config", str(base), *files, *quick["fashion_mnist"]]
    if method.stem == "compile":  # which takes a minute: building is enough
        command += ["--trainer.limit_train_batches=0", "--trainer.limit_val_batches=0"]
    if method.stem == "snapshot_ensemble":  # as many steps as cycles at least
        command += ["--trainer.limit_train_batches=5"]
    assert main(command) == 0
    assert method.read_text().startswith("# ")


@pytest.mark.parametrize("method", METHODS, ids=name)
def test_a_method_keeps_the_callbacks_of_the_recipe(method: Path) -> None:
    trainer = yaml.safe_load(method.read_text()).get("trainer", {})
    assert "callbacks" not in trainer, "write callbacks+: it adds to the recipe's"


@pytest.mark.parametrize(
    "methods",
    [
        ("snapshot_ensemble", "test_time_augmentation"),
        pytest.param(
            ("snapshot_ensemble", "noise_marginalization", "test_time_augmentation"), marks=pytest.mark.slow
        ),
    ],
    ids=lambda methods: "-".join(methods),
)
def test_the_order_of_overlays_that_average_makes_no_difference(
    methods: tuple[str, ...], quick: dict[str, list[str]], tmp_path: Path
) -> None:
    def command(name: str, order: Iterable[str]) -> list[str]:
        files = [BASE.with_name("mlp.yaml"), *(CONFIGS / "methods" / f"{method}.yaml" for method in order)]
        configs = [argument for path in files for argument in ("--config", str(path))]
        few = ["--trainer.limit_train_batches=5", "--trainer.limit_test_batches=2"]
        return [name, *configs, *quick["fashion_mnist"], *few]

    assert main(command("fit", methods)) == 0
    checkpoint = tmp_path / "version_0" / "checkpoints" / "last.ckpt"
    results = []
    before = (tmp_path / "version_0" / "metrics.csv").read_text().splitlines()
    for order in permutations(methods):
        assert main([*command("test", order), f"--ckpt_path={checkpoint}"]) == 0
        lines = (tmp_path / "version_0" / "metrics.csv").read_text().splitlines()
        assert len(lines) == len(before) + 1  # the columns may be other ones
        before = lines
        results.append(dict(zip(lines[0].split(","), lines[-1].split(","), strict=True)))
    assert float(results[0]["test/loss"]) > 0.0
    assert all(result == results[0] for result in results)


@pytest.mark.filterwarnings("ignore:validate without --ckpt_path")
def test_alexnets_ten_crops_of_mean_subtracted_images(quick: dict[str, list[str]], tmp_path: Path) -> None:
    """As its recipe says."""
    views = ["--trainer.callbacks+=TestTimeAugmentation", "--trainer.callbacks.views=TenCrop"]
    views += ["--trainer.callbacks.views.size=227", "--trainer.callbacks.stages=[validate]"]
    recipe = CONFIGS / "imagenet" / "alexnet.yaml"
    assert " ".join(views[:3]) in recipe.read_text()
    command = ["--config", str(recipe), *quick["imagenet"], *SMALLER["alexnet"], *views]
    assert main(["validate", *command]) == 0
