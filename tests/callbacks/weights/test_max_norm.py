"""MaxNorm: every unit within the ball after every step, and otherwise nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import nn

from lightning_optreg.callbacks import ExactResume, MaxNorm
from lightning_optreg.callbacks.weights.max_norm import project, unit_norms
from tests.callbacks.weights.small_net import Net, descend, train
from tests.contracts.runs import checkpoint_every_step
from tests.resume_tools import Regression, StatefulLoader, assert_identical
from tests.small_runs import Diary, quiet_trainer

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64)


@pytest.mark.parametrize("shape", [(6, 5), (6, 3, 2, 2), (6, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_is_torchs_renorm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=dtype) * torch.linspace(0.1, 2, 6).view(-1, *[1] * (len(shape) - 1))
    weight[2] = 0.0
    wanted = torch.renorm(weight, 2, 0, 1.5)
    projected = weight.clone()
    project(projected, 1.5)
    torch.testing.assert_close(projected, wanted, rtol=1e-6, atol=1e-7)  # renorm adds 1e-7 to the norm
    inside = weight.flatten(1).norm(dim=1) <= 1.5
    assert 0 < inside.sum() < 6
    assert torch.equal(projected[inside], weight[inside])


def test_bfloat16_and_complex() -> None:
    torch.manual_seed(0)
    weight = 10 * torch.randn(4, 300, dtype=torch.bfloat16)
    project(weight, 1.0)
    torch.testing.assert_close(weight.float().norm(dim=1), torch.ones(4), rtol=4e-3, atol=0)
    z = torch.randn(4, 3, dtype=torch.complex64)
    project(z, 0.5)
    torch.testing.assert_close(z.norm(dim=1).real, torch.full((4,), 0.5))


def units(draw: torch.Generator, shape: tuple[int, ...], kind: str) -> torch.Tensor:
    """Weights whose sums round as badly as may be, in float64."""
    normal = torch.randn(shape, generator=draw, dtype=torch.float64)
    match kind:
        case "normal":
            return normal
        case "constant":
            return torch.ones(shape, dtype=torch.float64)
        case "positive":
            return normal.abs() + 0.5
        case "uneven":
            return normal * torch.exp(4.0 * torch.randn(shape, generator=draw, dtype=torch.float64))
        case other:
            raise ValueError(other)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["normal", "constant", "positive", "uneven"])
@pytest.mark.parametrize("inputs", [(1,), (3,), (5, 3, 3), (128, 5, 5), (25088,)])
def test_twice_is_once(dtype: torch.dtype, kind: str, inputs: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(len(inputs) * 1000 + inputs[0])
    moved = 0
    for bound in (1e-4, 0.1, 0.37, 1.0, 3.0, 7.3):
        weight = units(draw, (16, *inputs), kind)
        # Norms from half the bound to four times it, and some that are larger by rounding only.
        scale = bound * 2.0 ** torch.linspace(-1.0, 2.0, 16, dtype=torch.float64)
        scale[5:8] = bound
        norms = weight.flatten(1).norm(dim=1)
        weight = (weight * (scale / norms).view(-1, *[1] * len(inputs))).to(dtype)
        once = weight.clone()
        project(once, bound)
        twice = once.clone()
        project(twice, bound)
        assert torch.equal(once, twice), f"bound {bound}"
        for channels_last in [True] * (weight.ndim == 4):
            other = weight.contiguous(memory_format=torch.channels_last)
            project(other, bound)
            again = other.clone()
            project(again, bound)
            assert torch.equal(other, again), f"bound {bound}, {channels_last=}"
        longest = unit_norms(once).max()
        assert longest <= bound * (1 + 1e-6 + 1e-8 * once[0].numel())
        inside = unit_norms(weight).flatten() <= bound
        assert torch.equal(once[inside], weight[inside])
        moved += int((once != weight).any())
    assert moved == 6


@pytest.mark.parametrize("groups", [1, 2])
def test_twice_is_once_in_transposed_convolutions(groups: int) -> None:
    for seed in range(20):
        weight = torch.randn(6, 8, 3, 3, generator=torch.Generator().manual_seed(seed))
        project(weight, 0.9, groups)
        again = weight.clone()
        project(again, 0.9, groups)
        assert torch.equal(weight, again)


class Longer(Callback):
    """Makes weights longer behind MaxNorm's back."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        with torch.no_grad():
            pl_module.net[0].weight.mul_(1.5)


def weights_after(folder: Path, bound: float, ckpt_path: Path | None = None, max_steps: int = 12) -> Any:
    module = Regression()
    savers = [checkpoint_every_step(folder)] if ckpt_path is None else []
    trainer = quiet_trainer(
        callbacks=[ExactResume(), MaxNorm(bound), Longer(), *savers],
        max_epochs=2,
        max_steps=max_steps,
        enable_checkpointing=bool(savers),
    )
    seed_everything(1, verbose=False)
    trainer.fit(module, StatefulLoader(), StatefulLoader(2), ckpt_path=ckpt_path)
    return module.state_dict()


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:ExactResume. the checkpoint was saved at the run's last step")
def test_a_resume_projects_only_weights_of_other_runs(tmp_path: Path) -> None:
    straight = weights_after(tmp_path, 0.5)
    checkpoint = tmp_path / "step=4.ckpt"
    assert_identical(straight, weights_after(tmp_path / "same", 0.5, checkpoint))
    longer = torch.load(checkpoint, weights_only=True)["state_dict"]["net.0.weight"].norm(dim=1)
    assert longer.max() > 0.5
    begun = weights_after(tmp_path / "other", 0.25, checkpoint, max_steps=4)  # no step is left to make
    assert begun["net.0.weight"].norm(dim=1).max() <= 0.25 * (1 + 1e-6)


@pytest.mark.parametrize("groups", [1, 2])
def test_unit_of_a_transposed_convolution_is_an_output_channel(groups: int) -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(4, 6, 3, groups=groups, bias=False)
    norms = unit_norms(layer.weight.detach(), groups).flatten()
    assert len(norms) == 6
    for channel in range(6):
        # The weights that an output channel depends on are those with a gradient.
        (gradient,) = torch.autograd.grad(
            layer(torch.randn(1, 4, 5, 5))[:, channel].square().sum(), layer.weight
        )
        torch.testing.assert_close(layer.weight[gradient != 0].norm(), norms[channel])
    project(layer.weight, 0.1, groups)
    assert unit_norms(layer.weight.detach(), groups).max() <= 0.1 * (1 + 1e-6)


@pytest.mark.parametrize(
    "options", [{}, {"accumulate_grad_batches": 4}, {"precision": "bf16-mixed"}], ids=str
)
def test_holds_after_every_step(options: dict[str, Any]) -> None:
    class Watched(Net):
        largest = 0.0

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            norms = [self.net[i].weight.detach().norm(dim=1).max().item() for i in (0, 3)]
            self.largest = max(self.largest, *norms)

    diary = Diary()
    module = Watched(torch.optim.SGD, lr=0.1, momentum=0.9)
    train(module, [MaxNorm(0.4)], logger=diary, log_every_n_steps=2, **options)
    assert 0.4 * (1 - 1e-5) < module.largest <= 0.4 * (1 + 1e-6)
    assert all(v <= 0.4 * (1 + 1e-6) for (_, name), v in diary.values.items() if name.endswith("largest"))
    last = max(step for step, name in diary.values if name == "optreg/max_norm/at_bound")
    at_bound = torch.cat([module.net[i].weight.detach().norm(dim=1) for i in (0, 3)]) > 0.4 * (1 - 1e-5)
    assert diary.values[last, "optreg/max_norm/at_bound"] == pytest.approx(at_bound.float().mean().item())
    assert module.net[1].weight.norm() > 0.4


def test_is_projected_gradient_descent() -> None:
    reference = Net(torch.optim.SGD, lr=0.1)
    with torch.no_grad():
        for w in (reference.net[0].weight, reference.net[3].weight):
            w.copy_(torch.renorm(w, 2, 0, 0.5))
    wanted = descend(reference, 0.1, lambda w: torch.renorm(w, 2, 0, 0.5))
    found = train(Net(torch.optim.SGD, lr=0.1), [MaxNorm(0.5)])
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)


def test_refuses_what_has_no_units() -> None:
    with pytest.raises(MisconfigurationException, match=r"^MaxNorm: net\.0\.bias has one dimension"):
        train(Net(torch.optim.SGD, lr=0.1), [MaxNorm(1.0, names=["net.0.*"])])
    with pytest.raises(MisconfigurationException, match=r"^MaxNorm: types=.* choose none of the parameters"):
        train(Net(torch.optim.SGD, lr=0.1), [MaxNorm(1.0, types=["Conv2d"])])
