"""Directions, grids and sharpness against closed forms; the command on a checkpoint that was just trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_optreg.__main__ import main
from lightning_optreg.analysis.directions import along, principal_directions, random_direction
from lightning_optreg.analysis.loss_grid import evaluate, loss_grid
from lightning_optreg.analysis.sharpness import keskar_sharpness, largest_eigenvalue
from lightning_optreg.commands.plot import landscape
from lightning_optreg.commands.plot.options import save


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()


def weights_of(net: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in net.named_parameters()}


def data() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(24, 4, generator=generator, dtype=torch.float64)
    return [(x[:16], torch.arange(16) % 3), (x[16:], torch.arange(8) % 3)]


def test_filters_of_a_direction_have_the_norms_of_the_networks() -> None:
    weights = {"conv": torch.randn(5, 3, 2, 2), "linear": torch.randn(4, 7), "bias": torch.randn(5)}
    direction = random_direction(weights, torch.Generator().manual_seed(0))
    for name in ("conv", "linear"):
        torch.testing.assert_close(
            direction[name].flatten(1).norm(dim=1), weights[name].flatten(1).norm(dim=1)
        )
    assert not direction["bias"].any()
    layer = random_direction(weights, torch.Generator().manual_seed(0), "layer")
    torch.testing.assert_close(layer["conv"].norm(), weights["conv"].norm())
    plain = random_direction(weights, torch.Generator().manual_seed(0), "none")
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(plain["conv"], torch.randn(5, 3, 2, 2, generator=generator))


def rescaled(weights: dict[str, Tensor], factor: float) -> dict[str, Tensor]:
    """The same function of a ReLU network: one layer up, the next one down."""
    return {
        "0.weight": weights["0.weight"] * factor,
        "0.bias": weights["0.bias"] * factor,
        "2.weight": weights["2.weight"] / factor,
        "2.bias": weights["2.bias"],
    }


def test_dinh_rescaling_changes_sharpness_and_not_the_normalised_landscape() -> None:
    net, loss, batches = network(), nn.CrossEntropyLoss(), data()
    weights = weights_of(net)
    other = rescaled(weights, 8.0)
    x, y = batches[0]

    def value(at: dict[str, Tensor]) -> Tensor:
        return loss(functional_call(net, at, (x,)), y)

    torch.testing.assert_close(value(weights), value(other))  # the same function
    assert largest_eigenvalue(value, other) > 5 * largest_eigenvalue(value, weights)
    assert keskar_sharpness(value, other) != pytest.approx(keskar_sharpness(value, weights), rel=0.2)
    axis = torch.linspace(-1, 1, 5, dtype=torch.float64)
    grids = []
    for at in (weights, other):
        direction = random_direction(at, torch.Generator().manual_seed(0))
        grids.append(loss_grid(net, loss, batches, at, [direction], [axis])[0])
    torch.testing.assert_close(grids[0], grids[1])
    plain = [
        loss_grid(
            net, loss, batches, at, [random_direction(at, torch.Generator().manual_seed(0), "none")], [axis]
        )[0]
        for at in (weights, other)
    ]
    assert not torch.allclose(plain[0], plain[1])


def test_grid_of_a_linear_model_is_its_quadratic() -> None:
    torch.manual_seed(0)
    net, loss = nn.Linear(3, 2, bias=False).double(), nn.MSELoss()
    x, target = torch.randn(10, 3).double(), torch.randn(10, 2).double()
    weights = weights_of(net)
    d = [{"weight": torch.randn(2, 3).double()} for _ in range(2)]
    axes = [torch.linspace(-1, 1, 4).double(), torch.linspace(-2, 2, 5).double()]

    class Squares(nn.Module):
        def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
            return loss(scores, target)

    calls: list[tuple[int, int]] = []
    labels = torch.zeros(10, dtype=torch.int64)
    grid, _ = loss_grid(net, Squares(), [(x, labels)], weights, d, axes, lambda *c: calls.append(c))
    for i, a in enumerate(axes[0]):
        for j, b in enumerate(axes[1]):
            w = weights["weight"] + a * d[0]["weight"] + b * d[1]["weight"]
            assert grid[i, j].item() == pytest.approx(((x @ w.T - target) ** 2).mean().item())
    assert calls[-1] == (20, 20)
    assert torch.equal(net.weight.detach(), weights["weight"])


def test_evaluation_weighs_images_alike_and_leaves_the_mode() -> None:
    net, batches = network(), data()
    net.train()
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    scores = net(x)
    mean, accuracy = evaluate(net, nn.CrossEntropyLoss(), batches, weights_of(net))
    assert mean == pytest.approx(nn.functional.cross_entropy(scores, y).item())
    assert accuracy == pytest.approx((scores.argmax(1) == y).double().mean().item())
    assert net.training


def test_principal_directions_find_a_plane() -> None:
    torch.manual_seed(0)
    end = {"a": torch.randn(3, 4).double(), "b": torch.randn(5).double()}
    u, v = torch.linalg.qr(torch.randn(17, 2).double())[0].T
    angles = torch.linspace(0.2, 3.0, 9).double()
    places = torch.stack((5 * torch.cos(angles), 2 * torch.sin(angles)), 1)
    path = []
    for p, q in places.tolist():
        shift = p * u + q * v
        path.append({"a": end["a"] + shift[:12].view(3, 4), "b": end["b"] + shift[12:]})
    path.append(end)
    directions, coordinates, explained = principal_directions(path)
    assert explained.sum().item() == pytest.approx(1.0)
    for place, where in zip(path, coordinates.tolist(), strict=True):
        back = along(end, directions, where)
        assert all(torch.allclose(back[name], place[name]) for name in end)
    assert coordinates[-1].abs().max() < 1e-12
    flat = [torch.cat((d["a"].flatten(), d["b"])) for d in directions]
    torch.testing.assert_close(
        torch.stack([torch.dot(p, q) for p in flat for q in flat]), torch.eye(2).double().flatten()
    )
    with pytest.raises(ValueError, match="path must have at least 3 places, got 2"):
        principal_directions(path[:2])
    with pytest.raises(ValueError, match="path must move"):
        principal_directions([end, end, end])


def test_largest_eigenvalue_is_that_of_the_exact_hessian() -> None:
    net, (x, y) = network(), data()[0]
    weights = weights_of(net)
    sizes = [w.numel() for w in weights.values()]

    def value(at: dict[str, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(functional_call(net, at, (x,)), y)

    def flat_loss(vector: Tensor) -> Tensor:
        parts = vector.split(sizes)
        return value(
            {name: part.view(w.shape) for (name, w), part in zip(weights.items(), parts, strict=True)}
        )

    vector = torch.cat([w.flatten() for w in weights.values()])
    eigenvalues = torch.linalg.eigvalsh(torch.autograd.functional.hessian(flat_loss, vector))
    wanted = eigenvalues[eigenvalues.abs().argmax()].item()
    found = largest_eigenvalue(value, weights, iterations=2000, tolerance=1e-12)
    assert found == pytest.approx(wanted, rel=1e-4)


def test_sharpness_of_a_bowl() -> None:
    """f = c |w|^2 at 0: the box's corner is at epsilon in each of n coordinates."""
    c, n, epsilon = 3.0, 5, 0.01
    rise = keskar_sharpness(
        lambda w: c * (w["w"] + 1e-9).square().sum(), {"w": torch.zeros(n).double()}, epsilon=epsilon
    )
    assert rise == pytest.approx(100 * c * n * epsilon**2, rel=1e-4)


@pytest.fixture(scope="module")
def trained(fashion_mnist_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("landscape")
    command = ["fit", "--data=FashionMNISTDataModule", f"--data.data_dir={fashion_mnist_dir}"]
    command += [
        "--data.verify_checksum=false",
        "--model.net=MLP",
        "--model.net.hidden=[8]",
        "--trainer.max_epochs=2",
    ]
    command += ["--config=configs/methods/trajectory.yaml", "--trainer.callbacks.every_n_train_steps=2"]
    command += [f"--trainer.default_root_dir={root}", "--trainer.accelerator=cpu", "--optimizer.lr=0.01"]
    assert main(command) == 0
    return root


def plot(root: Path, *options: str) -> int:
    small = ["--default_root_dir", str(root), "--points", "5", "--images", "64", "--dpi", "50"]
    return main(["plot", "landscape", *small, *options])


def test_pictures(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    titles = {}

    def note(figure: Any, path: Path, *, dpi: int) -> None:
        titles[path.name] = figure.get_suptitle()
        save(figure, path, dpi=dpi)

    monkeypatch.setattr(landscape, "save", note)
    trajectory = trained / "version_0" / "checkpoints" / "trajectory"
    assert len(list(trajectory.glob("*.ckpt"))) >= 4
    kinds = {
        "random.png": ["--ckpt_path", "last"],
        "space.svg": ["--ckpt_path", "best", "--view", "3d"],
        "path.png": ["--ckpt_path", "last", "--trajectory", str(trajectory)],
        "line.png": ["--ckpt_path", "last", "--dimensions", "1", "--normalize", "layer"],
        "between.png": ["--ckpt_path", str(trajectory / "000002.ckpt"), "last"],
    }
    for name, options in kinds.items():
        assert plot(trained, *options, "--output", str(tmp_path / name)) == 0
        assert (tmp_path / name).stat().st_size > 3000
    out = capsys.readouterr().out
    assert out.count("largest eigenvalue of the Hessian") == 5
    assert out.count("Dinh et al. 2017") == 5
    assert titles["random.png"] == titles["path.png"] == "MLP, version_0/last.ckpt, on 64 training images"
    assert titles["space.svg"] == "MLP, version_0/best.ckpt, on 64 training images"
    both = "on 64 training and 60 validation images"
    assert titles["line.png"] == f"MLP, version_0/last.ckpt, {both}"
    assert titles["between.png"] == f"MLP, 000002.ckpt to version_0/last.ckpt, {both}"


WRONG = [
    ([], "--ckpt_path is missing"),
    (["--ckpt_path", "last"], "--output is missing"),
    (["--ckpt_path", "last", "--output", "a.gif"], "--output must end in .png, .svg, .pdf, got a.gif"),
    (["--ckpt_path", "none.ckpt", "--output", "a.png"], "ckpt_path: there is no file 'none.ckpt'"),
    (["--ckpt_path", "last", "--output", "a.png", "--radius", "0"], "--radius must be > 0, got 0.0"),
    (["--ckpt_path", "last", "--output", "a.png", "--points", "2"], "--points must be >= 3, got 2"),
    (["--ckpt_path", "last", "--output", "a.png", "--trajectory", "x"], "--trajectory must be a folder"),
    (
        ["--ckpt_path", "last", "--output", "a.png", "--trajectory", "configs"],
        "--trajectory configs: it must hold at least 2",
    ),
    (["--ckpt_path", "last", "--output", "a.png", "--view", "4d"], "--view: invalid choice: '4d'"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_mistakes(
    options: list[str], message: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--default_root_dir", str(trained), *options]
    assert main(["plot", "landscape", *small]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
