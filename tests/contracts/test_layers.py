"""Every layer is neutral, resumable, at home on any device, in any precision and memory format, under DDP."""

import copy
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, seed_everything
from torch import Tensor, nn

from lightning_optreg import layers
from lightning_optreg.callbacks import ExactResume
from lightning_optreg.layers import NoiseLayer
from tests.contracts.layers import LAYERS, SHAPE
from tests.contracts.runs import checkpoint_every_step
from tests.processes import WriteAtEnd, needs_fork, needs_gloo, written
from tests.resume_tools import StatefulLoader, assert_identical, final_state, spoil_random_state
from tests.small_runs import ACCELERATOR, quiet_trainer

every_layer = pytest.mark.parametrize("name", LAYERS)
NOISY = [name for name, row in LAYERS.items() if row.draws_in_training]
ADDS_IN_ANY_ORDER = {"FractionalMaxPool"}  # gradients, on a GPU


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return LAYERS[name].build()


def noise_layers(layer: nn.Module) -> list[NoiseLayer]:
    return [module for module in layer.modules() if isinstance(module, NoiseLayer)]


def images(count: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0)).to(dtype)


def test_every_public_layer_has_a_row() -> None:
    assert {name.partition("-")[0] for name in LAYERS} == set(layers.__all__) - {"NoiseLayer"}


@pytest.mark.parametrize("name", layers.__all__)
def test_documented(name: str) -> None:
    cls = getattr(layers, name)
    text = inspect.getdoc(cls) or ""
    assert "Example" in text
    for parameter in inspect.signature(cls).parameters.keys() - {"args", "kwargs"}:
        assert f"    {parameter}: " in text, f"{name} does not say what {parameter} is"


@pytest.mark.parametrize("name", [name for name, row in LAYERS.items() if row.neutral])
@pytest.mark.parametrize("training", [True, False])
def test_neutral(name: str, training: bool) -> None:
    layer, x = LAYERS[name].neutral().train(training), images()
    for module in noise_layers(layer):
        module.sampling = True
    state = torch.get_rng_state()
    assert torch.equal(layer(x), LAYERS[name].plain(layer, x))
    assert torch.equal(torch.get_rng_state(), state)


@every_layer
@pytest.mark.parametrize("training", [True, False])
def test_random_numbers_come_from_the_default_generator(name: str, training: bool) -> None:
    layer, x = build(name).train(training), images()
    draws = LAYERS[name].draws_in_training if training else LAYERS[name].draws_at_test
    state = torch.get_rng_state()
    results = [layer(x) for _ in range(12)]
    assert torch.equal(torch.get_rng_state(), state) is not draws
    assert any(not torch.equal(results[0], other) for other in results) is draws
    torch.set_rng_state(state)
    assert all(torch.equal(result, layer(x)) for result in results)


@pytest.mark.parametrize("name", NOISY)
def test_sampling_in_evaluation_draws_as_in_training(name: str) -> None:
    layer, x = build(name), images()
    assert noise_layers(layer)
    results = []
    for training in (True, False):
        layer.train(training)
        for module in noise_layers(layer):
            module.sampling = not training
        torch.manual_seed(1)
        results.append([layer(x) for _ in range(4)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@every_layer
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_keeps_the_type_and_leaves_its_input_alone(name: str, training: bool, dtype: torch.dtype) -> None:
    layer, x = build(name).to(dtype).train(training), images(dtype=dtype).requires_grad_()
    before = x.detach().clone()
    y = layer(x)
    assert y.dtype == dtype
    torch.stack([y, *(layer(x) for _ in range(12))]).float().square().sum().backward()  # some drop all
    assert x.grad.isfinite().all()
    assert x.grad.any()
    assert torch.equal(x, before)


@every_layer
@pytest.mark.parametrize("training", [True, False])
def test_bf16_autocast(name: str, training: bool) -> None:
    layer, x = build(name).train(training), images().requires_grad_()
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    torch.manual_seed(1)
    torch.testing.assert_close(y.float(), layer(x), rtol=0.03, atol=0.03)
    y.float().square().sum().backward()
    for tensor in (x, *(p for p in layer.parameters() if p.requires_grad)):
        assert tensor.grad.isfinite().all()


@every_layer
def test_channels_last(name: str) -> None:
    layer, x = build(name), images()
    moved = x.to(memory_format=torch.channels_last)
    assert layer(moved).shape == layer(x).shape
    if not LAYERS[name].draws_in_training:
        torch.testing.assert_close(layer(moved), layer(x))
    layer.eval()
    torch.manual_seed(1)
    expected = layer(x)
    torch.manual_seed(1)
    torch.testing.assert_close(layer(moved), expected)


@every_layer
@pytest.mark.parametrize("training", [True, False])
def test_meta_device(name: str, training: bool) -> None:
    here, x = build(name).train(training), images()
    with torch.device("meta"):
        there = LAYERS[name].build().train(training)
        y = there(torch.empty(x.shape))
    assert y.device.type == "meta"
    assert y.shape == here(x).shape


@every_layer
def test_copies_and_state_dicts(name: str) -> None:
    layer, x = build(name), images()
    for module in noise_layers(layer):
        module.sampling = True
    again = copy.deepcopy(layer)
    assert [module.sampling for module in noise_layers(again)] == [True] * len(noise_layers(layer))
    other = LAYERS[name].build()
    other.load_state_dict(layer.state_dict())
    for one in (again, other):
        results = []
        for module in (layer, one):
            torch.manual_seed(1)
            results.append(module(x))
        assert torch.equal(*results)


@every_layer
def test_export_with_any_batch_size(name: str) -> None:
    layer, x = build(name).eval(), images()
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    results = []
    for module in (layer, program.module()):
        torch.manual_seed(1)
        results.append(module(x[:3]))
    torch.testing.assert_close(*results)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, row in LAYERS.items() if not row.draws_at_test])
def test_onnx(name: str) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net, x = nn.Sequential(nn.Conv2d(6, 6, 1), build(name)).eval(), images()
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.onnx.export(net, (x,), dynamo=True, dynamic_shapes=shapes, verbose=False)
    session = runtime.InferenceSession(program.model_proto.SerializeToString())
    (result,) = session.run(None, {session.get_inputs()[0].name: x[:3].numpy()})
    torch.testing.assert_close(torch.from_numpy(result), net(x[:3]), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@every_layer
@pytest.mark.parametrize("training", [True, False])
def test_compiled(name: str, training: bool) -> None:
    torch.compiler.reset()
    layer, x = build(name).train(training), images()
    compiled = torch.compile(copy.deepcopy(layer))
    draws = LAYERS[name].draws_in_training if training else LAYERS[name].draws_at_test
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    outputs = [module(tensor) for module, tensor in zip((layer, compiled), inputs, strict=True)]
    for y in outputs:
        y.square().sum().backward()
    if draws:  # the compiler has random numbers of its own
        assert outputs[0].shape == outputs[1].shape
        assert inputs[1].grad.isfinite().all()
        results = [compiled(x) for _ in range(12)]
        assert any(not torch.equal(results[0], other) for other in results)
    else:
        torch.testing.assert_close(*outputs)
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad)


class OneLayer(LightningModule):
    """A network around a layer; loss and weights depend on all that it draws."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first = nn.Linear(5, torch.Size(SHAPE).numel())
        self.layer = layer
        with torch.no_grad():
            outputs = copy.deepcopy(layer)(images(2))[0].numel()
        self.last = nn.Linear(outputs, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        h = self.layer(self.first(x).unflatten(1, SHAPE))
        return nn.functional.mse_loss(self.last(h.flatten(1)), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def fit(
    module: LightningModule, folder: Path, ckpt_path: Path | None = None, **options: Any
) -> dict[str, Any]:
    trainer = quiet_trainer(max_epochs=2, default_root_dir=folder, **options)
    trainer.fit(module, StatefulLoader(), ckpt_path=ckpt_path)
    return final_state(trainer, module)


@pytest.mark.parametrize("name", NOISY)
def test_resumes_in_the_middle_of_an_epoch(name: str, tmp_path: Path) -> None:
    seed_everything(1, verbose=False)
    saver = checkpoint_every_step(tmp_path)
    straight = fit(
        OneLayer(build(name)), tmp_path, callbacks=[ExactResume(), saver], enable_checkpointing=True
    )
    spoil_random_state()
    module = OneLayer(LAYERS[name].build())
    resumed = fit(module, tmp_path, tmp_path / "step=4.ckpt", callbacks=[ExactResume()])
    if name in ADDS_IN_ANY_ORDER and ACCELERATOR == "cuda":
        torch.testing.assert_close(straight["weights"], resumed["weights"])
    else:
        assert_identical(straight, resumed)


@needs_fork
@needs_gloo
def test_two_processes(tmp_path: Path) -> None:
    """All layers in one network: each alone would cost the start of two processes."""
    chosen = [layer for name in LAYERS if (layer := build(name))(images()).shape[1:] == SHAPE]
    assert len(chosen) >= 9
    layer = nn.Sequential(*chosen, layers.FractionalMaxPool(1.5), layers.DropConnect(6, 4))
    module = OneLayer(layer)
    before = {name: weight.detach().clone() for name, weight in module.named_parameters()}
    fit(module, tmp_path, callbacks=[WriteAtEnd(tmp_path, own_draws=True)], strategy="ddp_fork", devices=2)
    first, second = written(tmp_path)
    assert first["drawn"] != second["drawn"]
    assert_identical(first["weights"], second["weights"])
    assert any(not torch.equal(weight, before[name]) for name, weight in first["weights"].items())
