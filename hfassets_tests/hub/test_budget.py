"""The request budget that all processes of a host share."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hfassets.hub.budget import MAX_RESET_S, RequestBudget
from hfassets.hub.ratelimit import Quota
from hfassets.storage.runtime import runtime_folder

pytestmark = pytest.mark.unit

TOKEN = "hf_neverOnDisk"


def told(remaining: int, reset: float, bucket: str = "resolvers", quota: str = "q=500;w=300") -> dict[str, str]:
    """Headers of an answer."""
    return {
        "RateLimit": f'"{bucket}";r={remaining};t={reset}',
        "RateLimit-Policy": f'"fixed window";"{bucket}";{quota}',
    }


def test_an_empty_bucket_stops_every_process_until_its_reset(tmp_path: Path) -> None:
    """r=0 told to one process makes another wait the rest of the window; other buckets and tokens go on."""
    RequestBudget(tmp_path, "https://hub", TOKEN).learn(told(0, 40))
    code = (
        "import sys; from pathlib import Path; from hfassets.hub.budget import RequestBudget\n"
        "folder = Path(sys.argv[1])\n"
        f"mine, other = RequestBudget(folder, 'https://hub', {TOKEN!r}), RequestBudget(folder, 'https://hub', None)\n"
        "print(mine.acquire('resolvers'), mine.acquire('api'), other.acquire('resolvers'))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    wait, api, anonymous = map(float, done.stdout.split())
    assert 35 < wait <= 40
    assert api == anonymous == 0


def test_threads_together_start_no_more_than_is_left(tmp_path: Path) -> None:
    """Of 50 requests at once against r=7, exactly 7 may start."""
    budget = RequestBudget(tmp_path, "https://hub", None)
    budget.learn(told(7, 60))
    with ThreadPoolExecutor(16) as pool:
        waits = list(pool.map(lambda _: budget.acquire("resolvers"), range(50)))
    assert sum(wait == 0 for wait in waits) == 7


def test_requests_under_way_are_not_given_back_by_a_late_answer(tmp_path: Path) -> None:
    """An answer counts only what the Hub has seen: what has started since stays taken."""
    budget = RequestBudget(tmp_path, "https://hub", None)
    budget.learn(told(5, 60))
    assert [budget.acquire("resolvers") for _ in range(3)] == [0, 0, 0]
    budget.learn(told(4, 60))
    assert [budget.acquire("resolvers") == 0 for _ in range(3)] == [True, True, False]


def test_a_window_that_is_over_counts_no_more(tmp_path: Path) -> None:
    """After the reset requests start again, and the quota is still known."""
    budget = RequestBudget(tmp_path, "https://hub", None)
    budget.learn(told(0, 0.2))
    assert budget.acquire("resolvers") > 0
    deadline = time.monotonic() + 5
    while (wait := budget.acquire("resolvers")) > 0 and time.monotonic() < deadline:
        time.sleep(wait)
    assert wait == 0
    assert budget.quota("resolvers") == Quota(500, 300.0, learned=True)


def test_blocked_until_the_told_moment(tmp_path: Path) -> None:
    """A Retry-After holds for all, also when a later answer says that requests are left."""
    budget = RequestBudget(tmp_path, "https://hub", None)
    budget.block("resolvers", 30)
    budget.learn(told(400, 60))
    assert 25 < RequestBudget(tmp_path, "https://hub", None).acquire("resolvers") <= 30


@pytest.mark.parametrize(
    "damage",
    [
        b"{", b"[1]", b'{"resolvers": 3}', b'{"resolvers": {"remaining": "x", "reset_at": 1}}',
        b'{"resolvers": {"quota": [0, 0]}}', b'{"resolvers": {"remaining": 0}}', b"\0" * 100,
    ],
)  # fmt: skip
def test_a_damaged_file_is_replaced(tmp_path: Path, damage: bytes) -> None:
    """Whatever is in the file, requests go on and the next answer is learned."""
    budget = RequestBudget(tmp_path, "https://hub", None)
    budget.file.write_bytes(damage)
    assert budget.acquire("resolvers") == 0
    budget.learn(told(0, 60))
    assert budget.acquire("resolvers") > 0
    json.loads(budget.file.read_bytes())


def test_a_clock_that_was_wrong_blocks_nobody(tmp_path: Path) -> None:
    """A reset or block further away than any window is not believed."""
    budget = RequestBudget(tmp_path, "https://hub", None)
    far = time.time() + 10 * MAX_RESET_S
    state = {"resolvers": {"remaining": 0, "reset_at": far, "blocked_until": far}}
    budget.file.write_text(json.dumps(state))
    assert budget.acquire("resolvers") == 0


def test_hosts_that_share_a_token_divide_the_quota(tmp_path: Path) -> None:
    """With share=4 of 500 only 125 requests start here in a window."""
    budget = RequestBudget(tmp_path, "https://hub", None, share=4)
    budget.learn(told(500, 100))
    started = sum(budget.acquire("resolvers") == 0 for _ in range(200))
    assert started == 125
    assert budget.quota("resolvers").requests == 125


def test_assumes_the_documented_limits_until_told(tmp_path: Path) -> None:
    """500 per 300 s without a token, 1,000 with one."""
    assert RequestBudget(tmp_path, "https://hub", None).quota("api") == Quota(500, 300.0)
    assert RequestBudget(tmp_path, "https://hub", TOKEN).quota("api") == Quota(1000, 300.0)


def test_no_token_in_name_or_content(tmp_path: Path) -> None:
    """Neither the file's name nor its bytes hold the token; only its owner can read it."""
    budget = RequestBudget(tmp_path, "https://hub", TOKEN)
    budget.learn(told(3, 60))
    (file,) = tmp_path.iterdir()
    assert TOKEN not in file.name + file.read_text() + repr(budget)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_runtime_folder_is_private_or_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made with mode 0700; one that others may enter, or that is a link, is passed over."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    run = tmp_path / "run"
    run.mkdir()
    environment = {"XDG_RUNTIME_DIR": str(run)}
    folder = runtime_folder(environment)
    assert folder == run / "hfassets"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o755)
    second = runtime_folder(environment)
    assert second == tmp_path / "tmp" / f"hfassets-{os.getuid()}"
    second.rmdir()
    second.symlink_to(tmp_path)
    third = runtime_folder(environment)
    assert third not in (folder, second)
    assert stat.S_IMODE(third.stat().st_mode) == 0o700
