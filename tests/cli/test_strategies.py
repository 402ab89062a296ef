"""This package's strategies on the command line: by name, with arguments, in files, in what a run leaves."""

from pathlib import Path

import pytest
import yaml
from lightning.pytorch.strategies import Strategy

from lightning_optreg import strategies
from lightning_optreg.__main__ import main
from lightning_optreg.cli.given import mentions
from tests.cli.tools import load, read, short

pytestmark = pytest.mark.usefixtures("blank_curves")

OURS = [
    name
    for name in strategies.__all__
    if isinstance(getattr(strategies, name), type) and issubclass(getattr(strategies, name), Strategy)
]


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> object:
    """The strategy of the configuration that a command line stands for."""
    capsys.readouterr()
    assert main(["fit", *words, "--print_config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)["trainer"]["strategy"]


def test_there_are_strategies() -> None:
    assert len(OURS) >= 6


@pytest.mark.parametrize("name", OURS)
def test_a_name_is_enough(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "--trainer.strategy", name) == name


@pytest.mark.parametrize("name", OURS)
def test_a_class_in_a_file_is_found(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "strategy.yaml"
    file.write_text(yaml.safe_dump({"trainer": {"strategy": {"class_path": name}}}))
    found = printed(capsys, "--config", str(file))
    assert isinstance(found, dict)
    assert found["class_path"] == f"lightning_optreg.strategies.{name}"


def test_arguments_follow_the_name_or_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "strategy.yaml"
    for in_file in ("LocalSGD", {"class_path": "LocalSGD", "init_args": {"period": 3}}):
        file.write_text(yaml.safe_dump({"trainer": {"strategy": in_file}}))
        found = printed(capsys, "--config", str(file), "--trainer.strategy.period", "7")
        assert isinstance(found, dict)
        assert found["init_args"]["period"] == 7
    found = printed(
        capsys,
        *("--trainer.strategy=LocalSGD", "--trainer.strategy.period=5"),
        *("--trainer.strategy.outer_optimizer=SGD", "--trainer.strategy.outer_optimizer.lr=0.7"),
    )
    assert isinstance(found, dict)
    assert found["init_args"]["outer_optimizer"]["init_args"]["lr"] == 0.7


def test_help_on_a_strategy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--trainer.strategy.help=LocalSGD"]) == 0
    assert "--trainer.strategy.period" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:It is recommended to use .*sync_dist=True")  # torchmetrics has done so
def test_a_run_is_repeated_measured_and_continued_from_what_it_left(
    fashion_mnist_dir: Path, tmp_path: Path
) -> None:
    options = short(fashion_mnist_dir, tmp_path)
    chosen = ["--trainer.strategy=ElasticAveraging", "--trainer.strategy.period=1", "--trainer.devices=1"]
    assert main(["fit", *options, *chosen]) == 0
    folder = tmp_path / "version_0"
    config = str(folder / "config.yaml")
    strategy = read(folder / "config.yaml")["trainer"]["strategy"]
    assert strategy["class_path"] == "lightning_optreg.strategies.ElasticAveraging"
    assert strategy["init_args"]["period"] == 1
    # again from its own record
    assert main(["fit", "--config", config]) == 0
    again = load(tmp_path / "version_1/checkpoints/last.ckpt")["state_dict"]
    first = load(folder / "checkpoints/last.ckpt")["state_dict"]
    assert all((again[name] == tensor).all() for name, tensor in first.items())
    # measured with the strategy and without
    for how in (["--config", config], options):
        assert main(["test", *how, f"--ckpt_path={folder / 'checkpoints/last.ckpt'}"]) == 0
    # continued in its folder
    more = ["--trainer.max_epochs=2", f"--ckpt_path={folder / 'checkpoints/last.ckpt'}"]
    assert main(["fit", "--config", config, *more]) == 0
    assert load(tmp_path / "version_2/checkpoints/last.ckpt")["global_step"] == 4


def test_where_strategies_may_be_named(tmp_path: Path) -> None:
    """Only then they are imported."""
    plain, naming, pointing = (tmp_path / name for name in ("plain.yaml", "naming.yaml", "pointing.yaml"))
    plain.write_text("trainer: {max_epochs: 1}\n")
    naming.write_text("trainer: {strategy: LocalSGD}\n")
    pointing.write_text("fit: {trainer: other.yaml}\n")
    assert not mentions(["fit", "--config", str(plain)], "strategy")
    for words in (["--trainer.strategy=ddp"], ["--config", str(naming)], [f"--config={pointing}"]):
        assert mentions(["fit", *words], "strategy")
