"""Blocks are views that cover every element once, in whatever order memory has them."""

import torch

from lightning_optreg.optimizers._blocks import BLOCK, in_blocks


def tensors() -> list[torch.Tensor]:
    images = torch.zeros(64, 32, 20, 20).to(memory_format=torch.channels_last)  # 819,200 elements
    return [
        torch.zeros(3),
        torch.zeros(2 * BLOCK + 5),
        images,
        torch.zeros(5, 7).T,
        torch.zeros(()),
        torch.zeros(0),
    ]


def test_every_element_once() -> None:
    a, b = tensors(), tensors()
    sizes = []
    for first, second in in_blocks(a, b):
        torch._foreach_add_(first, 1.0)
        torch._foreach_add_(second, first)
        sizes.append(sum(piece.numel() for piece in first))
    assert all(torch.equal(tensor, torch.ones_like(tensor)) for tensor in (*a, *b))
    assert sum(sizes) == sum(tensor.numel() for tensor in a)
    assert max(sizes) < 2 * BLOCK
    assert len(sizes) >= 4


def test_tensors_in_different_orders_are_not_cut() -> None:
    plain, last = torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)
    ((first, second),) = in_blocks([plain], [last])
    assert first[0].shape == second[0].shape == (2, 3, 4, 5)


def test_other_devices_get_all_at_once() -> None:
    meta = [torch.zeros(3 * BLOCK, device="meta"), torch.zeros(2, device="meta")]
    assert [[len(column) for column in block] for block in in_blocks(meta, meta)] == [[2, 2]]
