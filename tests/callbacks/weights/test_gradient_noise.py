"""GradientNoise has the variance of the paper, comes after clipping, and is a function of seed and step."""

import itertools
import math
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn

from lightning_optreg.callbacks import GradientNoise
from lightning_optreg.callbacks.weights.gradient_noise import add_noise, noise_std
from tests.small_runs import Diary, quiet_trainer

N = 40_000


class Linear(LightningModule):
    """loss = sum(w) * slope: a known gradient; SGD of rate 1, so that steps are gradients."""

    def __init__(self, slope: float = 0.0, *, manual: bool = False) -> None:
        super().__init__()
        self.automatic_optimization = not manual
        self.slope = slope
        self.w = nn.Parameter(torch.zeros(N))
        self.steps: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.steps.append(self.w.detach().clone())
        loss = self.slope * self.w.sum()
        if not self.automatic_optimization:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            nn.utils.clip_grad_norm_([self.w], 0.5)
            optimizer.step()
        return loss

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.zeros(12, 1))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def gradients(module: Linear, callback: GradientNoise, steps: int = 4, **options: Any) -> list[Tensor]:
    trainer = quiet_trainer(callbacks=[callback], max_steps=steps, **options)
    trainer.fit(module)
    places = [*module.steps, module.w.detach()]
    found = [a - b for a, b in itertools.pairwise(places)]
    return [g for g in found if g.any()]  # a window's first batches make no step


def test_variance_is_that_of_the_paper_and_not_its_square() -> None:
    found = gradients(Linear(), GradientNoise(eta=0.3, gamma=0.55, seed=1))
    assert len(found) == 4
    for t, noise in enumerate(found):
        variance = 0.3 / (1 + t) ** 0.55
        # of N normals: relative standard error of the variance sqrt(2 / N), of the mean sqrt(variance / N)
        assert noise.var().item() == pytest.approx(variance, rel=5 * math.sqrt(2 / N))
        assert abs(noise.mean().item()) < 5 * math.sqrt(variance / N)
        assert noise_std(t, 0.3) == pytest.approx(math.sqrt(variance))
    correlation = torch.corrcoef(torch.stack(found))
    assert (correlation - torch.eye(4)).abs().max() < 5 / math.sqrt(N)


def test_complex_gradients_get_the_variance_in_all() -> None:
    z = torch.zeros(N, dtype=torch.complex64)
    add_noise([z], 2.0, torch.Generator().manual_seed(0))
    assert z.abs().square().mean().item() == pytest.approx(4.0, rel=5 / math.sqrt(N))
    assert z.real.var().item() == pytest.approx(2.0, rel=5 * math.sqrt(2 / N))


@pytest.mark.parametrize("manual", [False, True])
def test_noise_comes_after_clipping(manual: bool) -> None:
    slope = 1.0
    options = {} if manual else {"gradient_clip_val": 0.5}
    (found,) = gradients(Linear(slope, manual=manual), GradientNoise(eta=1.0, seed=1), 1, **options)
    (noise,) = gradients(Linear(0.0), GradientNoise(eta=1.0, seed=1), 1)
    clipped = slope * 0.5 / math.sqrt(N)
    torch.testing.assert_close(found - noise, torch.full((N,), clipped), atol=1e-5, rtol=0.0)
    assert found.norm() > 100  # noise before clipping would have been cut to 0.5


def test_noise_is_added_once_a_step_under_accumulation_and_unscaled_under_amp() -> None:
    reference = gradients(Linear(0.0), GradientNoise(eta=1.0, seed=1), 2)
    windows = gradients(Linear(0.0), GradientNoise(eta=1.0, seed=1), 2, accumulate_grad_batches=3)
    scaler = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    scaled = gradients(Linear(0.0), GradientNoise(eta=1.0, seed=1), 2, plugins=scaler)
    for other in (windows, scaled):
        torch.testing.assert_close(other, reference, atol=1e-5, rtol=0.0)


def test_seed_and_step_decide_and_the_global_generator_does_not() -> None:
    state = torch.get_rng_state()
    first = gradients(Linear(), GradientNoise(seed=1))
    torch.manual_seed(99)
    again, other = gradients(Linear(), GradientNoise(seed=1)), gradients(Linear(), GradientNoise(seed=2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    torch.set_rng_state(state)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_module_gets_its_clipping_back() -> None:
    module = Linear()
    gradients(module, GradientNoise())
    assert "configure_gradient_clipping" not in vars(module)


def test_logs_the_standard_deviation() -> None:
    diary = Diary()
    gradients(Linear(), GradientNoise(eta=0.04), 3, logger=diary, log_every_n_steps=1)
    logged = [
        value for (_, name), value in sorted(diary.values.items()) if name == "optreg/gradient_noise/std"
    ]
    assert logged == pytest.approx([noise_std(t, 0.04) for t in range(3)])


class Sparse(Linear):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 2, sparse=True)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.embedding(torch.tensor([1])).sum()


def test_sparse_gradients_are_refused() -> None:
    with pytest.raises(
        MisconfigurationException, match="GradientNoise: gradients must be dense, got a sparse one"
    ):
        gradients(Sparse(), GradientNoise())


class Fails(Linear):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        raise RuntimeError("no loss")


def test_the_module_gets_its_clipping_back_after_an_error() -> None:
    module = Fails()
    with pytest.raises(RuntimeError, match="no loss"):
        gradients(module, GradientNoise())
    assert "configure_gradient_clipping" not in vars(module)


def test_a_fused_optimizer_with_a_gradient_scaler_is_refused() -> None:
    module = Linear(slope=0.5)
    module.configure_optimizers = lambda: torch.optim.SGD(  # type: ignore[method-assign]
        module.parameters(), lr=1.0, fused=True
    )
    amp = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    with pytest.raises(MisconfigurationException, match="set fused to false"):
        gradients(module, GradientNoise(), plugins=[amp])
