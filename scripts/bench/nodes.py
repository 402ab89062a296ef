"""Run a command as two nodes on this machine, and count the bytes that really go between them.

Each node is a network namespace of its own with one cable to the other: an address, an interface, a loopback,
and nothing else in common but files. So what works here works between two machines, and the interfaces'
counters see all that is sent, headers and answers included. Linux, as root, with iproute2.

    python scripts/bench/nodes.py -- fit --config configs/fashion_mnist/lenet5.yaml --trainer.strategy ddp

starts `torchrun` on both nodes. With `--steps 20 120` the command runs twice, with so many steps; the
difference is what a step sends, without start and end. `--rate 100mbit` makes the cable slow.
"""

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

__all__ = ["Nodes"]

_PORT = 29_400


class Nodes:
    """Two network namespaces joined by a cable; a context manager, which ends what still runs in them.

    Args:
        rate: What the cable carries in each direction, in the words of `tc`: "100mbit". None: no limit.
    """

    def __init__(self, rate: str | None = None) -> None:
        self.names = [f"node{number}-{os.getpid()}" for number in range(2)]
        self.addresses = ["10.99.0.1", "10.99.0.2"]
        self.rate = rate

    def __enter__(self) -> "Nodes":
        try:
            for name in self.names:
                _ip("netns", "add", name)
            first, second = self.names
            _ip("link", "add", "cable", "netns", first, "type", "veth", "peer", "cable", "netns", second)
            for name, address in zip(self.names, self.addresses, strict=True):
                _ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
                for device in ("lo", "cable"):
                    _ip("-n", name, "link", "set", device, "up")
                if self.rate is not None:
                    bucket = ["tbf", "rate", self.rate, "burst", "64kb", "latency", "400ms"]
                    subprocess.run(
                        ["tc", "-n", name, "qdisc", "add", "dev", "cable", "root", *bucket], check=True
                    )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.names:
            with contextlib.suppress(subprocess.CalledProcessError):  # never made
                for pid in map(int, _ip("netns", "pids", name).split()):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, 9)
                _ip("netns", "delete", name)

    def start(
        self, node: int, command: Sequence[str], environment: Mapping[str, str] | None = None, **more: object
    ) -> "subprocess.Popen[str]":
        """Start a command on a node.

        Args:
            node: Its number, 0 or 1.
            command: The command and its arguments.
            environment: Variables to set, in addition to this process's.
            more: For `subprocess.Popen`.
        """
        interface = {
            "GLOO_SOCKET_IFNAME": "cable",
            "TP_SOCKET_IFNAME": "cable",
            "NCCL_SOCKET_IFNAME": "cable",
        }
        return subprocess.Popen(
            ["ip", "netns", "exec", self.names[node], *command],
            env={**os.environ, **interface, **(environment or {})},
            text=True,
            **more,  # type: ignore[call-overload]
        )

    def program(self, node: int, arguments: Sequence[str], **more: object) -> "subprocess.Popen[str]":
        """Start `python -m lightning_optreg` on a node.

        Args:
            node: Its number, 0 or 1.
            arguments: Those of the program.
            more: For `start`.
        """
        command = [sys.executable, "-m", "lightning_optreg", *arguments]
        return self.start(node, command, **more)  # type: ignore[arg-type]

    def processes(self, node: int) -> list[int]:
        """Return the process ids of all that runs on a node."""
        return [int(pid) for pid in _ip("netns", "pids", self.names[node]).split()]

    def torchrun(
        self, arguments: Sequence[str], *, processes: int = 1, restarts: int = 0, **more: object
    ) -> "list[subprocess.Popen[str]]":
        """Start the program on both nodes, each by a `torchrun` of its own.

        Args:
            arguments: Those of `python -m lightning_optreg`.
            processes: How many on each node.
            restarts: How often all of them are started again if one fails.
            more: For `start`.
        """
        meeting = [f"--rdzv_endpoint={self.addresses[0]}:{_PORT}", "--rdzv_backend=c10d", "--rdzv_id=nodes"]
        program = ["-m", "lightning_optreg", *arguments]
        return [
            self.start(
                node,
                [
                    *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", *meeting),
                    # Otherwise both would go by the name of the machine, which is the same.
                    *(f"--local_addr={self.addresses[node]}", f"--rdzv_conf=is_host={int(node == 0)}"),
                    *(f"--nproc_per_node={processes}", f"--max_restarts={restarts}", *program),
                ],
                **more,  # type: ignore[arg-type]
            )
            for node in range(2)
        ]

    def sent(self) -> list[int]:
        """Return how many bytes each node has sent over the cable."""
        counts = []
        for name in self.names:
            shown = _ip("-n", name, "-s", "-o", "link", "show", "cable")
            counts.append(int(shown.partition("TX:")[2].split("\\")[1].split()[0]))
        return counts


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
    return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=1, help="processes on each node")
    parser.add_argument("--restarts", type=int, default=0, help="torchrun's --max_restarts")
    parser.add_argument("--rate", help="what the cable carries, such as 100mbit")
    parser.add_argument("--steps", type=int, nargs=2, metavar=("FEW", "MORE"), help="count what a step sends")
    parser.add_argument("arguments", nargs="+", help="of python -m lightning_optreg, after --")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("network namespaces need root")
    runs = [[f"--trainer.max_steps={steps}"] for steps in options.steps or ()] or [[]]
    nodes_and_devices = ["--trainer.num_nodes=2", f"--trainer.devices={options.processes}"]
    counts = []
    with Nodes(options.rate) as nodes:
        for more in runs:
            before = sum(nodes.sent())
            arguments = [*options.arguments, *nodes_and_devices, *more]
            started = nodes.torchrun(arguments, processes=options.processes, restarts=options.restarts)
            status = [process.wait() for process in started]
            if any(status):
                print(f"the nodes ended with status {status}", file=sys.stderr)
                return 1
            counts.append(sum(nodes.sent()) - before)
            print(f"both nodes together: {counts[-1]:,} bytes {' '.join(more)}")
    if options.steps:
        few, many = options.steps
        print(f"a step: {(counts[1] - counts[0]) / (many - few):,.0f} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
