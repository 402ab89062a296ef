"""A PostgreSQL server of its own for a test, from Debian's package."""

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

__all__ = ["NO_POSTGRESQL", "postgresql"]


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


NO_POSTGRESQL = (
    "no PostgreSQL in /usr/lib/postgresql"
    if _programs() is None
    else ""
    if find_spec("psycopg")
    else "the package psycopg is not installed"
)
"""Why there can be no server; empty if there can."""


@contextmanager
def postgresql() -> Iterator[str]:
    """Start a server on a free port of this machine, and yield the URL of its database."""
    programs = _programs()
    assert programs is not None
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))  # pytest's own folders are closed to other users
    shutil.chown(folder, "postgres", "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data, options = folder / "data", f"-p {port} -c listen_addresses=127.0.0.1 -k {folder}"

    def call(program: str, *arguments: str) -> None:
        subprocess.run(
            [str(programs / program), *arguments],
            user="postgres",  # it refuses to be root
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )

    call("initdb", "-D", str(data), "--auth=trust", "--no-sync")
    try:
        call("pg_ctl", "-D", str(data), "-w", "-o", options, "-l", str(folder / "log"), "start")
        yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
    finally:
        call("pg_ctl", "-D", str(data), "-m", "immediate", "stop")
        shutil.rmtree(folder)
