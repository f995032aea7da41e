"""nginx serving a data set's contents in the protocol's shape, and the lister beside it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.collect.dataset import DataSet

_CONF = """
{user}
worker_processes 1; daemon off; pid {run}/pid; error_log {run}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 10000000; etag off;
  default_type application/octet-stream;
  client_body_temp_path {run}/a; proxy_temp_path {run}/b; fastcgi_temp_path {run}/c;
  uwsgi_temp_path {run}/d; scgi_temp_path {run}/e;
  server {{
    listen 127.0.0.1:{port};
    location /files/ {{ alias {files}/; autoindex on; }}
    location /secure-copy/ {{ proxy_pass http://127.0.0.1:{lister}; }}
    location ~ ^/secure-copy/file/([0-9a-f]+)/content$ {{
      alias {files}/$1;
      add_header Encryption-Initialization-Vector $request_id;
    }}
  }}
}}
"""


def nginx_path() -> str | None:
    """Return where nginx is, None where it is not installed."""
    return shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/sbin")


@contextmanager
def serving(data: DataSet, root: Path) -> Iterator[str]:
    """Serve the data set; yield the server's address."""
    nginx = nginx_path()
    if nginx is None:
        raise FileNotFoundError("nginx")
    with tempfile.TemporaryDirectory(prefix="kropot-nginx-") as run:
        port, lister = _free_port(), _free_port()
        conf = Path(run) / "nginx.conf"
        # Started by root, workers would become somebody who may not read the data.
        user = "user root;" if os.getuid() == 0 else ""
        conf.write_text(_CONF.format(user=user, run=run, port=port, lister=lister, files=data.folder(root).resolve()))
        processes = [
            subprocess.Popen([nginx, "-c", str(conf), "-e", f"{run}/error.log"]),
            subprocess.Popen([sys.executable, "-m", "tests.bench.collect.lister", data.name, str(lister)]),
        ]
        try:
            _wait_for(port)
            _wait_for(lister)
            yield f"http://127.0.0.1:{port}"
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(10)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
