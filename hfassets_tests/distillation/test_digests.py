"""The set of digests against Python's own set."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfassets.distillation import digests as module
from hfassets.distillation.digests import DigestSet, digest_of

pytestmark = pytest.mark.unit

# Few values, and many that share a half: collisions of halves are what a sorted file could get wrong.
halves = st.integers(0, 3).map(lambda n: (n * (2**62)).to_bytes(8, "big")) | st.binary(min_size=8, max_size=8)
digests = st.tuples(halves, halves).map(b"".join)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(digests, max_size=12), max_size=40), st.integers(1, 10))
def test_each_digest_is_new_once(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[list[bytes]], limit: int
) -> None:
    """However small the memory is and however often files are merged."""
    seen: set[bytes] = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MERGE_AT", 3)
        patch.setattr(module, "_MERGE_BLOCK", 4)
        with DigestSet(tmp_path_factory.mktemp("d"), limit) as found:
            for block in blocks:
                found.look_up(block)
                for digest in block:
                    assert found.add(digest) == (digest not in seen)
                    seen.add(digest)
                assert len(found) == len(seen)


def test_many_digests_take_little_memory_and_leave_no_file(tmp_path: Path) -> None:
    """300,000 digests with room for 10,000: the files hold the rest, few of them, and are gone in the end."""
    digest = digest_of("xxh3_128")
    with DigestSet(tmp_path, 10_000) as found:
        found.add_all(digest(str(number).encode()) for number in range(300_000))
        assert len(found) == 300_000
        assert len(list(tmp_path.rglob("*.u8"))) < 16
        again = [digest(str(number).encode()) for number in range(0, 300_000, 1000)]
        found.look_up(again)
        assert not any(found.add(one) for one in again)
    assert not list(tmp_path.iterdir())


def test_digests_are_those_of_the_standard_implementations() -> None:
    """XXH3 and MD5 of the published test vectors."""
    assert digest_of("xxh3_128")(b"").hex() == "99aa06d3014798d86001c324468d497f"
    assert digest_of("md5_hash")(b"abc").hex() == "900150983cd24fb0d6963f7d28e17f72"
