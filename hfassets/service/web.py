"""`python -m hfassets.service.web`: Dagster's web server on a socket, or on TCP behind a token. Dagster's by nature.

Loopback on a login node belongs to everybody there: Dagster's own command, which knows nothing but a port, lets each of
them run code as its owner.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn
from dagster import DagsterInstance
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster_webserver.app import create_app_from_workspace_process_context
from dagster_webserver.version import __version__

from hfassets.service.gate import TokenGate


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="hfassets.service.web", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--socket", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int)
    parser.add_argument("--token-file", type=Path)
    parser.add_argument("--name", default="web")
    parser.add_argument("--read-only", action="store_true")
    options = parser.parse_args(arguments)
    if options.socket is None and (options.port is None or options.token_file is None):
        parser.error("needs --socket, or --port with --token-file")
    with DagsterInstance.get() as instance:
        # As `dagster-webserver` does by default: s, s, connections.
        instance.optimize_for_webserver(15000, 3600, 20)
        target = WorkspaceFileTarget(paths=[str(options.workspace)])
        with WorkspaceProcessContext(
            instance, workspace_load_target=target, version=__version__, read_only=options.read_only
        ) as context:
            app = create_app_from_workspace_process_context(context)
            if options.socket is not None:
                served: Any = app
                listening = _own_socket(options.socket)
            else:
                served = TokenGate(app, options.token_file.read_text().strip(), options.name)
                listening = socket.create_server((options.host, options.port))
            # Pages that are open hold their connection for ever.
            config = uvicorn.Config(served, log_level="warning", timeout_graceful_shutdown=3)
            with listening:
                uvicorn.Server(config).run(sockets=[listening])
    return 0


def _own_socket(path: Path) -> socket.socket:
    """A socket that nobody else may connect to: uvicorn's own would be open to all who reach its folder."""
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listening.bind(str(path))
    finally:
        os.umask(before)
    return listening


if __name__ == "__main__":
    sys.exit(main())
