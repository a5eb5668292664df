"""`test-load`: what a user's own loading gives, shown; what does not load, named."""

from __future__ import annotations

import json

import pytest

from hfassets.errors import UsageError
from hfassets.hub.download import DownloadRequest, download_dataset
from hfassets.hub.load_check import LoadRequest, check_load
from hfassets.hub.session import hub_options
from hfassets.storage.state import StateDir

PROGRAM = """
    import dataclasses, json, sys
    from pathlib import Path
    from hfassets.hub.load_check import LoadRequest, check_load
    out = []
    for keywords in json.loads(sys.argv[1]):
        keywords["cache_dir"] = Path(keywords["cache_dir"])
        keywords["configs"] = tuple(keywords.get("configs", ()))
        notes = []
        report = dataclasses.asdict(check_load(LoadRequest(**keywords), notes.append))
        out.append([report["loaded"], report["failures"], [note.text for note in notes]])
    print(json.dumps(out))
"""


@pytest.mark.hub
def test_prepared_configs_load_and_are_shown(hub_env, sample_hub, tmp_path):
    """Slices, all splits, streaming, `default`, undecoded images; failures one by one; offline; a branch moved on."""
    state, cache = StateDir(tmp_path / "state"), hub_env.datasets_cache
    options = hub_options(endpoint=hub_env.hub.url)
    sample_hub.add_repo("team/moving", {"a.jsonl": '{"a": 1}\n'})
    rows: dict[str, int] = {}
    for repo_id, configs in (("google/docci", ()), ("team/moving", ()), ("ibm-research/duorc", ("SelfRC",))):
        done = download_dataset(DownloadRequest(repo_id, hub_env.hub_cache, cache, state, configs), options)
        rows = dict(done.prepared[0].splits)
    sample_hub.add_repo("team/moving", {"a.jsonl": '{"a": 1}\n{"a": 2}\n'})

    def run(*requests: dict[str, object], **variables: str) -> list[list[object]]:
        asked = json.dumps([{"cache_dir": str(cache), **request} for request in requests])
        done = hub_env.python(PROGRAM, asked, HF_HUB_DISABLE_XET="1", **variables)
        assert done.stderr == ""
        return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]

    duorc = {"repo_id": "ibm-research/duorc"}
    sliced, every, unprepared, streamed, plain, images, wrong, moved = run(
        {**duorc, "configs": ["SelfRC"], "split": "train[2:12]"},
        {**duorc, "configs": ["SelfRC"], "split": None},
        duorc,
        {**duorc, "configs": ["ParaphraseRC"], "split": "validation[1:3]", "streaming": True},
        {**duorc, "configs": ["SelfRC"], "split": "test", "method": "default"},
        {"repo_id": "google/docci"},
        {**duorc, "configs": ["SelfRC"], "split": "nowhere"},
        {"repo_id": "team/moving"},
    )
    (only,) = sliced[0]
    assert (only["rows"], only["split"], len(only["samples"])) == (10, "train[2:12]", 3)
    assert only["columns"] == ["plot_id", "plot", "title", "question_id", "question"]
    assert only["more_columns"] == 2
    assert "'answers': List(Value('string'))" in only["features"]
    assert list(only["samples"][0]) == only["columns"]
    assert [(one["split"], one["rows"]) for one in every[0]] == list(rows.items())
    assert [one["config"] for one in unprepared[0]] == ["SelfRC"]
    assert unprepared[1][0][0] == "ParaphraseRC"
    assert "hfassets hub download --dataset-name ibm-research/duorc --subset-name ParaphraseRC" in unprepared[1][0][1]
    assert (streamed[0][0]["rows"], len(streamed[0][0]["samples"])) == (None, 2)
    assert plain[0][0]["rows"] == rows["test"]
    assert "bytes>" in images[0][0]["samples"][0]["image"]
    assert wrong[0] == []
    assert "nowhere" in wrong[1][0][1]
    assert moved[0][0]["rows"] == 1
    assert any("is not prepared; loading" in note for note in moved[2])

    (offline,) = run({**duorc, "split": "test"}, HF_HUB_OFFLINE="1")
    assert [(one["config"], one["rows"]) for one in offline[0]] == [("SelfRC", rows["test"])]
    assert offline[1] == []


@pytest.mark.unit
@pytest.mark.parametrize(("split", "streaming"), [("train[", False), ("train[a:b]", False), ("train[-3:]", True)])
def test_a_split_that_cannot_be_one_is_a_usage_error(split, streaming):
    """Told before anything is loaded."""
    with pytest.raises(UsageError, match="--split"):
        check_load(LoadRequest("team/x", ("a",), split, streaming=streaming))
