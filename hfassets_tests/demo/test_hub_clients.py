"""The unmodified huggingface_hub, datasets and `hf` against the sample Hub."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.hub


def test_snapshot_download_takes_a_repo_that_was_just_added(hub_env, sample_hub):
    """`snapshot_download` fetches small, LFS and redirected files, byte for byte, under the right blob names."""
    files = {"README.md": b"# x\n", "data/a b.txt": b"hello\n", "data/big.bin": bytes(range(256)) * 9000, "empty": b""}
    commit = sample_hub.add_repo("some/repo", files)
    out = hub_env.python(
        """
        import huggingface_hub as h
        folder = h.snapshot_download("some/repo", repo_type="dataset")
        print(folder)
        report = h.scan_cache_dir()
        assert not report.warnings, report.warnings
        print(h.HfApi().repo_info("some/repo", repo_type="dataset").sha)
        """
    ).stdout.split()
    assert out[1] == commit
    folder = Path(out[0])
    for path, content in files.items():
        assert (folder / path).read_bytes() == content
        blob = (folder / path).resolve().name
        assert len(blob) == (64 if path.endswith(".bin") else 40)
    paths = [request.path for request in sample_hub.requests]
    assert any(path.startswith("/cdn/") for path in paths)
