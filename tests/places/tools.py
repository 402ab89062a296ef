"""An S3 server on loopback, and folders of memory that nobody else uses."""

import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lightning_optreg.places import UrlPath


def memory() -> UrlPath:
    """A folder of this process's memory."""
    return UrlPath(f"memory://{uuid.uuid4().hex}")


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """Run moto's server; this process and those that it starts find it by their environment.

    Args:
        folder: For what the server says.

    Yields:
        The URL of a bucket.
    """
    pytest.importorskip("moto", reason="the extra 'dev' is not installed")
    s3fs = pytest.importorskip("s3fs", reason="the extra 's3' is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with pytest.MonkeyPatch.context() as patch, (folder / "server.txt").open("w") as said:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        server = subprocess.Popen(command, stdout=said, stderr=said, env=dict(os.environ))
        try:
            _wait_for(port, server)
            s3fs.S3FileSystem().mkdir("bucket")
            yield "s3://bucket"
        finally:
            server.kill()
            server.wait()
            s3fs.S3FileSystem.clear_instance_cache()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert server.poll() is None
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError("the S3 server has not started within 30 s")
