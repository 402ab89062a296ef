"""Penalties: autograd's gradient of the lecture's formula, before clipping; exact zeros in proximal form."""

from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn

from lightning_optreg.callbacks import AdamToSGD, ElasticNet, L1Penalty, L2Penalty
from lightning_optreg.callbacks.weights._chosen_parameters import choose_parameters
from lightning_optreg.callbacks.weights.penalties import add_penalty_gradient, penalty, proximal_map
from lightning_optreg.optimizers import BFGS
from tests.callbacks.weights.small_net import Net, descend, train
from tests.small_runs import Diary

CASES = [(0.3, 0.0), (0.0, 0.7), (0.3, 0.7)]


@pytest.mark.parametrize(("l1", "l2"), CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.complex64])
def test_gradient_is_that_of_autograd(l1: float, l2: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weights = [torch.randn(shape, dtype=dtype).requires_grad_() for shape in [(3, 4), (5,)]]
    with torch.no_grad():
        weights[0][0, 0] = 0.0
    loss = sum((l2 * w.abs() ** 2 + l1 * w.abs()).sum() for w in weights)
    start = [torch.randn_like(w) for w in weights]
    wanted = [s + g for s, g in zip(start, torch.autograd.grad(loss, weights), strict=True)]
    found = [s.clone() for s in start]
    add_penalty_gradient(found, weights, l1, l2)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(penalty(weights, l1, l2).to(loss.dtype), loss.detach(), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize(("l1", "l2"), CASES)
def test_proximal_map_is_the_minimum(l1: float, l2: float) -> None:
    w = torch.linspace(-2, 2, 9, dtype=torch.float64)
    grid = torch.linspace(-3, 3, 600_001, dtype=torch.float64)
    best = [grid[(l2 * grid**2 + l1 * grid.abs() + (grid - x) ** 2 / 2).argmin()] for x in w]
    proximal_map(w, l1, l2)
    torch.testing.assert_close(w, torch.stack(best), rtol=0, atol=2e-5)
    if l1 > 0:
        assert w[4] == 0.0


def elastic(module: Net) -> Tensor:
    return 0.02 * sum((2.0 * w**2 + w.abs()).sum() for w in (module.net[0].weight, module.net[3].weight))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate_grad_batches": 3},
        {"gradient_clip_val": 0.05},
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    ],
    ids=["plain", "accumulated", "clipped", "clipped-by-value"],
)
def test_trains_as_the_penalised_loss(options: dict[str, Any]) -> None:
    wanted = train(Net(torch.optim.Adam, elastic, lr=0.01), [], **options)
    found = train(Net(torch.optim.Adam, lr=0.01), [ElasticNet(0.02, beta=2.0)], **options)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-8)
    without = train(Net(torch.optim.Adam, lr=0.01), [], **options)
    assert max((a - b).abs().max() for a, b in zip(without, wanted, strict=True)) > 1e-3


def test_right_with_a_gradient_scaler() -> None:
    def scaled() -> MixedPrecision:
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        return MixedPrecision("16-mixed", "cpu", scaler)

    wanted = train(Net(torch.optim.SGD, elastic, lr=0.05), [], plugins=[scaled()])
    found = train(Net(torch.optim.SGD, lr=0.05), [ElasticNet(0.02, beta=2.0)], plugins=[scaled()])
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-8)
    fused = Net(torch.optim.SGD, lr=0.05, fused=True)
    with pytest.raises(MisconfigurationException, match=r"^L1Penalty: a fused optimizer unscales"):
        train(fused, [L1Penalty()], plugins=[scaled()])


def test_l2_is_weight_decay_for_sgd_and_not_decoupled_decay_for_adam() -> None:
    everything = ["*"]
    for options in ({"lr": 0.05}, {"lr": 0.05, "momentum": 0.9, "nesterov": True}):
        wanted = train(Net(torch.optim.SGD, weight_decay=0.02, **options), [])
        found = train(Net(torch.optim.SGD, **options), [L2Penalty(0.01, names=everything)])
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-8)
    coupled = train(Net(torch.optim.Adam, lr=0.05, weight_decay=0.02), [])
    found = train(Net(torch.optim.Adam, lr=0.05), [L2Penalty(0.01, names=everything)])
    torch.testing.assert_close(found, coupled, rtol=1e-6, atol=1e-8)
    decoupled = train(Net(torch.optim.AdamW, lr=0.05, weight_decay=0.02), [])
    assert max((a - b).abs().max() for a, b in zip(found, decoupled, strict=True)) > 1e-2


def test_proximal_form_is_proximal_gradient_descent_with_exact_zeros() -> None:
    rate, lambd = 0.05, 0.5
    wanted = descend(
        Net(torch.optim.SGD, lr=rate), rate, lambda w: w.sign() * (w.abs() - rate * lambd).clamp_min(0)
    )
    diary = Diary()
    module = Net(torch.optim.SGD, lr=rate)
    found = train(module, [L1Penalty(lambd, proximal=True)], logger=diary, log_every_n_steps=24)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-8)
    zeros = sum((w == 0).sum().item() for w in (module.net[0].weight, module.net[3].weight)) / 48
    assert zeros > 0.1
    assert diary.values[23, "optreg/l1_penalty/zeros"] == pytest.approx(zeros)
    size = sum(w.abs().sum().item() for w in (module.net[0].weight, module.net[3].weight))
    assert diary.values[23, "optreg/l1_penalty/penalty"] == pytest.approx(lambd * size, rel=1e-6)
    plain = Net(torch.optim.SGD, lr=rate)
    train(plain, [L1Penalty(lambd)])
    assert not (plain.net[0].weight == 0).any()


def test_proximal_form_follows_a_change_of_optimizer_and_lets_go() -> None:
    module = Net(torch.optim.Adam, lr=0.05)
    train(module, [AdamToSGD(at_step=6, lr=0.05), L1Penalty(0.5, proximal=True)])
    assert (module.net[0].weight == 0).float().mean() > 0.1

    class Broken(Net):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if batch_idx == 2:
                raise RuntimeError("broken")

    broken = Broken(torch.optim.SGD, lr=0.1)
    made: list[torch.optim.Optimizer] = []
    broken.make = lambda *args, **kwargs: made.append(torch.optim.SGD(*args, **kwargs)) or made[0]
    with pytest.raises(RuntimeError, match="broken"):
        train(broken, [L1Penalty(0.5, proximal=True)])
    assert not made[0]._optimizer_step_post_hooks


def test_choice_of_parameters() -> None:
    start = dict(Net(torch.optim.SGD, lr=0.0).named_parameters())

    def touched(**choice: Any) -> set[str]:
        module = Net(torch.optim.SGD, lr=0.1)
        module.training_step = lambda batch, batch_idx: sum(  # type: ignore[method-assign]
            (p * 0).sum() for p in module.parameters()
        )
        train(module, [L2Penalty(0.5, **choice)], max_steps=1, max_epochs=-1)
        return {n for n, p in module.named_parameters() if not torch.equal(p, start[n])}

    assert touched() == {"net.0.weight", "net.3.weight"}
    assert touched(names=["net.0.*"]) == {"net.0.weight", "net.0.bias"}
    assert touched(types=["BatchNorm1d"], names=["*"]) == {"net.1.weight"}  # its bias is 0
    with pytest.raises(
        MisconfigurationException, match=r"^L2Penalty: names=.* choose none of the parameters"
    ):
        touched(names=["fc.*"])


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"names": ["nt.*"]}, r"names=\['nt.\*'\] choose none of the parameters .*; did you mean net"),
        ({"types": ["linear"]}, r"types=\['linear'\] choose none of the parameters .*; did you mean Linear"),
        (
            {"names": ["net.0.*"], "types": ["Conv2d"]},
            r"names=\['net.0.\*'\] and types=\['Conv2d'\] choose none",
        ),
    ],
)
@pytest.mark.parametrize("cls", [L1Penalty, L2Penalty, ElasticNet])
def test_a_choice_of_nothing_names_what_is_near(cls: Any, choice: Any, says: str) -> None:
    with pytest.raises(MisconfigurationException, match=rf"^{cls.__name__}: {says}") as refused:
        train(Net(torch.optim.SGD, lr=0.1), [cls(**choice)])
    assert len(str(refused.value)) < 300


def test_a_module_without_weights_to_choose_says_so() -> None:
    with pytest.raises(MisconfigurationException, match=r"^L1Penalty: all parameters are biases or of norm"):
        choose_parameters("L1Penalty", nn.Sequential(*(nn.BatchNorm1d(3) for _ in range(9))))
    with pytest.raises(MisconfigurationException, match=r"^L1Penalty: the module has no parameters"):
        choose_parameters("L1Penalty", nn.ReLU())


def test_refuses_what_compares_losses_and_sparse_gradients() -> None:
    for optimizer in (torch.optim.LBFGS, BFGS):
        with pytest.raises(MisconfigurationException, match=r"^L1Penalty: L?BFGS compares losses"):
            train(Net(optimizer), [L1Penalty()])

    class Words(Net):
        def __init__(self) -> None:
            super().__init__(torch.optim.SGD, lr=0.1)
            self.net = nn.Embedding(4, 2, sparse=True)  # type: ignore[assignment]

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.net(torch.tensor([1])).sum()

    with pytest.raises(MisconfigurationException, match=r"^L1Penalty: gradients must be dense"):
        train(Words(), [L1Penalty()])
    train(Words(), [L1Penalty(proximal=True)])
