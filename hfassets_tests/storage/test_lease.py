"""One holder a lease, by name; a dead one's is taken over by exactly one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import orjson
import pytest

from hfassets.errors import LeaseHeldError
from hfassets.storage import lease
from hfassets.storage.lease import STALE_AFTER

pytestmark = pytest.mark.unit

HOLD = """
import sys
from pathlib import Path
from hfassets.storage import lease
with lease(Path(sys.argv[1]), "the output", run_id=sys.argv[2]):
    print("held", flush=True)
    sys.stdin.readline()
"""

# Every contender notes when it had the lease; whoever finds the marker of another is a second holder.
CONTEND = """
import os, sys
from pathlib import Path
from hfassets.storage import lease
path, marker, rounds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(rounds):
    with lease(path, "the output", wait=60):
        descriptor = os.open(marker, os.O_CREAT | os.O_EXCL)
        os.close(descriptor)
        marker.unlink()
        if len(sys.argv) > 4:
            os.kill(os.getpid(), 9)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    """Start Python code and wait for its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def end(process: subprocess.Popen[bytes]) -> int:
    """Let it go on and wait for its end."""
    process.communicate(b"\n", timeout=60)
    return process.returncode


def age(path: Path, seconds: float) -> None:
    """Make the last heartbeat of a lease older."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def foreign(path: Path, **changes: object) -> None:
    """A lease of a process on another machine."""
    holder = {"host": "nid001", "machine": "m", "pid": 7, "process_started": 9, "run_id": "r1", "nonce": "n"}
    path.write_bytes(orjson.dumps({**holder, **changes}))


def test_a_second_run_fails_naming_the_holder(tmp_path: Path) -> None:
    """Host, process and run are in the one line; after the holder's end the lease is free and gone."""
    path = tmp_path / "leases" / "out.json"
    holder = start(HOLD, path, "run-42")
    with pytest.raises(LeaseHeldError) as caught, lease(path, "ibm-research/duorc"):
        pass
    assert f"ibm-research/duorc is being written by process {holder.pid} on " in str(caught.value)
    assert "run run-42" in str(caught.value)
    assert end(holder) == 0
    assert not path.exists()
    with lease(path, "it"):
        assert path.exists()


def test_waiting_gets_the_lease_when_the_holder_ends(tmp_path: Path) -> None:
    """`wait` is enough time, so no error."""
    path = tmp_path / "out.json"
    holder = start(HOLD, path, "")
    timer = threading.Timer(0.3, lambda: end(holder))
    timer.start()
    with lease(path, "it", wait=30):
        assert holder.poll() is not None
    timer.join()


def test_the_lease_of_a_killed_process_is_taken_over_at_once(tmp_path: Path) -> None:
    """No waiting for its heartbeat to age: the process is known to be gone."""
    path = tmp_path / "out.json"
    holder = start(HOLD, path, "")
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert path.exists()
    with lease(path, "it"):
        assert orjson.loads(path.read_bytes())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_of_many_contenders_one_holds_at_a_time_though_holders_are_killed(tmp_path: Path) -> None:
    """Four processes take turns over a stale lease, two of them dying with it in hand: never two holders."""
    path, marker = tmp_path / "out.json", tmp_path / "marker"
    foreign(path)
    age(path, STALE_AFTER + 10)
    contenders = [start(CONTEND, path, marker, 40) for _ in range(4)] + [
        start(CONTEND, path, marker, 1, "die") for _ in range(2)
    ]
    for process in contenders:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    assert [end(process) for process in contenders] == [0, 0, 0, 0, -9, -9]


def test_a_heartbeat_of_another_machine_counts_by_its_age(tmp_path: Path) -> None:
    """Fresh: held. Older than the limit: taken over. The same pid here means nothing."""
    path = tmp_path / "out.json"
    foreign(path, pid=os.getpid())
    age(path, STALE_AFTER - 30)
    with pytest.raises(LeaseHeldError, match="on nid001, run r1"), lease(path, "it"):
        pass
    age(path, STALE_AFTER + 30)
    with lease(path, "it"):
        assert orjson.loads(path.read_bytes())["pid"] == os.getpid()


def test_a_resumed_run_outwaits_the_lease_of_its_own_dead_worker_on_another_machine(tmp_path: Path) -> None:
    """SLURM restarts a run's job elsewhere before the heartbeat of the former one is old."""
    path = tmp_path / "out.json"
    foreign(path)
    age(path, STALE_AFTER - 2)
    with pytest.raises(LeaseHeldError), lease(path, "it", run_id="another"):
        pass
    with lease(path, "it", run_id="r1"):
        assert orjson.loads(path.read_bytes())["pid"] == os.getpid()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"host": 1}'])
def test_an_unreadable_lease_is_held_until_it_is_old(tmp_path: Path, content: bytes) -> None:
    """Its writer may be between creating and filling it."""
    path = tmp_path / "out.json"
    path.write_bytes(content)
    with pytest.raises(LeaseHeldError, match="a process on an unknown host"), lease(path, "it"):
        pass
    age(path, STALE_AFTER + 10)
    with lease(path, "it"):
        pass
    assert not path.exists()


def test_the_holder_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's time moves on while the body runs."""
    monkeypatch.setattr(sys.modules["hfassets.storage.lease"], "HEARTBEAT_EVERY", 0.02)
    path = tmp_path / "out.json"
    with lease(path, "it"):
        age(path, 1000)
        deadline = time.monotonic() + 10
        while time.time() - path.stat().st_mtime > 500:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_lease_lost_to_another_is_not_removed_at_the_end(tmp_path: Path) -> None:
    """A run that was suspended too long does not delete its successor's lease."""
    path = tmp_path / "out.json"
    with lease(path, "it"):
        foreign(path)
    assert orjson.loads(path.read_bytes())["host"] == "nid001"
