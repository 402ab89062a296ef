"""What an exported network takes: normalised images or pixels, and no random numbers."""

import json
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # torch takes a second, and `export --help` needs none of it
    from torch import Tensor, nn

__all__ = ["drawing_layer", "in_words", "metadata", "pixels_first"]


def pixels_first(net: "nn.Module", channels: int, preprocessing: Mapping[str, Any] | None) -> "nn.Module":
    """Put normalisation before a network: (x / 255 - mean) / std as one product and one sum."""
    import torch
    from torch import nn

    if preprocessing is None:
        raise ValueError("export_onnx: from_pixels needs preprocessing, which says how images are normalised")
    changes = [name for name in preprocessing["evaluation"] if name.startswith("PerImageStandardization")]
    if preprocessing["normalize"] == "mean_image" or changes:
        raise ValueError(
            "export_onnx: from_pixels does not work with "
            f"{changes[0] if changes else 'a mean image'}; export without it and normalise outside"
        )
    mean = torch.tensor(preprocessing.get("mean", [0.0] * channels)).view(-1, 1, 1)
    std = torch.tensor(preprocessing.get("std", [1.0] * channels)).view(-1, 1, 1)

    class FromPixels(nn.Module):
        scale: torch.Tensor
        offset: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.net = net
            self.register_buffer("scale", 1 / (255 * std))
            self.register_buffer("offset", -mean / std)

        def forward(self, images: torch.Tensor) -> Any:
            return self.net(images.float() * self.scale + self.offset)

    return FromPixels().eval()


def metadata(preprocessing: Mapping[str, Any] | None, *, from_pixels: bool) -> dict[str, str]:
    """Return the same as a file's metadata."""
    if preprocessing is None:
        return {}
    values = {key: value for key, value in preprocessing.items() if key != "mean_image"}  # as large as images
    return {
        "input": "uint8 pixels" if from_pixels else "normalised",
        **{k: json.dumps(v) for k, v in values.items()},
    }


def drawing_layer(net: "nn.Module", images: "Tensor") -> str | None:
    """Return a sentence that names the layer drawing random numbers in evaluation; None if there is none."""
    import torch

    calls: list[list[_Call]] = [[], []]
    inputs: list[list[torch.Tensor]] = []  # of the calls in progress

    def enter(_: "nn.Module", given: tuple[Any, ...]) -> None:
        inputs.append([value.clone() for value in given if isinstance(value, torch.Tensor)])

    def leave(run: list[_Call], name: str, module: "nn.Module", _: Any, output: Any) -> None:
        outputs = [value.clone() for value in (output,) if isinstance(value, torch.Tensor)]
        run.append(_Call(f"{name or 'the network'} ({type(module).__name__})", inputs.pop(), outputs))

    hooks = []
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            for seed, run in enumerate(calls):
                torch.manual_seed(seed)
                for name, module in net.named_modules():
                    hooks.append(module.register_forward_pre_hook(enter))
                    hooks.append(module.register_forward_hook(partial(leave, run, name)))
                net(images)
                while hooks:
                    hooks.pop().remove()
    except (RuntimeError, TypeError, ValueError):
        return None  # it does not take these images at all, which is another error
    finally:
        while hooks:
            hooks.pop().remove()
    for first, second in zip(*calls, strict=False):
        if _same(first.inputs, second.inputs) and not _same(first.outputs, second.outputs):
            return (
                f"{first.name} draws random numbers in evaluation, and a file gives one answer for an image; "
                "switch that off"
            )
    return None


class _Call(NamedTuple):
    name: str
    inputs: "list[Tensor]"
    outputs: "list[Tensor]"


def _same(one: "list[Tensor]", other: "list[Tensor]") -> bool:
    return len(one) == len(other) and all(a.equal(b) for a, b in zip(one, other, strict=True))


def in_words(preprocessing: Mapping[str, Any] | None, *, from_pixels: bool) -> str:
    """Return one line that says how images must be prepared."""
    if preprocessing is None:
        how = "images normalised as in training (the checkpoint does not say how)"
    else:
        numbers = ", ".join(f"{key} {preprocessing[key]}" for key in ("mean", "std") if key in preprocessing)
        how = f"normalize {preprocessing['normalize']} of pixels on [0, 1]{': ' if numbers else ''}{numbers}"
        how = f"uint8 pixels; {how} is in the file" if from_pixels else f"normalised images; {how}"
        if preprocessing["evaluation"]:
            how += f"; before it {', '.join(preprocessing['evaluation'])}"
    return how
