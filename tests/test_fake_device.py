"""The fake device sees each kind of waiting, and only waiting."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from tests.fake_device import DEVICE, FakeDevice, WaitedError, needs_fake_device

pytestmark = needs_fake_device
Operation = Callable[[Tensor], object]

WAITING: dict[str, Operation] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "int": lambda x: int(x.argmax()),
    "bool": lambda x: bool((x > 0).all()),
    "a condition": lambda x: 1 if x.sum() > 0 else 0,
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "a copy from it": lambda x: torch.zeros(4).copy_(x),
    "a copy to it": lambda x: torch.zeros(4).to(DEVICE),
    "a copy into it": lambda x: x.copy_(torch.ones(4)),
    "a tensor of numbers": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "a number like it": lambda x: x.new_tensor(2.0),
    "an array": lambda x: torch.as_tensor([1.0], device="cpu:1"),
    "nonzero": lambda x: x.nonzero(),
    "where without values": lambda x: torch.where(x > 0),
    "masked_select": lambda x: x.masked_select(x > 0),
    "a mask": lambda x: x[x > 0],
    "a tensor put by a mask": lambda x: x.index_put_((x > 2,), x[:2].clone()),
    "an index of the CPU": lambda x: x[torch.tensor([0, 1])],
    "a place": lambda x: x[x.argmax()],
    "a slice": lambda x: x[: x.argmax()],
    "equal": lambda x: torch.equal(x, x + 1),
    "allclose": lambda x: torch.allclose(x, x),
    "unique": lambda x: x.unique(),
    "consecutive": lambda x: x.unique_consecutive(),
    "bincount": lambda x: x.long().bincount(),
    "repetitions": lambda x: x.repeat_interleave(x.long()),
    "an inverse": lambda x: torch.linalg.inv(torch.eye(2, device=x.device)),
    "drawn": lambda x: torch.rand(1, device=x.device).item(),
    "a gradient": lambda x: torch.autograd.grad((leaf := x.clone().requires_grad_()).sum(), leaf)[0][
        0
    ].item(),
}
FREE: dict[str, Operation] = {
    "arithmetic": lambda x: (x * 2 + x.sum()).clamp(max=1.0),
    "numbers of the CPU": lambda x: x * torch.tensor(2.0) + float(torch.rand(())),
    "a copy that does not wait": lambda x: torch.zeros(4).to(DEVICE, non_blocking=True),
    "a copy on the device": lambda x: x.copy_(x + 1),
    "another dtype": lambda x: x.to(DEVICE, torch.float64),
    "filled": lambda x: torch.full((2,), 3.0, device=x.device),
    "drawn": lambda x: torch.rand(3, generator=torch.Generator(x.device).manual_seed(0), device=x.device),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "masked_fill": lambda x: x.masked_fill(x > 0, 1.0),
    "a number put by a mask": lambda x: x.__setitem__(x > 0, 1.0),
    "an index": lambda x: x[torch.arange(2, device=x.device)],
    "index_select": lambda x: x.index_select(0, torch.arange(2, device=x.device)),
    "all elements": lambda x: torch._foreach_add([x, x], 1.0),
    "a norm to clip": lambda x: torch.nn.utils.clip_grad_norm_([x], 1.0),
    "known repetitions": lambda x: x.repeat_interleave(x.long(), output_size=10),
    "a generator of the CPU": lambda x: torch.randperm(
        4, generator=torch.Generator().manual_seed(0)
    ).tolist(),
}


@pytest.fixture
def device() -> Iterator[FakeDevice]:
    with FakeDevice() as fake:
        yield fake


@pytest.fixture
def x(device: FakeDevice) -> Tensor:
    tensor = torch.arange(1.0, 5.0).to(DEVICE)
    assert tensor.device == DEVICE
    return tensor


@pytest.mark.parametrize("name", WAITING)
def test_waiting_is_an_error_while_it_is_watched(name: str, device: FakeDevice, x: Tensor) -> None:
    WAITING[name](x)
    device.watching = True
    with pytest.raises(WaitedError):
        WAITING[name](x)
    assert not device.watching  # a run that ends may read what it has


@pytest.mark.parametrize("name", FREE)
def test_what_does_not_wait_is_free(name: str, device: FakeDevice, x: Tensor) -> None:
    device.watching = True
    FREE[name](x)
    assert device.watching


def test_arrays_need_a_copy(x: Tensor) -> None:
    with pytest.raises(TypeError):
        x.numpy()
    assert x.cpu().numpy().tolist() == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x + torch.ones(4),
        lambda x: x.index_select(0, torch.tensor([0])),
        lambda x: torch.stack([x.sum(), torch.tensor(1.0)]),
        lambda x: torch.nn.functional.cross_entropy(x[None], torch.tensor([0])),
    ],
)
def test_two_devices_do_not_mix(operation: Operation, x: Tensor) -> None:
    with pytest.raises(RuntimeError, match="same device"):
        operation(x)


def test_results_are_those_of_the_cpu(x: Tensor) -> None:
    weight = torch.nn.Parameter(x.clone())
    optimizer = torch.optim.SGD([weight], lr=0.5, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        (weight**2).sum().backward()
        optimizer.step()
    assert weight.device == DEVICE
    # w - 0.5 (2 w) = 0; then the gradient is 0, and the momentum 0.9 (2 w) is left: -0.5 (1.8 w)
    assert weight.tolist() == pytest.approx([-0.9, -1.8, -2.7, -3.6])
