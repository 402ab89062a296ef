"""MaxNorm: every unit within the ball after every step, and otherwise nothing."""

from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_optreg.callbacks import MaxNorm
from lightning_optreg.callbacks.max_norm import project, unit_norms
from tests.callbacks.test_penalties import Net, train
from tests.resume_tools import Diary


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
    weights = [reference.net[0].weight, reference.net[3].weight]
    with torch.no_grad():
        for w in weights:
            w.copy_(torch.renorm(w, 2, 0, 0.5))
    for _ in range(2):
        for batch in reference.train_dataloader():
            reference.zero_grad()
            reference.training_step(batch, 0).backward()
            with torch.no_grad():
                for p in reference.parameters():
                    p.sub_(0.1 * p.grad)
                for w in weights:
                    w.copy_(torch.renorm(w, 2, 0, 0.5))
    found = train(Net(torch.optim.SGD, lr=0.1), [MaxNorm(0.5)])
    torch.testing.assert_close(found, list(reference.parameters()), rtol=1e-6, atol=1e-7)


def test_refuses_what_has_no_units() -> None:
    with pytest.raises(MisconfigurationException, match=r"^MaxNorm: net\.0\.bias has one dimension"):
        train(Net(torch.optim.SGD, lr=0.1), [MaxNorm(1.0, names=["net.0.*"])])
    with pytest.raises(MisconfigurationException, match=r"^MaxNorm: no trainable parameter is chosen"):
        train(Net(torch.optim.SGD, lr=0.1), [MaxNorm(1.0, types=["Conv2d"])])
