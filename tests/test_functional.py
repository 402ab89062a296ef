"""The functions that `lightning_optreg.functional` gathers."""

import ast
import inspect
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_optreg import functional
from lightning_optreg.data.transforms.random_resized_crop import Boxes

META = torch.device("meta")


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=META)


labels = meta(4, dtype=torch.int64)
images = meta(4, 3, 8, 8)
rows = (meta(3, dtype=torch.int64), meta(3, dtype=torch.int64))

# On the meta device there are shapes and no numbers. The functions that are not here take numbers, or decide
# by what is in a tensor.
ON_META: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "add_relative_noise": (lambda f: f(images, images, 0.1, "image")[0], (4, 3, 8, 8)),
    "adjust_brightness": (lambda f: f(images, meta(4)), (4, 3, 8, 8)),
    "adjust_contrast": (lambda f: f(images, meta(4)), (4, 3, 8, 8)),
    "adjust_saturation": (lambda f: f(images, meta(4)), (4, 3, 8, 8)),
    "affine_matrices": (lambda f: f(Boxes(*(meta(4) for _ in range(7))), (8, 8)), (4, 2, 3)),
    "batch_norm": (lambda f: f(images, meta(3), meta(3), meta(3), meta(3), 1e-5), (4, 3, 8, 8)),
    "batch_statistics": (lambda f: f(images)[0], (3,)),
    "brier_score": (lambda f: f(meta(4, 3), torch.zeros(4, dtype=torch.int64, device=META)), (4,)),
    "distort": (lambda f: f(images, meta(4), meta(4)), (4, 3, 8, 8)),
    "gaussian_mean": (lambda f: f(nn.ReLU(), meta(4, 3), meta(4, 3), 10), (4, 3)),
    "gaussian_noise": (lambda f: f(images, 0.1), (4, 3, 8, 8)),
    "gaussian_relu": (lambda f: f(meta(4), meta(4)), (4,)),
    "local_response_norm": (lambda f: f(images, 5, 1e-4, 0.75, 2.0), (4, 3, 8, 8)),
    "masked_linear": (lambda f: f(meta(4, 5), meta(2, 5), meta(2), 0.5), (4, 2)),
    "masked_moments": (lambda f: f(meta(4, 5), meta(2, 5), meta(2), 0.5)[1], (4, 2)),
    "multiclass_hinge": (lambda f: f(meta(4, 3), labels), (4,)),
    "negative_margins": (lambda f: f(meta(4, 3), labels), (4,)),
    "orthogonalized": (lambda f: f(meta(2, 4, 3)), (2, 4, 3)),
    "patch_covariance": (lambda f: f(images, 2), (12, 12)),
    "penalty": (lambda f: f([meta(4, 3)], 0.1, 0.1), ()),
    "pool_windows": (lambda f: f(images, rows, rows, 3), (4, 3, 3, 3)),
    "random_branch": (lambda f: f(nn.Identity(), images, images, [], 1.0), (4, 3, 8, 8)),
    "normal_like": (lambda f: f(images), (4, 3, 8, 8)),
    "relative_std": (lambda f: f(images, "image"), (4, 1, 1, 1)),
    "smooth": (lambda f: f(meta(4, 3), 0.1), (4, 3)),
    "spread": (lambda f: f(meta(2, 4, 3))["mutual_information"], (4,)),
    "squared_error": (lambda f: f(meta(4, 3), labels), (4,)),
    "stochastic_depth": (lambda f: f(images, 0.5, "sample"), (4, 3, 8, 8)),
    "ten_crop": (lambda f: next(f(images, 5, 6)), (4, 3, 5, 6)),
    "unit_norms": (lambda f: f(meta(4, 3)), (4, 1)),
    "update_inverse": (lambda f: f(meta(3, 3), meta(3), meta(3)), (3, 3)),
    "vanilla_dropout": (lambda f: f(images, 0.5), (4, 3, 8, 8)),
    "warp": (lambda f: f(images, meta(4, 2, 3), (5, 6), "zeros"), (4, 3, 5, 6)),
    "whitening_filters": (lambda f: f(meta(4, 4), 1e-3), (8, 4)),
}


@pytest.mark.parametrize("name", functional.__all__)
def test_each_is_a_documented_function(name: str) -> None:
    function = getattr(functional, name)
    assert isinstance(function, types.FunctionType)
    assert function.__name__ == name
    assert not name.startswith("_")
    assert not any(part.startswith("_") for part in function.__module__.split("."))
    assert name in sys.modules[function.__module__].__all__
    documentation = inspect.getdoc(function) or ""
    assert "\nArgs:\n" in documentation
    assert "\nExample:\n" in documentation
    assert ">>>" in documentation
    for parameter in inspect.signature(function).parameters:
        assert f"\n    {parameter}: " in documentation


@pytest.mark.parametrize("name", ON_META)
def test_shapes_follow_without_numbers(name: str) -> None:
    call, shape = ON_META[name]
    result = call(getattr(functional, name))
    assert result.device == META
    assert result.shape == shape


@pytest.mark.parametrize("name", ["project", "proximal_map", "add_penalty_gradient"])
def test_in_place_functions_work_without_numbers(name: str) -> None:
    weight = meta(4, 3)
    function = getattr(functional, name)
    arguments = {"project": (weight, 1.0), "proximal_map": (weight, 0.1, 0.1)}
    assert function(*arguments.get(name, ([weight], [weight], 0.1, 0.1))) is None
    assert weight.shape == (4, 3)


def test_names_are_complete_and_said_alike() -> None:
    """The names to import, their homes, and what type checkers see."""
    assert functional.__all__ == sorted(functional.__all__)
    assert set(functional.__all__) == set(functional._HOME_OF)
    assert set(functional.__all__) <= set(dir(functional))
    tree = ast.parse(Path(functional.__file__).read_text())
    imported = {
        alias.name: node.module
        for block in ast.walk(tree)
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == {name: f"lightning_optreg.{home}" for name, home in functional._HOME_OF.items()}


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match=r"'lightning_optreg\.functional' has no attribute 'dropout'"):
        functional.dropout  # noqa: B018


def test_importing_it_imports_nothing_else() -> None:
    code = """
import sys
from lightning_optreg import functional
assert not {"torch", "lightning"} & set(sys.modules)
functional.squared_error
assert "torch" in sys.modules and "lightning" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
