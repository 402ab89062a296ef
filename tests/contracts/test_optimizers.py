"""Every optimizer keeps what its users take for granted, whatever its rule is."""

import copy
import inspect
import io
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from torch import Tensor
from torch.optim import Optimizer

from lightning_optreg import optimizers
from lightning_optreg.__main__ import main
from lightning_optreg.callbacks import ExactResume
from lightning_optreg.optimizers import UpdateRule
from tests.contracts.optimizers import FIRST_ORDER, RULES, SECOND_ORDER, WRONG, make
from tests.contracts.runs import checkpoint_every_step
from tests.resume_tools import Regression, StatefulLoader, assert_identical, final_state, spoil_random_state
from tests.small_runs import quiet_trainer

every_rule = pytest.mark.parametrize("name", RULES)
SHAPES = ((4, 3), (3,), (2, 3, 2), ())


def parameters(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in SHAPES
    ]


def loss_of(params: list[Tensor]) -> Tensor:
    """Smooth, not convex, with minima away from 0."""
    return sum(((p - 1).square() + torch.sin(3 * p.real)).abs().sum() for p in params)  # type: ignore[return-value]


def train(optimizer: Optimizer, params: list[Tensor], steps: int = 8, sign: float = 1.0) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        (sign * loss_of(params)).backward()
        optimizer.step()


def after(name: str, steps: int = 8, dtype: torch.dtype = torch.float64, **options: Any) -> list[Tensor]:
    params = parameters(dtype)
    train(make(name, params, **options), params, steps)
    return [p.detach() for p in params]


def takes(name: str, argument: str) -> bool:
    around = RULES[name].around
    return argument in inspect.signature(getattr(optimizers, around or name)).parameters


def test_every_public_optimizer_has_a_row() -> None:
    public = {name for name in optimizers.__all__ if _is_optimizer(getattr(optimizers, name))}
    assert public - {"UpdateRule"} == set(RULES) | set(SECOND_ORDER)


def _is_optimizer(part: Any) -> bool:
    return inspect.isclass(part) and issubclass(part, Optimizer)


@pytest.mark.parametrize("name", [*RULES, *SECOND_ORDER])
def test_documented(name: str) -> None:
    cls = getattr(optimizers, name)
    text = inspect.getdoc(cls) or ""
    assert "Example" in text
    assert "Raises" in text
    for parameter in inspect.signature(cls).parameters:
        assert f"    {parameter}: " in text, f"{name} does not say what {parameter} is"


@every_rule
def test_learns(name: str) -> None:
    start, end = loss_of(parameters()), loss_of(after(name, steps=30))
    assert end < start


@every_rule
def test_neutral(name: str) -> None:
    assert_identical([p.detach() for p in parameters()], after(name, **RULES[name].neutral))


@every_rule
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_both_paths_agree(name: str, dtype: torch.dtype) -> None:
    options = {"weight_decay": 0.1} if takes(name, "weight_decay") else {}
    steps = 3 if dtype is torch.bfloat16 else 8  # its roundings grow
    plain = after(name, steps, dtype, foreach=False, **options)
    lists = after(name, steps, dtype, foreach=True, **options)
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 0.1}[dtype]
    torch.testing.assert_close(plain, lists, rtol=tolerance, atol=tolerance)
    assert {p.dtype for p in lists} == {dtype}


@every_rule
def test_float32_follows_float64(name: str) -> None:
    single, double = after(name, dtype=torch.float32), after(name)
    torch.testing.assert_close([p.double() for p in single], double, rtol=2e-4, atol=2e-4)


@every_rule
def test_parameters_of_several_types_in_one_group(name: str) -> None:
    mixed = [p.detach().to(dtype).requires_grad_() for p, dtype in zip(parameters(), DTYPES, strict=True)]
    train(make(name, mixed), mixed)
    assert [p.dtype for p in mixed] == DTYPES
    assert all(p.isfinite().all() for p in mixed)


DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float32]


@every_rule
@pytest.mark.parametrize("foreach", [False, True])
def test_state_dict_round_trip(name: str, foreach: bool) -> None:
    params = parameters()
    optimizer = make(name, params, foreach=foreach)
    train(optimizer, params, 5)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    others = [p.detach().clone().requires_grad_() for p in params]
    other = make(name, others, foreach=foreach)
    other.load_state_dict(torch.load(file, weights_only=True))
    train(optimizer, params, 5)
    train(other, others, 5)
    assert_identical([p.detach() for p in params], [p.detach() for p in others])
    assert_identical(optimizer.state_dict(), other.state_dict())


@every_rule
def test_copies_are_independent(name: str) -> None:
    params = parameters()
    optimizer = make(name, params)
    train(optimizer, params, 3)
    twin, twins = copy.deepcopy((optimizer, params))
    train(optimizer, params, 3)
    train(twin, twins, 3)
    assert_identical([p.detach() for p in params], [p.detach() for p in twins])


@every_rule
@pytest.mark.parametrize("foreach", [False, True])
def test_maximize(name: str, foreach: bool) -> None:
    """The same steps as minimising the negative."""
    params = parameters()
    train(make(name, params, maximize=True, foreach=foreach), params)
    others = parameters()
    train(make(name, others, foreach=foreach), others, sign=-1.0)
    assert_identical([p.detach() for p in params], [p.detach() for p in others])


@every_rule
@pytest.mark.parametrize("foreach", [False, True])
def test_weight_decay_is_coupled(name: str, foreach: bool) -> None:
    if not takes(name, "weight_decay") or RULES[name].decoupled:
        return
    with_term = parameters()
    optimizer = make(name, with_term, foreach=foreach)
    for _ in range(8):
        optimizer.zero_grad()
        decay = sum(0.05 * p.square().sum() for p in with_term)
        (loss_of(with_term) + decay).backward()
        optimizer.step()
    decayed = after(name, weight_decay=0.1, foreach=foreach)
    torch.testing.assert_close([p.detach() for p in with_term], decayed, rtol=1e-12, atol=1e-12)


@every_rule
def test_groups_have_settings_of_their_own(name: str) -> None:
    params = parameters()
    optimizer = make(name, [{"params": params[:2]}, {"params": params[2:], "lr": 0.0}])
    train(optimizer, params)
    start = parameters()
    assert all(not torch.equal(a, b) for a, b in zip(params[:2], start[:2], strict=True))
    assert_identical([p.detach() for p in params[2:]], [p.detach() for p in start[2:]])


@every_rule
def test_closure(name: str) -> None:
    params, calls = parameters(), []
    optimizer = make(name, params)

    def closure() -> Tensor:
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = loss_of(params)
        loss.backward()
        return loss

    with torch.no_grad():
        first = optimizer.step(closure)
    assert calls == [True]
    assert torch.equal(first.detach(), loss_of(parameters()).detach())
    assert_identical(after(name, steps=1), [p.detach() for p in params])


@every_rule
def test_parameters_without_gradients_are_left_alone(name: str) -> None:
    params = parameters()
    unused = torch.ones(2, requires_grad=True)
    optimizer = make(name, [*params, unused])
    train(optimizer, params)
    assert_identical(after(name), [p.detach() for p in params])
    assert torch.equal(unused, torch.ones(2))
    make(name, [unused]).step()  # nothing at all to do


@every_rule
def test_sparse_gradients(name: str) -> None:
    """Of an embedding: as dense ones, or refused."""

    def run(sparse: bool) -> Tensor:
        torch.manual_seed(0)
        embedding = torch.nn.Embedding(6, 3, sparse=sparse, dtype=torch.float64)
        optimizer = make(name, embedding.parameters())
        for row in (1, 4, 1, 1):
            optimizer.zero_grad()
            embedding(torch.tensor([row, row, 0])).square().sum().backward()
            optimizer.step()
        return embedding.weight.detach()

    if RULES[name].sparse:
        torch.testing.assert_close(run(sparse=True), run(sparse=False), rtol=1e-13, atol=1e-13)
    else:
        owner = RULES[name].around or name
        with pytest.raises(RuntimeError, match=f"^{owner}: sparse gradients are not supported"):
            run(sparse=True)


@every_rule
@pytest.mark.parametrize("foreach", [False, True])
def test_complex_parameters_are_pairs_of_real_ones(name: str, foreach: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4, generator=generator, dtype=torch.complex128).requires_grad_()
    xy = torch.view_as_real(z.detach().clone()).requires_grad_()

    def run(param: Tensor, value: Any) -> None:
        optimizer = make(name, [param], foreach=foreach)
        for _ in range(6):
            optimizer.zero_grad()
            w = value(param)
            ((w - (1 + 2j)).abs().square().sum() + torch.sin(w.real).sum()).backward()
            optimizer.step()

    run(z, lambda param: param)
    run(xy, torch.view_as_complex)
    torch.testing.assert_close(torch.view_as_real(z.detach()), xy.detach(), rtol=1e-13, atol=1e-13)


@every_rule
@pytest.mark.parametrize("foreach", [False, True])
def test_device_blind(name: str, foreach: bool) -> None:
    """On the meta device any tensor made elsewhere would show."""
    if RULES[name].reads_values:
        return
    params = [torch.zeros(3, 2, device="meta", requires_grad=True)]
    optimizer = make(name, params, foreach=foreach)
    for _ in range(3):
        params[0].grad = torch.zeros(3, 2, device="meta")
        optimizer.step()
    assert all(not isinstance(v, Tensor) or v.is_meta for v in optimizer.state[params[0]].values())


@every_rule
def test_gradients_stay_as_they_are(name: str) -> None:
    params = parameters()
    optimizer = make(name, params)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(params).backward()
        before = [p.grad.clone() for p in params if p.grad is not None]
        optimizer.step()
        assert_identical(before, [p.grad for p in params])


WRONG_ARGUMENTS = [
    (name, arguments, text) for name, rule in FIRST_ORDER.items() for arguments, text in (*WRONG, *rule.wrong)
]


@pytest.mark.parametrize(("name", "arguments", "text"), WRONG_ARGUMENTS)
def test_wrong_values_are_refused_at_construction(name: str, arguments: dict[str, Any], text: str) -> None:
    if not takes(name, next(iter(arguments))):
        return
    with pytest.raises((TypeError, ValueError), match=f"^{name}: {text} must be") as error:
        make(name, parameters(), **arguments)
    assert "\n" not in str(error.value)
    with pytest.raises((TypeError, ValueError), match=f"^{name}: {text} must be"):
        make(name, [{"params": parameters(), **arguments}])


def take_step(name: str, optimizer: Optimizer, params: list[Tensor]) -> None:
    """Make a step with a closure that goes backward where the rule does not do so itself."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(params)
        if name != "Newton":
            loss.backward()
        return loss

    optimizer.step(closure)


@pytest.mark.parametrize("name", [*RULES, *SECOND_ORDER])
def test_a_state_that_lacks_settings_gets_those_of_the_optimizer(name: str) -> None:
    """Such as one that was saved before the class had them."""
    params = parameters()
    build = getattr(optimizers, name) if name in SECOND_ORDER else partial(make, name)
    optimizer = build(params, maximize=True)
    state = optimizer.state_dict()
    settings = set(optimizer.defaults) - {"lr"}
    for setting in settings:
        state["param_groups"][0].pop(setting)
    other = build(params, maximize=True)
    other.load_state_dict(state)
    assert all(other.param_groups[0][setting] == other.defaults[setting] for setting in settings)
    before = loss_of(params).detach()
    take_step(name, other, params)
    assert loss_of(params) > before


# ---- learning rates that are tensors --------------------------------------------------------------------


def with_schedule(
    name: str, lr: Any, steps: int = 6, **options: Any
) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """Train while torch's schedule changes the rate of two groups; a second-order rule takes only one."""
    params = parameters()
    groups = [{"params": params[:2]}, {"params": params[2:]}]
    if name in SECOND_ORDER:
        optimizer = getattr(optimizers, name)(params, lr=lr)
    else:
        optimizer = make(name, groups, **{**options, "lr": lr})
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.5, total_iters=4)
    for _ in range(steps):
        take_step(name, optimizer, params)
        schedule.step()
    return [p.detach() for p in params], optimizer.param_groups


@pytest.mark.parametrize("name", [*RULES, *SECOND_ORDER])
@pytest.mark.parametrize("shape", [(), (1,)], ids=str)
@pytest.mark.parametrize("foreach", [False, True])
def test_a_tensor_with_one_element_is_a_learning_rate(
    name: str, shape: tuple[int, ...], foreach: bool
) -> None:
    """It does what the number does, and what the caller gave is not written into."""
    lr = torch.full(shape, 0.01, dtype=torch.float64)
    ours, groups = with_schedule(name, lr, foreach=foreach)
    numbers, plain = with_schedule(name, 0.01, foreach=foreach)
    assert_identical(ours, numbers)
    assert torch.equal(lr, torch.full(shape, 0.01, dtype=torch.float64))
    rates = [group["lr"] for group in groups]
    assert all(isinstance(rate, Tensor) and rate.shape == shape for rate in rates)
    assert [float(rate) for rate in rates] == [group["lr"] for group in plain]
    assert len({rate.data_ptr() for rate in rates}) == len(rates)  # none writes into another's


@pytest.mark.parametrize("name", [*FIRST_ORDER, *SECOND_ORDER])
@pytest.mark.parametrize("numbers", [0, 2])
def test_a_tensor_with_more_elements_is_no_learning_rate(name: str, numbers: int) -> None:
    build = getattr(optimizers, name)
    message = f"^{name}: Tensor lr must be 1-element, got {numbers}$"
    with pytest.raises(ValueError, match=message):
        build(parameters(), lr=torch.full((numbers,), 0.1))
    with pytest.raises(ValueError, match=message):
        build([{"params": parameters(), "lr": torch.full((numbers,), 0.1)}])


@every_rule
@pytest.mark.parametrize("foreach", [False, True])
def test_a_rate_on_a_device_is_not_read_back(
    name: str, foreach: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The meta device has no numbers to read; what is computed with a tensor is the same."""
    if not RULES[name].reads_values:
        params = [torch.zeros(3, 2, device="meta", requires_grad=True)]
        optimizer = make(name, params, foreach=foreach)
        optimizer.param_groups[0]["lr"] = torch.zeros(1, device="meta")
        for _ in range(2):
            params[0].grad = torch.zeros(3, 2, device="meta")
            optimizer.step()
    numbers, _ = with_schedule(name, 0.01, foreach=foreach)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # what else keeps it a tensor
    ours, _ = with_schedule(name, torch.tensor([0.01], dtype=torch.float64), foreach=foreach)
    torch.testing.assert_close(ours, numbers, rtol=1e-13, atol=1e-13)


@every_rule
def test_gradients_flow_to_the_rate(name: str) -> None:
    if not takes(name, "differentiable"):
        return

    def three_steps(lr: Tensor) -> Tensor:
        theta = torch.tensor([0.7, -1.2], dtype=torch.float64, requires_grad=True).clone()
        optimizer = make(name, [theta], lr=lr, differentiable=True)
        for _ in range(3):
            theta.grad = theta - 3.0
            optimizer.step()
        return theta

    lr = torch.tensor(0.02, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(three_steps, (lr,))


@every_rule
def test_other_settings_may_be_tensors_with_one_element(name: str) -> None:
    """As torch's optimizers take them; a step computes with numbers."""
    given = {key: value for key, value in RULES[name].arguments.items() if isinstance(value, float)}
    given["weight_decay"] = 0.1
    if takes(name, "betas"):
        given["betas"] = (0.8, 0.9)
    tensors = {
        key: tuple(map(torch.tensor, value)) if isinstance(value, tuple) else torch.tensor(value)
        for key, value in given.items()
    }
    torch.testing.assert_close(after(name, **given), after(name, **tensors), rtol=1e-5, atol=1e-6)
    owner = RULES[name].around or name
    with pytest.raises(ValueError, match=f"^{owner}: Tensor weight_decay must be 1-element, got 2$"):
        make(name, parameters(), weight_decay=torch.zeros(2))


class With(Regression):
    """The regression of the resume tests with an optimizer of ours."""

    def __init__(self, name: str) -> None:
        super().__init__("cosine_step")
        self.name = name

    def configure_optimizers(self) -> Any:
        optimizer = make(self.name, self.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 18)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def fit(name: str, ckpt_path: Path | None = None, saver: Any = None, **options: Any) -> dict[str, Any]:
    module = With(name)
    trainer = quiet_trainer(
        max_epochs=2,
        callbacks=[ExactResume(), *([saver] if saver else [])],
        enable_checkpointing=saver is not None,
        **options,
    )
    trainer.fit(module, StatefulLoader(), StatefulLoader(2), ckpt_path=ckpt_path)
    return final_state(trainer, module)


@every_rule
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"accumulate_grad_batches": 2},
        pytest.param({"gradient_clip_val": 0.1}, marks=pytest.mark.slow),
        pytest.param({"precision": "bf16-mixed"}, marks=pytest.mark.slow),
    ],
    ids=lambda options: next(iter(options), "plain"),
)
def test_resumes_in_lightning(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    seed_everything(1, verbose=False)
    straight = fit(name, saver=checkpoint_every_step(tmp_path), **options)
    for step in (2, 3, 4, 6):
        path = tmp_path / f"step={step}.ckpt"
        if path.exists():  # fewer steps with accumulation
            spoil_random_state()
            assert_identical(straight, fit(name, path, **options))
    assert path.exists() or options == {"accumulate_grad_batches": 2}


@pytest.mark.parametrize("name", [*RULES, *SECOND_ORDER])
def test_named_in_a_configuration_by_its_short_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--optimizer", name, "--print_config"]) == 0
    assert f"class_path: lightning_optreg.optimizers.{name}" in capsys.readouterr().out


def test_differentiable_and_foreach_exclude_each_other() -> None:
    class Descent(UpdateRule):
        def update_tensor(self, group: Any, parameter: Tensor, gradient: Tensor, state: Any) -> None:
            parameter.add_(gradient, alpha=-1.0)

        def update_tensors(self, group: Any, parameters: Any, gradients: Any, states: Any) -> None:
            torch._foreach_add_(parameters, gradients, alpha=-1.0)

    with pytest.raises(ValueError, match=r"^Descent: foreach must be None or False with differentiable"):
        Descent(parameters(), {}, foreach=True, differentiable=True)
    start = torch.tensor(3.0, requires_grad=True)
    theta = start.clone()
    theta.grad = start.square()
    Descent([theta], {}, differentiable=True).step()
    (slope,) = torch.autograd.grad(theta, start)
    assert float(slope) == 1 - 2 * 3.0
