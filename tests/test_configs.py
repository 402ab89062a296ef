"""Every file in configs/ is a test: it parses, builds, and trains a step on small data of the same format."""

import math
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from lightning_optreg import schedulers
from lightning_optreg.__main__ import main
from lightning_optreg.trainer.run_length import RunLength, schedule_steps
from lightning_optreg.trainer.schedule_length import fitted, length_argument

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
    "enresnet2_8_pgd_small": ["--data.train_size=null"],
    "enresnet5_20_pgd": ["--model.net.depth=8", "--model.net.members=1"],
    "airbench": ["--model.net.width=0.1"],
    "best": ["--model.net.width=0.1"],
    "fast": ["--model.net.width=0.1"],
    "fast94": ["--model.net.width=0.1"],
    "alexnet": ["--model.net.channels=[2,4,4,4,4]", "--model.net.hidden=8"],
    "googlenet": ["--model.net.width=0.05", "--model.net.aux_hidden=8"],
    "plain56": ["--model.net.depth=8"],
    "resnet20_short": ["--model.net.depth=8"],
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

# Recipes that train here, one of each kind; the others are parsed, and trained in slow tests.
TRAINED = (
    "cifar10/resnet20_short",  # a schedule by steps
    "cifar10/stochastic_depth110",  # layers that draw
    "fashion_mnist/enresnet2_8_pgd_small",  # attacked images
    "fashion_mnist/lenet5",
    "imagenet/alexnet",  # a folder of images
)

pytestmark = [
    # Lightning's and torch's remarks on a run of two steps
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:(AdamToSGD|BatchSizeGrowth).* end before"),
    pytest.mark.filterwarnings("ignore:lr_scheduler. the run's 1 epochs end before"),
    pytest.mark.usefixtures("blank_curves"),
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
        "--trainer.limit_train_batches=3",
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
    assert {path.parent.name for path in CONFIGS.glob("*/*.yaml")} == {
        *DATA_SETS,
        "methods",
        "studies",
        "sweeps",
    }
    assert len(METHODS) >= 13


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(path, marks=[] if name(path) in TRAINED else pytest.mark.slow) for path in RECIPES],
    ids=name,
)
def test_a_recipe_trains(recipe: Path, quick: dict[str, list[str]], tmp_path: Path) -> None:
    steps = 3 if "OneCycleLR" in recipe.read_text() else 2  # as few as it takes
    smaller = [*SMALLER.get(recipe.stem, []), f"--trainer.limit_train_batches={steps}"]
    assert main(["fit", "--config", str(recipe), *quick[recipe.parent.name], *smaller]) == 0
    (path,) = tmp_path.glob("version_0/checkpoints/last.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["global_step"] == steps
    config = yaml.safe_load(recipe.read_text())
    argument = length_argument(schedule_class(config))
    if argument is not None:
        times = steps if config["model"].get("lr_interval") == "step" else 1
        assert checkpoint["lr_schedulers"][0][argument] == times


@pytest.mark.parametrize("recipe", [path for path in RECIPES if name(path) not in TRAINED], ids=name)
def test_a_recipe_is_parsed(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", str(recipe), "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["trainer"]["default_root_dir"] == f"runs/{name(recipe)}"


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_a_recipe_says_where_it_comes_from_and_where_it_writes(recipe: Path) -> None:
    assert recipe.read_text().startswith("# ")
    config = yaml.safe_load(recipe.read_text())
    assert config["trainer"]["default_root_dir"] == f"runs/{name(recipe)}"


def schedule_class(config: dict[str, Any]) -> type:
    """The class of a recipe's schedule; without one, one without a length."""
    name = config.get("lr_scheduler", {}).get("class_path", "StepLR").rpartition(".")[2]
    return next(vars(module)[name] for module in (lr_scheduler, schedulers) if name in vars(module))


SIZED = [path for path in RECIPES if length_argument(schedule_class(yaml.safe_load(path.read_text())))]
IMAGES = {"fashion_mnist": 54_000, "cifar10": 45_000}
LENGTHS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "2 epochs": {"epochs": 2},
    "3 epochs": {"epochs": 3},
    "many epochs": {"epochs": 200},
    "half the batch": {"batch": 0.5},
    "twice the batch": {"batch": 2},
    "accumulation": {"accumulate": 4},
    "half the batches": {"share": 0.5},
    "some steps": {"max_steps": 700},
}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("recipe", SIZED, ids=name)
def test_a_recipes_schedule_ends_with_the_run(recipe: Path, length: str) -> None:
    config, how = yaml.safe_load(recipe.read_text()), LENGTHS[length]
    interval = config["model"].get("lr_interval", "epoch")
    epochs = how.get("epochs", config["trainer"]["max_epochs"])
    batch = int(config["data"]["init_args"]["batch_size"] * how.get("batch", 1))
    batches = int(math.ceil(IMAGES[recipe.parent.name] / batch) * how.get("share", 1))
    steps_per_epoch = math.ceil(batches / how.get("accumulate", 1))
    steps = min(epochs * steps_per_epoch, how.get("max_steps", math.inf))
    times = steps if interval == "step" else math.ceil(steps / steps_per_epoch)

    found = schedule_steps(
        batches, epochs, how.get("max_steps", math.inf), lambda epoch: how.get("accumulate", 1), interval
    )
    assert found == times
    cls, arguments = schedule_class(config), config["lr_scheduler"].get("init_args", {})
    settings = config["optimizer"]["init_args"]
    settings = settings.get("optimizer", {"init_args": settings})["init_args"]  # Lookahead has another in it
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=settings["lr"], momentum=0.9)
    schedule = fitted(partial(cls, **arguments), RunLength(lambda: found, interval))(optimizer)
    if isinstance(schedule, OneCycleLR):
        schedule.last_epoch = times - 2  # it looks at this only
        down = arguments.get("div_factor", 25), arguments.get("final_div_factor", 1e4)
        expected = arguments["max_lr"] / math.prod(down)
    else:
        assert isinstance(schedule, CosineAnnealingLR)
        expected = schedule.base_lrs[0] / 2 * (1 + math.cos(math.pi * (times - 1) / times))
    optimizer.step()
    while schedule.last_epoch < times - 1:
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)


def test_recipes_have_the_steps_that_their_figures_are_of() -> None:
    steps = {"fashion_mnist/lenet5": 18 * 422, "fashion_mnist/resnet20": 15 * 422}
    steps |= {"fashion_mnist/fast": 4 * 211, "fashion_mnist/fast94": 12 * 211}
    steps |= {"fashion_mnist/best": 30 * 106, "cifar10/fast": 30 * 88}
    steps |= {"cifar10/resnet20_short": 15 * 352, "fashion_mnist/enresnet2_8_pgd_small": 5 * 79}
    steps |= {"cifar10/airbench": 10 * 48}
    sized = {name(path): yaml.safe_load(path.read_text()) for path in SIZED}
    for recipe, config in sized.items():
        images = config["data"]["init_args"].get("train_size", IMAGES[recipe.split("/")[0]])
        if config["data"]["init_args"].get("val_fraction") == 0.0:
            images = images * 10 // 9
        whole = math.floor if config["data"]["init_args"].get("drop_last") else math.ceil
        batches = whole(images / config["data"]["init_args"]["batch_size"])
        epochs = config["trainer"]["max_epochs"]
        if config["model"].get("lr_interval") == "step":
            assert epochs * batches == steps.pop(recipe)
    assert not steps
    assert "T_max" not in str(sized)
    assert "steps_per_epoch" not in str(sized)


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(["--trainer.max_epochs=3", "--trainer.limit_train_batches=0.5"], marks=pytest.mark.slow),
        ["--trainer.max_epochs=2", "--data.batch_size=8", "--trainer.accumulate_grad_batches=4"],
    ],
    ids=lambda more: more[-1].partition("=")[0],
)
def test_a_run_of_the_first_recipe_ends_at_its_lowest_rate(
    more: list[str], quick: dict[str, list[str]], tmp_path: Path
) -> None:
    few = [option for option in quick["fashion_mnist"] if "train_batches" not in option]
    assert main(["fit", "--config", str(BASE), *few, "--data.train_size=200", *more]) == 0
    (path,) = tmp_path.glob("version_0/checkpoints/last.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    (schedule,) = checkpoint["lr_schedulers"]
    assert schedule["total_steps"] == schedule["last_epoch"] == checkpoint["global_step"] > 2


# Methods that are fitted here, one of each kind; the others are parsed, and fitted in slow tests.
FAST = ("adam_to_sgd", "local_sgd", "lookahead", "random_erasing", "snapshot_ensemble", "tensorboard")


# Methods that start processes, in the way that is quickest.
FORK = ["--trainer.strategy.start_method=fork"]
IN_PROCESSES = {
    "async_elastic_averaging": [],
    "diloco": FORK,
    "downpour": [],
    "elastic_averaging": FORK,
    "hogwild": [],
    "local_sgd": FORK,
    "pipeline": FORK,
}


@pytest.mark.usefixtures("wandb_disabled")
@pytest.mark.parametrize(
    "method",
    [pytest.param(path, marks=[] if path.stem in FAST else pytest.mark.slow) for path in METHODS],
    ids=name,
)
def test_a_method_is_laid_over_a_recipe(method: Path, quick: dict[str, list[str]], tmp_path: Path) -> None:
    overlays = [method]
    if method.stem == "histograms":  # as it says, after a logger that draws them
        overlays.insert(0, method.with_name("tensorboard.yaml"))
    files = [argument for path in overlays for argument in ("--config", str(path))]
    base = BASE.with_name(NEEDS.get(method.stem, BASE.name))
    command = ["fit", "--config", str(base), *files, *quick["fashion_mnist"]]
    if base.stem == "resnet20":
        command += ["--model.net.depth=8"]
    if method.stem in IN_PROCESSES:
        command += ["--oversubscribe=true", *IN_PROCESSES[method.stem]]
    if method.stem == "compile":  # which takes a minute: building is enough
        command += ["--trainer.limit_train_batches=0", "--trainer.limit_val_batches=0"]
    if method.stem == "snapshot_ensemble":  # as many steps as cycles at least
        command += ["--trainer.limit_train_batches=5"]
    assert main(command) == 0
    assert method.read_text().startswith("# ")


def adds_callbacks_only(method: Path) -> bool:
    """Whether it can be laid over a recipe together with any others like it."""
    config = yaml.safe_load(method.read_text())
    return set(config) == {"trainer"} and set(config["trainer"]) == {"callbacks+"}


def test_all_methods_that_add_callbacks_are_parsed_together(capsys: pytest.CaptureFixture[str]) -> None:
    methods = [path for path in METHODS if adds_callbacks_only(path)]
    assert len(methods) > 15
    files = [argument for path in [BASE, *methods] for argument in ("--config", str(path))]
    assert main(["fit", *files, "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)["trainer"]["callbacks"]
    built = [each["class_path"].rpartition(".")[2] for each in printed]
    for method in methods:
        for callback in yaml.safe_load(method.read_text())["trainer"]["callbacks+"]:
            assert callback["class_path"].rpartition(".")[2] in built, method


@pytest.mark.parametrize(
    "method",
    [path for path in METHODS if path.stem not in FAST and not adds_callbacks_only(path)],
    ids=name,
)
def test_a_method_is_parsed(method: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", str(BASE), "--config", str(method), "--print_config"]) == 0
    assert "trainer:" in capsys.readouterr().out


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


@pytest.mark.filterwarnings("ignore:validate. the network is untrained")
def test_alexnets_ten_crops_of_mean_subtracted_images(quick: dict[str, list[str]], tmp_path: Path) -> None:
    """As its recipe says."""
    views = ["--trainer.callbacks+=TestTimeAugmentation", "--trainer.callbacks.views=TenCrop"]
    views += ["--trainer.callbacks.views.size=227", "--trainer.callbacks.stages=[validate]"]
    recipe = CONFIGS / "imagenet" / "alexnet.yaml"
    assert " ".join(views[:3]) in recipe.read_text()
    command = ["--config", str(recipe), *quick["imagenet"], *SMALLER["alexnet"], *views]
    assert main(["validate", *command]) == 0
