"""The losses against the lecture's example, their formulas, torch's losses and finite differences."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_optreg.losses import MulticlassHingeLoss, SquaredLoss, multiclass_hinge, squared_error

LOSSES = [
    MulticlassHingeLoss(),
    MulticlassHingeLoss(delta=0.5, power=2),
    MulticlassHingeLoss(delta=0.0),
    SquaredLoss(),
]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=repr)


@pytest.fixture
def scores() -> Tensor:
    return torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([0, 1, 2, 3, 4, 0, 3])


def test_hinge_loss_of_the_lectures_example() -> None:
    scores = torch.tensor([[3.2, 5.1, -1.7], [1.3, 4.9, 2.0], [2.2, 2.5, -3.1]])  # rows: cat, car, frog
    labels = torch.tensor([0, 1, 2])
    losses = MulticlassHingeLoss(reduction="none")(scores, labels)
    torch.testing.assert_close(losses, torch.tensor([2.9, 0.0, 12.9]))
    assert round(MulticlassHingeLoss()(scores, labels).item(), 2) == 5.27
    squared = MulticlassHingeLoss(power=2, reduction="none")(scores, labels)
    torch.testing.assert_close(squared, torch.tensor([2.9**2, 0.0, 6.3**2 + 6.6**2]))


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("delta", [0.0, 0.3, 1.0, 10.0])
def test_hinge_loss_against_a_loop(scores: Tensor, labels: Tensor, delta: float, power: int) -> None:
    losses = multiclass_hinge(scores, labels, delta, power)
    for row, label, loss in zip(scores.tolist(), labels.tolist(), losses.tolist(), strict=True):
        terms = [max(0.0, s - row[label] + delta) ** power for j, s in enumerate(row) if j != label]
        assert math.isclose(loss, sum(terms), rel_tol=1e-12, abs_tol=1e-15)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("delta", [0.0, 1.0, 2.5])
def test_hinge_loss_is_torchs_times_the_number_of_classes(
    scores: Tensor, labels: Tensor, delta: float, power: int, reduction: str
) -> None:
    scores[0, 0] = scores[0, 1] + delta  # a kink: both take the slope 0 there
    one, two = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    ours = MulticlassHingeLoss(delta, power, reduction)(one, labels)
    theirs = 5 * nn.MultiMarginLoss(p=power, margin=delta, reduction=reduction)(two, labels)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    ours.sum().backward()
    theirs.sum().backward()
    torch.testing.assert_close(one.grad, two.grad, rtol=1e-12, atol=1e-14)


def test_a_class_that_leads_by_delta_costs_nothing() -> None:
    scores = torch.tensor([[2.0, 1.0, -3.0]], requires_grad=True)
    loss = MulticlassHingeLoss()(scores, torch.tensor([0]))
    loss.backward()
    assert loss.item() == 0.0
    assert not scores.grad.any()


def test_first_hinge_loss_is_the_number_of_wrong_classes() -> None:
    # The lecture's check: small weights give equal scores, and every wrong class costs delta.
    assert MulticlassHingeLoss()(torch.zeros(4, 10), torch.tensor([0, 3, 9, 9])).item() == 9.0


def test_squared_loss_against_its_formula(scores: Tensor, labels: Tensor) -> None:
    expected = ((scores - torch.eye(5, dtype=torch.float64)[labels]) ** 2).sum(1)
    torch.testing.assert_close(squared_error(scores, labels), expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(SquaredLoss(reduction="none")(scores, labels), expected)
    torch.testing.assert_close(SquaredLoss(reduction="sum")(scores, labels), expected.sum())
    torch.testing.assert_close(SquaredLoss()(scores, labels), expected.mean())
    assert SquaredLoss()(torch.eye(5)[labels], labels).item() == 0.0


def test_least_squares_has_the_normal_equations_solution() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 4, dtype=torch.float64)
    labels = torch.randint(0, 3, (50,))
    w = torch.linalg.lstsq(x, F.one_hot(labels, 3).double()).solution.requires_grad_()
    SquaredLoss()(x @ w, labels).backward()
    assert w.grad.abs().max() < 1e-13


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # torch's forward mode
@every_loss
def test_derivatives_against_finite_differences(loss: nn.Module, scores: Tensor, labels: Tensor) -> None:
    scores.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, labels), (scores,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda s: loss(s, labels), (scores,))


@every_loss
def test_gradients_per_example_by_vmap(loss: nn.Module, scores: Tensor, labels: Tensor) -> None:
    def one(s: Tensor, y: Tensor) -> Tensor:
        return loss(s.unsqueeze(0), y.unsqueeze(0))

    each = torch.func.vmap(torch.func.grad(one))(scores, labels)
    scores.requires_grad_()
    loss(scores, labels).backward()
    torch.testing.assert_close(each / len(labels), scores.grad)


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_scores_are_summed_in_float32(
    loss: nn.Module, labels: Tensor, scores: Tensor, dtype: torch.dtype
) -> None:
    half = scores.to(dtype)
    result = loss(half, labels)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, loss(half.float(), labels), rtol=0, atol=0)
    assert loss(scores, labels).dtype == torch.float64


@every_loss
def test_autocast(loss: nn.Module, labels: Tensor) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(3, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = linear(torch.randn(7, 3))
        result = loss(scores, labels)
    assert (scores.dtype, result.dtype) == (torch.bfloat16, torch.float32)
    result.backward()
    assert linear.weight.grad.isfinite().all()


@every_loss
def test_labels_out_of_range_are_refused(loss: nn.Module) -> None:
    for label in (-1, 3):
        with pytest.raises(RuntimeError):
            loss(torch.zeros(1, 3), torch.tensor([label]))


def test_losses_say_their_settings() -> None:
    assert repr(MulticlassHingeLoss(power=2)) == "MulticlassHingeLoss(delta=1.0, power=2, reduction='mean')"
    assert repr(SquaredLoss()) == "SquaredLoss(reduction='mean')"


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (MulticlassHingeLoss, {"delta": -1.0}, r"delta must be in \[0, inf\), got -1.0$"),
        (MulticlassHingeLoss, {"delta": float("nan")}, r"delta must be in \[0, inf\), got nan$"),
        (MulticlassHingeLoss, {"delta": float("inf")}, r"delta must be in \[0, inf\), got inf$"),
        (MulticlassHingeLoss, {"power": 3}, "power must be 1 or 2, got 3$"),
        (MulticlassHingeLoss, {"reduction": "max"}, "reduction must be 'mean', 'sum' or 'none', got 'max'$"),
        (SquaredLoss, {"reduction": "max"}, "reduction must be 'mean', 'sum' or 'none', got 'max'$"),
    ],
)
def test_wrong_settings(make: type[nn.Module], settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{make.__name__}: {message}"):
        make(**settings)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_torchs_label_smoothing_is_the_formula(scores: Tensor, labels: Tensor, smoothing: float) -> None:
    # Targets (1 - eps) [j = y] + eps / K: the mass eps is spread over all K classes, the true one included.
    loss = nn.CrossEntropyLoss(label_smoothing=smoothing)(scores, labels)
    targets = (1 - smoothing) * F.one_hot(labels, 5) + smoothing / 5
    log_p = scores - scores.exp().sum(1, keepdim=True).log()
    torch.testing.assert_close(loss, -(targets * log_p).sum(1).mean())
