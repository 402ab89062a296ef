import matplotlib
import pytest
import torch

from lightning_optreg.analysis import EulerErrors, Stability, TransportSolutions
from lightning_optreg.figures import draw_euler, draw_stability, draw_transport

X, Y = torch.linspace(-1, 1, 4), torch.linspace(0, 2, 3)


def solutions(*, scale: float = 1.0) -> list[TransportSolutions]:
    u = torch.arange(12.0).view(4, 3) / 11
    return [TransportSolutions(s, X, Y, scale * u, 0 * u, scale * u.flip(0)) for s in (0.0, 0.1)]


def test_a_column_for_each_sigma_and_a_row_for_each_method() -> None:
    data = (torch.tensor([[0.0, 1.0], [0.5, 0.5], [0.2, 0.3]]), torch.tensor([0, 1, 1]))
    figure = draw_transport(solutions(), data=data, title="said", caption="5$")
    above, above_2, below, _, bar = figure.axes
    assert [above.get_title(), above_2.get_title()] == [r"$\sigma = 0$", r"$\sigma = 0.1$"]
    assert [axes.get_ylabel().split("\n")[0] for axes in (above, below)] == [
        "Monte Carlo",
        "finite differences",
    ]
    first = solutions()[0]
    for axes, u in ((above, first.monte_carlo), (below, first.finite_differences)):
        mesh = next(c for c in axes.collections if isinstance(c, matplotlib.collections.QuadMesh))
        assert mesh.get_array().tolist() == u.T.tolist()  # type: ignore[union-attr]
        assert mesh.get_clim() == (0.0, 1.0)
        assert mesh.get_coordinates()[0, :, 0].tolist() == pytest.approx(X.tolist())
    circles, triangles = above.get_lines()
    assert circles.get_xydata().tolist() == [[0.0, 1.0]]  # type: ignore[union-attr]
    assert len(triangles.get_xydata()) == 2
    assert not above_2.get_lines()
    assert bar.get_ylabel() == "$u(x, 0)$"


def test_values_that_are_no_probabilities_widen_the_scale() -> None:
    assert {axes.collections[0].get_clim() for axes in draw_transport(solutions(scale=3.0)).axes[:4]} == {
        (0.0, 3.0)
    }
    with pytest.raises(ValueError, match=r"^draw_transport: there is nothing to draw"):
        draw_transport([])


def test_marks_that_were_not_fitted_are_hollow() -> None:
    sigmas, distances = torch.tensor([0.1, 0.4]), torch.tensor([0.05, 0.2])
    differences = torch.tensor([[0.2, 0.8], [0.05, 0.2]])
    found = Stability(sigmas, distances, differences, 1.0, 0.4, 0.99, 1.0, 0.5)
    (axes,) = draw_stability(found, title="said", caption="5$").axes
    full, hollow, full_2, hollow_2, fit, bound = axes.get_lines()
    assert full.get_xydata().tolist() == [[pytest.approx(0.5), pytest.approx(0.2)]]  # type: ignore[union-attr]
    assert hollow.get_xydata().tolist() == [[pytest.approx(2.0), pytest.approx(0.8)]]  # type: ignore[union-attr]
    assert hollow.get_markerfacecolor() == "white" != full.get_markerfacecolor()
    assert (len(full_2.get_xydata()), len(hollow_2.get_xydata())) == (2, 0)
    assert float(fit.get_xdata()[-1]) == pytest.approx(1.0)  # type: ignore[index, arg-type]
    assert float(fit.get_ydata()[-1]) == pytest.approx(0.4)  # type: ignore[index, arg-type]
    assert float(bound.get_xdata()[-1]) == pytest.approx(2.0)  # type: ignore[index, arg-type]
    assert float(bound.get_ydata()[-1]) == pytest.approx(1.0)  # type: ignore[index, arg-type]
    assert [str(line.get_label()) for line in (fit, bound)] == [
        r"fit: 0.4 $(|\delta|/\sigma)^{1.00}$, $R^2$ = 0.990",
        "bound: the same with C = 0.5",
    ]


def test_errors_are_drawn_beside_the_slope_of_order_one() -> None:
    errors = EulerErrors([2, 4, 8, 16], [0.4, 0.2, 0.1, 0.05])
    (axes,) = draw_euler(errors, title="said", caption="5$").axes
    measured, slope = axes.get_lines()
    assert measured.get_xydata().tolist() == [[2.0, 0.4], [4.0, 0.2], [8.0, 0.1], [16.0, 0.05]]  # type: ignore[union-attr]
    ratios = slope.get_ydata() / measured.get_ydata()  # type: ignore[operator]
    assert ratios.tolist() == pytest.approx([1.6] * 4)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["2", "4", "8", "16"]
