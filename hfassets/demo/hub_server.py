"""The sample Hub as a server on loopback: in a thread (`SampleHub`), or in a process of its own.

    python -m hfassets.demo.hub_server --root DIR [--port N] [--port-file FILE]

It can only be reached from this machine: the address is not a setting.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import socket
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hfassets.demo.hub_app import STRANGER_TOKEN, TOKEN, HubApp
from hfassets.demo.hub_content import build_content, load_content
from hfassets.demo.hub_faults import Fault
from hfassets.demo.hub_limits import Quota
from hfassets.demo.hub_log import LoggedRequest
from hfassets.demo.hub_store import HubStore, LfsRule, default_lfs
from hfassets.storage.atomic import write_atomic

HOST = "127.0.0.1"


class SampleHub:
    """A running sample Hub; use as a context manager.

    `root` keeps the sample repos, built there at the first start (a few seconds, ~25 MB; `big_file_mb` is the size of
    the largest file); with `content=False` the Hub is empty. What `add_repo` is handed as bytes lies there until the
    server ends.

    `token` opens the gated repos, `stranger_token` is a valid user who may not; any other token is refused.
    """

    token = TOKEN
    stranger_token = STRANGER_TOKEN

    def __init__(
        self, root: Path, *, port: int = 0, page_size: int = 1000, content: bool = True, big_file_mb: int = 12
    ) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self._objects = Path(tempfile.mkdtemp(prefix="objects-", dir=root))
        self.store = HubStore(self._objects)
        if content:
            load_content(self.store, build_content(root, big_file_mb=big_file_mb), big_file_mb=big_file_mb)
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((HOST, port))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://{HOST}:{self.port}"
        transports: dict[Any, asyncio.Transport] = {}
        self._app = HubApp(self.store, transports.get, page_size=page_size)
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._app,
                http=_protocol(transports),
                loop="uvloop",
                lifespan="off",
                ws="none",
                # Its only news would be the connections that faults break; defects are logged by the application.
                log_config=None,
                log_level="critical",
                access_log=False,
                server_header=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=1,
            )
        )
        self._thread: threading.Thread | None = None
        self._kept = self.store.snapshot()
        self._page_size = page_size

    def serve(self) -> None:
        """Serve in this thread until interrupted."""
        self._server.run(sockets=[self._socket])

    def __enter__(self) -> SampleHub:
        # The socket listens before the thread runs, so that a first client waits instead of being refused.
        self._socket.listen(2048)
        self._thread = threading.Thread(target=self.serve, name="sample-hub", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._app.faults.set([])
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(10)
        self._socket.close()
        shutil.rmtree(self._objects, ignore_errors=True)

    def add_repo(
        self,
        repo_id: str,
        files: Mapping[str, bytes | str | Path],
        *,
        repo_type: str = "dataset",
        title: str = "",
        branch: str = "main",
        tag: str | None = None,
        gated: bool = False,
        redirect: bool = True,
        xet: bool = False,
        lfs: LfsRule = default_lfs,
    ) -> str:
        """Add a commit with exactly these files, making the repo when it is new; returns the commit id.

        A second call moves the branch on. Same id, files and history, same commit id. See `HubStore.commit`.
        """
        return self.store.commit(
            repo_id,
            files,
            repo_type=repo_type,
            title=title,
            branch=branch,
            tag=tag,
            gated=gated,
            redirect=redirect,
            xet=xet,
            lfs=lfs,
        )

    def remove_repo(self, repo_id: str, repo_type: str = "dataset") -> None:
        """Take a repo away: from now on it is not found."""
        self.store.remove(repo_type, repo_id)

    def override_tree(
        self, repo_id: str, entries: Sequence[Mapping[str, Any]] | None, repo_type: str = "dataset"
    ) -> None:
        """Answer all tree listings of a repo with these raw entries (hostile ones included); None = the truth."""
        self.store.override_tree(repo_type, repo_id, entries)

    def commit(self, repo_id: str, revision: str = "main", repo_type: str = "dataset") -> str:
        """The commit that a revision is at; raises KeyError when there is none."""
        repo = self.store.get(repo_type, repo_id)
        found = repo.resolve(revision) if repo else None
        if found is None:
            raise KeyError(f"{repo_id}@{revision}")
        return found.sha

    def set_faults(self, *faults: Fault) -> None:
        """Replace all faults; without any, the Hub is well again."""
        self._app.faults.set(faults)

    @property
    def fault_hits(self) -> list[int]:
        """How often each fault has hit, in the order set."""
        return self._app.faults.hits()

    def set_quotas(self, **quotas: Quota) -> None:
        """Enforce quotas for `api`, `resolvers`, `pages`; those not named go back to generous ones."""
        self._app.limits.set(quotas)

    @property
    def page_size(self) -> int:
        """Entries in one page of a tree listing."""
        return self._app.page_size

    @page_size.setter
    def page_size(self, value: int) -> None:
        self._app.page_size = value

    @property
    def requests(self) -> list[LoggedRequest]:
        """Copies of all requests since the last reset, those under way included (`done` is False)."""
        return self._app.log.all()

    def bytes_sent(self, glob: str = "*") -> int:
        """Body bytes sent for requests whose URL path or `<repo id>/<path>` matches."""
        return sum(request.sent for request in self.requests if request.matches(glob))

    def reset_log(self) -> None:
        """Forget all requests so far."""
        self._app.log.clear()

    def keep(self) -> None:
        """Make the repos as they are now what `reset` goes back to."""
        self._kept = self.store.snapshot()

    def reset(self) -> None:
        """No faults, default quotas and page size, an empty log, and only the repos kept by `keep`."""
        self.set_faults()
        self.set_quotas()
        self.page_size = self._page_size
        self.store.restore(self._kept)
        self.reset_log()


def _protocol(transports: dict[Any, asyncio.Transport]) -> type[HttpToolsProtocol]:
    """uvicorn's HTTP protocol that also tells which transport belongs to which client address."""

    class Protocol(HttpToolsProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            transports[transport.get_extra_info("peername")] = transport
            super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            transports.pop(self.client, None)
            super().connection_lost(exc)

    return Protocol


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until interrupted; `--port-file` gets the port as soon as connections are accepted."""
    parser = argparse.ArgumentParser(description="A sample Hugging Face Hub on loopback.")
    parser.add_argument("--root", type=Path, required=True, help="folder for the content")
    parser.add_argument("--port", type=int, default=0, help="port (default: a free one)")
    parser.add_argument("--big-file-mb", type=int, default=12, help="size of the largest file, in MB")
    parser.add_argument("--port-file", type=Path, help="file that gets the port")
    options = parser.parse_args(arguments)
    hub = SampleHub(options.root, port=options.port, big_file_mb=options.big_file_mb)
    with hub:
        if options.port_file:
            write_atomic(options.port_file, f"{hub.port}\n".encode())
        threading.Event().wait()


if __name__ == "__main__":
    main()
