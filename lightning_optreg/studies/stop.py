"""End a study cleanly on SIGTERM, Ctrl+C or a closed terminal: runs are saved and given back."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

from lightning_optreg.runs.ownership import Owner, this_process

__all__ = ["StopRequest", "Stopped", "run_processes", "stop_with_parent"]

_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP")  # the last one is not on Windows
_PARENT = "LIGHTNING_OPTREG_STUDY_PARENT"
_ENDING = 60.0  # seconds: for a batch, a checkpoint and the last writes to the storage


class Stopped(SystemExit):
    """The process was told to end; `code` is its exit status, as shells count.

    Args:
        number: Number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


class StopRequest:
    """Notes signals, and interrupts only code that may be interrupted anywhere.

    While a trainer runs, its own handler of SIGTERM answers to all of these signals: the run ends after a
    batch, with a checkpoint from which it resumes exactly. A second signal ends the process at once, or does
    what `second` does.

    Example:
        >>> with StopRequest() as stop:
        ...     stop.check()
    """

    def __init__(self) -> None:
        self.number: int | None = None
        """Number of the signal that has come."""
        self.second: Callable[[], object] | None = None
        """Called at a second one."""
        self._breaks_off = False
        self._process = os.getpid()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            numbers = [int(getattr(signal, name)) for name in _SIGNALS if hasattr(signal, name)]
            for number in numbers:  # one that is ignored, as nohup does, or handled by others stays so
                handler = signal.getsignal(number)
                if handler in (signal.SIG_DFL, signal.default_int_handler):
                    self._previous[number] = handler
                    signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise `Stopped` if a signal has come."""
        if self.number is not None:
            raise Stopped(self.number)

    def sleep(self, seconds: float) -> None:
        """Sleep, unless a signal comes."""
        with self.breaking_off():
            time.sleep(seconds)

    @contextmanager
    def breaking_off(self) -> Iterator[None]:
        """Let a signal raise `Stopped` wherever the block is."""
        before, self._breaks_off = self._breaks_off, True
        try:
            self.check()
            yield
        finally:
            self._breaks_off = before

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # forked from it, a loader's worker for one, which it will end
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        is_first = self.number is None
        if is_first:
            self.number = number
        if signal.SIGTERM in self._previous and signal.getsignal(signal.SIGTERM) != self._handle:
            # A trainer has put its own handler in front of this one.
            if number != signal.SIGTERM and is_first:
                signal.raise_signal(signal.SIGTERM)
            elif number == signal.SIGINT:
                raise KeyboardInterrupt
        elif not is_first:
            self._end_at_once(number)
        elif self._breaks_off:
            raise Stopped(number)

    def _end_at_once(self, number: int) -> None:
        if self.second is not None:
            self.second()
        else:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


def run_processes(
    command: Sequence[str], count: int, environment: Mapping[str, str], stop: StopRequest, **options: Any
) -> list[int]:
    """Run a command in several processes at once; none of them outlives this call.

    Told to stop, it passes that on and waits for them; after a second signal or 60 seconds it kills them.

    Args:
        command: The words.
        count: Number of processes, at least 1.
        environment: Their variables; one is added that names this process.
        stop: Says when to stop.
        options: Further options of `subprocess.Popen`.

    Returns:
        Their exit statuses, as `subprocess` returns them.

    Raises:
        Stopped: When told to, after they have ended.
    """
    environment = {**environment, _PARENT: json.dumps(this_process()._asdict())}
    children: list[subprocess.Popen[bytes]] = []
    try:
        with stop.breaking_off():
            for _ in range(count):
                children.append(subprocess.Popen(command, env=environment, **options))
            return [child.wait() for child in children]
    except BaseException:
        _end(children, stop)
        raise


def _end(children: Sequence["subprocess.Popen[bytes]"], stop: StopRequest) -> None:
    def kill() -> None:
        for child in children:
            child.kill()

    stop.second = kill
    for child in children:
        child.terminate()
    deadline = time.monotonic() + _ENDING
    for child in children:
        with suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, deadline - time.monotonic()))
        child.kill()  # nothing, if it has ended
        child.wait()


def stop_with_parent() -> None:
    """Send this process a SIGTERM as soon as the one that started it has ended, however that happens.

    Windows doesn't tell; there the process continues the study by itself.

    Raises:
        ValueError: If no `run_processes` has started it.
    """
    said = os.environ.pop(_PARENT, None)  # processes that this one starts have another parent
    if said is None:
        raise ValueError("--worker: only compare itself starts worker processes; use --workers")
    starter = Owner.from_dict(json.loads(said))
    if os.name != "posix":
        return
    parent = os.getppid()  # read first: if the starter lives after that, this can only change when it ends

    def watch() -> None:
        gone = starter.has_ended() if starter.system else parent != starter.pid
        while not gone:
            time.sleep(0.5)
            gone = os.getppid() != parent
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
