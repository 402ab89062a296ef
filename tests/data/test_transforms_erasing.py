"""Random erasing against a slow reference and against torchvision's, which draws one rectangle a batch."""

import math

import pytest
import torch
from torchvision.transforms import v2

from lightning_optreg.data.transforms import RandomErasing
from lightning_optreg.randomness.draws import Draws, Place

CPU = torch.device("cpu")


def draws(n: int) -> Draws:
    return Draws(3, Place(0, 0, 0, n), n, CPU)


def test_rectangles_are_those_of_a_slow_loop_over_images() -> None:
    height, width, n = 9, 14, 300
    erase = RandomErasing(p=0.7, scale=(0.05, 0.9), ratio=(0.2, 4.0))
    drawn = erase.draw(draws(n), (height, width))
    numbers = draws(n)
    chosen, u = numbers.uniform().tolist(), numbers.uniform(4, 10).tolist()
    tries = 0
    for i in range(n):
        expected = None
        for a, r, y, x in zip(*u[i], strict=True):
            area = (0.05 + a * 0.85) * height * width
            ratio = math.exp(math.log(0.2) + r * (math.log(4.0) - math.log(0.2)))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if h < height and w < width:
                expected = (int(y * (height - h + 1)), int(x * (width - w + 1)), h, w)
                break
            tries += 1
        got = tuple(int(part[i]) for part in drawn)
        if chosen[i] < 0.7 and expected is not None:
            assert got == expected
        else:
            assert got[2] == 0  # no rectangle
    assert tries > 100  # so that drawing again was seen


@pytest.mark.parametrize("value", [0.0, 0.4, "random"])
def test_paints_a_rectangle_and_nothing_else(value: float) -> None:
    images = torch.full((200, 3, 12, 16), 200, dtype=torch.uint8)
    erased = RandomErasing(p=0.5, value=value)(images, draws(200))
    touched = 0
    for image in erased:
        changed = (image != 200).any(0)
        if not changed.any():
            continue
        touched += 1
        rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
        part = image[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        if value == "random":
            assert part.float().std() > 20.0 or part.numel() < 10
        else:
            assert (part == round(255 * value)).all()
    assert 70 < touched < 130  # 100 expected, standard deviation 7


def test_rectangles_are_distributed_as_torchvisions() -> None:
    n = 4000
    ours = RandomErasing(p=1.0).draw(draws(n), (32, 32))
    torch.manual_seed(0)
    theirs = v2.RandomErasing(p=1.0)
    drawn = [theirs.make_params([torch.zeros(3, 32, 32)]) for _ in range(n)]
    for name, values in zip(("i", "j", "h", "w"), ours, strict=True):
        other = torch.tensor([float(each[name]) for each in drawn])
        for power in (1, 2):
            mine, their = values.float() ** power, other**power
            spread = math.sqrt((mine.var().item() + their.var().item()) / n)
            assert abs(mine.mean().item() - their.mean().item()) < 5.0 * spread, name
