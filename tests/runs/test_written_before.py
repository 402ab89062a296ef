"""Configurations and checkpoints of earlier versions are read, and runs go on as they would have.

`written_before/` has two runs of a small MLP, written when each callback was a module of `callbacks/` itself:
the `config.yaml`, the checkpoint of step 8 (in the middle of an epoch) and the network's weights at the end,
after step 15.
"""

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from lightning_optreg import ImageClassifier
from lightning_optreg.__main__ import main

WRITTEN = Path(__file__).parent / "written_before"
RUNS = ("sgd", "adam")
pytestmark = [
    pytest.mark.usefixtures("blank_curves"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),  # said of checkpoints that were copied
    pytest.mark.filterwarnings("ignore:[\\s]*``instantiate_classes``"),  # Lightning 2.6 calls it
    pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback, but loading"),  # by test
]


def options(name: str, fashion_mnist_dir: Path) -> list[str]:
    return [
        f"--config={WRITTEN / name}.yaml",
        f"--data.data_dir={fashion_mnist_dir}",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
    ]


@pytest.fixture(params=RUNS)
def name(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a run, whose checkpoint lies in a run's folder below the working directory."""
    monkeypatch.chdir(tmp_path)
    checkpoint = begun(request.param)
    checkpoint.parent.mkdir(parents=True)
    shutil.copy(WRITTEN / f"{request.param}.ckpt", checkpoint)
    return str(request.param)


def begun(name: str) -> Path:
    return Path(name, "version_0", "checkpoints", "begun.ckpt")


def test_a_run_goes_on(name: str, tmp_path: Path, fashion_mnist_dir: Path) -> None:
    assert main(["fit", *options(name, fashion_mnist_dir), f"--ckpt_path={begun(name)}"]) == 0
    ended = torch.load(WRITTEN / f"{name}_ended.pt", weights_only=True)
    (last,) = tmp_path.rglob("last.ckpt")
    saved = torch.load(last, weights_only=True)
    assert saved["global_step"] == 15
    for key, weights in ended.items():
        state = saved["current_model_state" if key.startswith("average.") else "state_dict"]
        # Not to the last bit: other processors round otherwise.
        torch.testing.assert_close(state[key.removeprefix("average.")], weights, rtol=1e-3, atol=1e-5)


def test_a_checkpoint_is_tested(name: str, fashion_mnist_dir: Path) -> None:
    assert main(["test", *options(name, fashion_mnist_dir), f"--ckpt_path={begun(name)}"]) == 0


def test_a_checkpoint_is_loaded_with_its_network(name: str) -> None:
    module = ImageClassifier.load_from_checkpoint(WRITTEN / f"{name}.ckpt")
    assert module(torch.zeros(1, 1, 28, 28)).shape == (1, 10)


def test_a_new_configuration_names_classes_as_before(
    name: str, tmp_path: Path, fashion_mnist_dir: Path
) -> None:
    """So that what is written now is read by what was installed before."""
    few = ["--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"]
    assert main(["fit", *options(name, fashion_mnist_dir), *few]) == 0
    (written,) = tmp_path.glob("**/config.yaml")
    before = yaml.safe_load((WRITTEN / f"{name}.yaml").read_text())
    now = yaml.safe_load(written.read_text())
    for callback in (*before["trainer"]["callbacks"], before["model"]["net"], before["data"]):
        assert callback["class_path"] in written.read_text()
    assert [each["class_path"] for each in now["trainer"]["callbacks"]] == [
        each["class_path"] for each in before["trainer"]["callbacks"]
    ]
