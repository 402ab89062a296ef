"""Pipelines of two processes: they train as one process does with the same micro-batches, bit for bit.

All that needs two processes runs in one start of them; tests look at what they wrote.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import seed_everything
from torch.nn import functional as F

from lightning_optreg.strategies import PipelineParallel, tensor_parallel_plan
from tests.processes import in_processes, needs_gloo
from tests.resume_tools import assert_identical
from tests.small_runs import quiet_trainer
from tests.strategies.split.split_refusals import REFUSED, classifier, refusal
from tests.strategies.split.split_runs import CASES, NETS, Images, Noisy, fit_noisy, fit_plain, sgd
from tests.strategies.split.split_tensors import outputs_and_gradients, small_vgg, tensor_parallel

pytestmark = needs_gloo

RARER = ("LeNet5 GPipe", "MLP 1F1B", "VGG", "batch norm", "bf16-mixed", "two tensors between stages")
"""Cases that are left to the slow tests."""


def the_rest(rank: int, folder: Path) -> None:
    """What each of the two processes does in the slow tests."""
    found: dict[str, Any] = {name: CASES[name].in_pipeline() for name in RARER}
    torch.save(found, folder / f"{rank}.pt")


def everything(rank: int, folder: Path) -> None:
    """What each of the two processes does."""
    found: dict[str, Any] = {name: case.in_pipeline() for name, case in CASES.items() if name not in RARER}
    found["straight"] = fit_noisy(folder / "1", None)
    found["resumed"] = {step: fit_noisy(folder / "1", step) for step in (3, 6, 10)}
    found["straight in windows"] = fit_noisy(folder / "4", None, window=4)
    found["resumed in a window"] = fit_noisy(folder / "4", 3, window=4)
    found["refused"] = {name: refusal(make) for name, make in REFUSED.items()}
    found["continued"] = fit_plain(folder / "plain", pipeline=True)
    found["tensor parallel"] = tensor_parallel()
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pipeline")
    torch.save(fit_plain(path / "plain", pipeline=False), path / "plain.pt")
    in_processes(2, everything, path)
    return path


@pytest.fixture(scope="module")
def results(folder: Path) -> list[dict[str, Any]]:
    """What each process found."""
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def check_case(name: str, results: list[dict[str, Any]]) -> None:
    alone = CASES[name].alone()
    for found in results:
        assert_identical(alone["weights"], found[name]["weights"], name)
    assert_identical(alone["optimizer"], results[0][name]["optimizer"], name)


@pytest.mark.parametrize("name", [name for name in CASES if name not in RARER])
def test_a_pipeline_trains_as_one_process_does(name: str, results: list[dict[str, Any]]) -> None:
    """Also clipped by the norm of the whole gradient, within an accumulation window, and in two groups.

    Bit for bit: micro-batches are added up in the same order, and the norm from the same norms of tensors.
    """
    check_case(name, results)


@pytest.mark.parametrize("name", ["LeNet5 1F1B", "ResNet"])
def test_all_processes_log_what_the_whole_network_gives(name: str, results: list[dict[str, Any]]) -> None:
    first, second = (found[name]["metrics"] for found in results)
    assert first == second
    net = NETS[CASES[name].net]()
    net.load_state_dict(results[0][name]["weights"])
    net.eval()
    with torch.no_grad():
        losses = [(F.cross_entropy(net(x), y, reduction="sum"), len(y)) for x, y in Images()]
    mean = sum(float(loss) for loss, _ in losses) / sum(count for _, count in losses)
    assert first["val/loss"] == pytest.approx(mean, rel=1e-5)  # sums in another order


@pytest.mark.parametrize("step", [3, 6, 10])
def test_a_resumed_pipeline_equals_one_that_never_stopped(step: int, results: list[dict[str, Any]]) -> None:
    """In the middle of an epoch and at its end, with dropout and noise in both stages."""
    for found in results:
        assert_identical(found["straight"]["weights"], found["resumed"][step]["weights"], f"step {step}")
        assert found["straight"]["metrics"] == found["resumed"][step]["metrics"]
    assert_identical(results[0]["straight"]["optimizer"], results[0]["resumed"][step]["optimizer"], "Adam")


def test_its_checkpoints_are_those_of_one_process(folder: Path, results: list[dict[str, Any]]) -> None:
    """A run in one process continues them."""
    checkpoint = torch.load(folder / "1" / "all" / "step=18.ckpt", weights_only=True)
    module = Noisy()
    assert list(checkpoint["state_dict"]) == list(module.state_dict())
    assert_identical(dict(checkpoint["state_dict"]), results[0]["straight"]["weights"], "weights")
    optimizer = module.configure_optimizers()[0][0]
    assert list(checkpoint["optimizer_states"][0]["state"]) == list(range(len(list(module.parameters()))))
    optimizer.load_state_dict(checkpoint["optimizer_states"][0])


def test_one_process_continues_a_pipeline(folder: Path) -> None:
    with pytest.warns(UserWarning, match="other numbers|processes"):
        state = fit_noisy(folder / "1", 6, pipeline=False)
    assert all(value.isfinite().all() for value in state["weights"].values())


def test_a_pipeline_continues_one_process(folder: Path, results: list[dict[str, Any]]) -> None:
    """In the middle of an epoch, and without noise and with one micro-batch to the last bit."""
    alone = torch.load(folder / "plain.pt", weights_only=True)
    for found in results:
        assert_identical(alone, found["continued"], "weights")


def test_a_window_is_resumed_too(folder: Path, results: list[dict[str, Any]]) -> None:
    """Its gradients are in the checkpoint, each once, so that one process can continue as well."""
    for found in results:
        straight, resumed = found["straight in windows"], found["resumed in a window"]
        assert_identical(straight["weights"], resumed["weights"], "window")
        assert straight["metrics"] == resumed["metrics"]


@pytest.fixture(scope="module")
def slow_results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    path = tmp_path_factory.mktemp("rest")
    in_processes(2, the_rest, path)
    return [torch.load(path / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", RARER)
def test_other_pipelines_train_as_one_process_does(name: str, slow_results: list[dict[str, Any]]) -> None:
    check_case(name, slow_results)


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_done_is_refused(words: str, results: list[dict[str, Any]]) -> None:
    for found in results:
        assert words in found["refused"][words]
        assert found["refused"][words].startswith("PipelineParallel: ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"schedule": "2F2B"}, "schedule must be '1F1B' or 'GPipe'"),
        ({"microbatches": 0}, "microbatches must be >= 1"),
        ({"split": "memory"}, "split must be 'parameters' or 'time'"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PipelineParallel(**options)


def test_it_goes_by_its_name() -> None:
    trainer = quiet_trainer(strategy="PipelineParallel", devices=2)
    assert isinstance(trainer.strategy, PipelineParallel)


def test_one_device_is_too_few() -> None:
    trainer = quiet_trainer(strategy=PipelineParallel(), devices=1, max_epochs=1)
    with pytest.raises(MisconfigurationException, match="at least 2 devices, got 1"):
        trainer.fit(classifier(), Images(), Images())


@pytest.mark.parametrize("name", ["MLP", "ResNet", "VGG"])
def test_a_network_split_by_tensors_is_the_same_function(name: str, results: list[dict[str, Any]]) -> None:
    """Also its gradients; up to rounding, as a sum over inputs becomes two sums."""
    seed_everything(1, verbose=False)
    alone = outputs_and_gradients(
        small_vgg() if name == "VGG" else NETS[{"MLP": "MLP without"}.get(name, name)]()
    )
    for found in results:
        split = found["tensor parallel"][name]
        assert split.keys() == alone.keys()
        for key, value in alone.items():
            torch.testing.assert_close(split[key], value, rtol=1e-4, atol=1e-6, msg=key)


def test_vgg16_is_halved_on_the_meta_device(results: list[dict[str, Any]]) -> None:
    for found in results:
        assert found["tensor parallel"]["shapes"] == {
            "0.weight": [2048, 25088],
            "0.bias": [2048],
            "3.weight": [4096, 2048],
            "3.bias": [4096],
            "6.weight": [500, 4096],
            "6.bias": [500],
        }


def test_lightnings_strategy_trains_it(results: list[dict[str, Any]]) -> None:
    seed_everything(1, verbose=False)
    net = NETS["MLP without"]()
    optimizer = sgd(net.parameters())
    for x, y in [*Images(), *Images()]:
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    for found in results:
        for name, value in net.state_dict().items():
            torch.testing.assert_close(found["tensor parallel"]["fit"][name], value, rtol=1e-3, atol=1e-5)


def test_no_linear_layer_no_plan() -> None:
    with pytest.raises(ValueError, match="Conv2d has no linear layer"):
        tensor_parallel_plan(torch.nn.Conv2d(1, 1, 1))
