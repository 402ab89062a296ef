"""Measure how long the stages of a pipeline wait for each other, beside (P - 1) / (m + P - 1).

Two processes of one thread each hold half of a network of equal layers. With m micro-batches a step takes
t = (m + P - 1) / m times as long as the work of a stage, if nothing else costs time. That work is measured
with one process that has both stages: half of its time for the same micro-batches. Needs two idle cores.
"""

import os
import socket
import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_optreg.strategies.split._schedules import Pipe
from lightning_optreg.strategies.split._stages import plan_stages

WIDTH, DEPTH, IMAGES, REPEATS = 256, 16, 512, 5


def network() -> nn.Module:
    """Make a network of equal layers."""
    return nn.Sequential(*(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(DEPTH)))


def seconds(step: Callable[[], object]) -> float:
    """Return the median time of a step."""
    times = []
    for _ in range(REPEATS + 1):
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


def measure(rank: int, port: int) -> None:
    """Measure in one of the two processes."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    net = network()
    x, y = torch.randn(IMAGES, WIDTH), torch.randn(IMAGES, WIDTH)
    stages = plan_stages(net, 2, "parameters", None)

    def alone(m: int) -> None:
        for part, target in zip(x.tensor_split(m), y.tensor_split(m), strict=True):
            F.mse_loss(net(part), target).backward()

    for m in (1, 2, 4, 8, 16):
        dist.barrier()
        whole = seconds(lambda m=m: alone(m)) if rank == 0 else 0.0
        dist.barrier()
        row = f"m = {m:2}: one process {1000 * whole:6.1f} ms"
        for schedule in ("GPipe", "1F1B"):
            pipe = Pipe(stages, torch.device("cpu"), schedule, m, torch.enable_grad)

            def step(pipe: Pipe = pipe) -> Tensor:
                return pipe.forward_and_backward(x, y, F.mse_loss, 1.0)[0]

            taken = seconds(step)
            row += f", {schedule} {1000 * taken:6.1f} ms, idle {100 * (1 - whole / 2 / taken):3.0f} %"
        if rank == 0:
            print(f"{row}; formula {100 / (m + 1):3.0f} %", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    torch.multiprocessing.start_processes(measure, args=(number,), nprocs=2, start_method="spawn")
