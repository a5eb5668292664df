"""What a teacher expects, against one plain forward pass a row; whatever kills it; and who is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hfassets.errors import DataError, IntegrityError, PartialFailureError, UsageError
from hfassets.mds.inputs import Cut
from hfassets.mds.origins import Target, from_files
from hfassets.mds.stage import StageOutput, StageRun
from hfassets.packed.logits import LogitRule, Logits, close_account
from hfassets.packed.shards import make_shards, verify_shards
from hfassets.packed.source import packed_rows
from hfassets.packed.stage import Packing
from hfassets.packed.teach import teach
from hfassets.packed.teacher import Teacher, gpu_of
from hfassets.packed.teacher_model import local_teacher
from hfassets.storage.state import StateDir
from hfassets.tokens import read_packed
from hfassets.tokens.engine import TokenizerSource
from hfassets_tests.mds.pipeline import corpus, write_jsonl
from hfassets_tests.packed.models import save_model, save_tokenizer

SIZE = 96


@dataclass(frozen=True)
class Place:
    """A folder with text, a tokenizer, rows of it and a teacher."""

    root: Path
    model: Any

    def pack(self, name: str, source: Path | None = None, **given: Any) -> Path:
        """Rows of the text."""
        folder, state = self.root / name, StateDir(self.root / "state")
        text = from_files(source or self.root / "source", Target(folder, state, cut=Cut(1 << 30)))
        tokenizer = self.root / "tokenizer"
        given = {"size": SIZE, "mode": "best_fit", "shard_bytes": 40 * 12 * SIZE, **given}
        packing = Packing(folder, text, TokenizerSource.read(tokenizer), tokenizer, **given)
        make_shards(packing.stage(), StageRun(state))
        return folder

    def teach(
        self, rows: Path, folder: Path, rule: LogitRule, workers: int = 1, teacher: str = "teacher", **given: Any
    ) -> StageOutput:
        """What the teacher expects behind them."""
        state = StateDir(self.root / "state")
        model = local_teacher(self.root / teacher, state)
        wanted = Logits(folder, packed_rows(rows, state), model, rule, **{"batch_size": 3, "device": "cpu", **given})
        return teach(wanted, StageRun(state, workers))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Ready to be taught."""
    root = tmp_path_factory.mktemp("logits")
    texts = corpus(40)
    rows = [{**row, "metadata": {"rationale_span": [3, 12]}} if len(row["text"]) > 12 else row for row in texts]
    write_jsonl(root / "source", rows, 1)
    save_tokenizer(root / "tokenizer")
    place = Place(root, save_model(root / "teacher", tokenizer=root / "tokenizer"))
    place.pack("rows")
    return place


def shards(folder: Path) -> list[dict[str, Any]]:
    """All rows of a folder of shards, in order."""
    return [row for path in sorted(folder.glob("shard_*.parquet")) for row in pq.read_table(path).to_pylist()]


def plainly(model: Any, row: Any, temperature: float, k: int) -> Iterator[tuple[list[int], Any, float]]:
    """For each token of one row, by itself: the k likeliest tokens behind it, their log-probabilities, all others."""
    import torch

    count = int(row["attention_mask"].sum())
    with torch.no_grad():
        tokens = torch.from_numpy(row["input_ids"][None, :count].astype(np.int64))
        expected = torch.log_softmax(model(input_ids=tokens).logits[0].double() / temperature, dim=-1)
    for one in expected:
        top, ids = one.topk(k)
        yield ids.tolist(), top.numpy(), 1 - float(top.exp().sum())


@pytest.mark.parametrize(("k", "temperature", "batch_size"), [(8, 1.0, 3), (3, 2.5, 1), (300, 0.7, 64)])
def test_it_is_what_a_plain_pass_over_each_row_says(
    place: Place, tmp_path: Path, k: int, temperature: float, batch_size: int
) -> None:
    """Every token of every row, in order; the top k and the rest are everything there is."""
    made = place.teach(place.root / "rows", tmp_path / "out", LogitRule(k, temperature), batch_size=batch_size)
    rows, found = read_packed(place.root / "rows"), shards(tmp_path / "out")
    assert [one["row"] for one in found] == list(range(len(rows)))
    for row, one in zip(rows, found, strict=True):
        expected = list(plainly(place.model, row, temperature, k))
        assert one["positions"] == list(range(len(expected)))
        for place_of, (ids, logprobs, rest) in enumerate(expected):
            assert np.allclose(one["top_logprobs"][place_of], logprobs, atol=1e-4)
            assert one["rest_mass"][place_of] == pytest.approx(rest, abs=1e-5)
            # Two tokens that are as likely may change places.
            assert len(set(one["top_ids"][place_of]) ^ set(ids)) <= 2
            total = np.exp(np.array(one["top_logprobs"][place_of], dtype=np.float64)).sum()
            assert total + one["rest_mass"][place_of] == pytest.approx(1, abs=1e-5)
    account = made.account
    assert account["written"] == account["tokens"] == sum(len(one["positions"]) for one in found)
    assert account["padding"] == len(rows) * SIZE - account["tokens"] > 0


def test_the_cross_entropy_is_that_of_the_next_tokens(place: Place, tmp_path: Path) -> None:
    """In nats, over all tokens that follow another one in their row; and numbers of storage to look at."""
    import torch

    made = place.teach(place.root / "rows", tmp_path / "out", LogitRule(1))
    surprise = count = 0.0
    for row in read_packed(place.root / "rows"):
        tokens = torch.from_numpy(row["input_ids"][: int(row["attention_mask"].sum())].astype(np.int64))
        with torch.no_grad():
            expected = torch.log_softmax(place.model(input_ids=tokens[None]).logits[0].double(), dim=-1)
        surprise -= float(expected[:-1].gather(1, tokens[1:, None]).sum())
        count += len(tokens) - 1
    assert made.details["cross_entropy"] == pytest.approx(surprise / count, abs=1e-4)
    written = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.parquet"))
    assert made.details["bytes_per_position"] == pytest.approx(written / made.account["written"], abs=0.01)
    assert orjson.loads((tmp_path / "out_stats.json").read_bytes())["bytes"] == written


@pytest.mark.parametrize("shifted", [True, False])
def test_masked_positions_and_those_beyond_are_left_out(place: Place, tmp_path: Path, shifted: bool) -> None:
    """A position is there if the token behind it is to be learnt; all others are in a count."""
    rows = place.pack(f"masked-{shifted}", loss_mask=True, shifted=shifted)
    made = place.teach(rows, tmp_path / "out", LogitRule(4, longest=50))
    found = shards(tmp_path / "out")
    for row, one in zip(read_packed(rows), found, strict=True):
        mask = row["loss_mask"] if shifted else np.append(row["loss_mask"][1:], 0)
        assert one["positions"] == [at for at in np.flatnonzero(mask).tolist() if at < 50]
        plain = list(plainly(place.model, row, 1.0, 4))
        for number, at in enumerate(one["positions"]):
            assert np.allclose(one["top_logprobs"][number], plain[at][1], atol=1e-4)
    account = made.account
    assert account["tokens"] == account["written"] + account["not_learnt"] + account["beyond_longest"]
    assert min(account["written"], account["not_learnt"], account["beyond_longest"]) > 0


@pytest.mark.parametrize(
    ("kind", "given", "sliced"),
    [
        ("Gemma2", {"head_dim": 8, "final_logit_softcapping": 3.0, "tie_word_embeddings": False}, False),
        ("Gemma2", {"head_dim": 8, "final_logit_softcapping": 3000.0, "tie_word_embeddings": False}, False),
        ("OPT", {"ffn_dim": 64, "word_embed_proj_dim": 32}, True),
    ],
)
def test_models_that_do_more_behind_their_head(
    place: Place, tmp_path: Path, kind: str, given: dict[str, Any], sliced: bool
) -> None:
    """A cap on the logits is seen, however small they are, and then the whole model is asked; each model for itself."""
    model = save_model(place.root / kind, kind, tokenizer=place.root / "tokenizer", **given)
    assert Teacher(place.root / kind, kind, device="cpu").sliced is sliced
    place.teach(place.root / "rows", tmp_path / "out", LogitRule(4), teacher=kind)
    for row, one in zip(read_packed(place.root / "rows"), shards(tmp_path / "out"), strict=True):
        expected = np.array([logprobs for _, logprobs, _ in plainly(model, row, 1.0, 4)])
        assert np.allclose(one["top_logprobs"], expected, atol=1e-4)


@pytest.mark.drill
def test_workers_and_small_shards_change_nothing(place: Place, tmp_path: Path) -> None:
    """Rows in the same order with the same numbers; no shard over its limit; done is done; half as exact is smaller."""
    whole = place.teach(place.root / "rows", tmp_path / "whole", LogitRule(8))
    rule, limit = LogitRule(8), 50_000
    made = place.teach(place.root / "rows", tmp_path / "small", rule, 2, shard_bytes=limit, threads=1)
    paths = sorted((tmp_path / "small").glob("shard_*.parquet"))
    assert len(paths) > 5 and all(path.stat().st_size <= limit for path in paths)
    for one, other in zip(shards(tmp_path / "whole"), shards(tmp_path / "small"), strict=True):
        assert one["row"] == other["row"] and one["positions"] == other["positions"]
        assert np.allclose(one["top_logprobs"], other["top_logprobs"], atol=1e-4)
    assert not made.reused
    assert place.teach(place.root / "rows", tmp_path / "small", rule, shard_bytes=limit, batch_size=7).reused
    half = place.teach(place.root / "rows", tmp_path / "half", LogitRule(8, values="float16"))
    assert half.details["bytes_per_position"] < whole.details["bytes_per_position"] - 8
    assert np.allclose(
        shards(tmp_path / "half")[0]["top_logprobs"], shards(tmp_path / "whole")[0]["top_logprobs"], atol=0.01
    )
    found = datasets.load_dataset(
        "parquet", data_dir=str(tmp_path / "small"), split="train", cache_dir=str(tmp_path / "c")
    )
    assert len(found) == made.account["rows"]


_SCRIPT = """
import sys
from pathlib import Path
from hfassets.packed.logits import LogitRule
from hfassets_tests.packed.test_logits import Place
if __name__ == "__main__":
    root, out = Path(sys.argv[1]), Path(sys.argv[2])
    Place(root, None).teach(root / "rows", out, LogitRule(8), shard_bytes=20_000)
"""


def test_killed_it_goes_on_shard_by_shard(place: Place, tmp_path: Path) -> None:
    """SIGKILL when some shards are there: they stay, the others are made."""
    script, out = tmp_path / "script.py", tmp_path / "out"
    script.write_text(_SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen([sys.executable, str(script), str(place.root), str(out)], env=environment)
    deadline = time.monotonic() + 120
    while len(list(out.glob(".parts/part_*/manifest.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    process.wait()
    there = len(list(out.glob(".parts/part_*/manifest.json")))
    assert not (out / ".parts/manifest.json").exists() and not list(out.glob("shard_*")) and there >= 3
    made = place.teach(place.root / "rows", out, LogitRule(8), shard_bytes=20_000)
    assert made.parts_reused == there and made.parts_made > 0
    assert [one["row"] for one in shards(out)] == list(range(len(read_packed(place.root / "rows"))))
    assert not verify_shards(out, close_account).faults


def test_a_teacher_of_other_tokens_is_refused_in_one_line(place: Place, tmp_path: Path) -> None:
    """By its tokenizer, as many tokens or not; by its head; and before anything is made."""
    document = orjson.loads((place.root / "tokenizer/tokenizer.json").read_bytes())
    words = document["model"]["vocab"]
    one, other = list(words)[300:302]
    words[one], words[other] = words[other], words[one]
    save_model(tmp_path / "swapped")
    (tmp_path / "swapped/tokenizer.json").write_bytes(orjson.dumps(document))
    save_model(tmp_path / "small", vocab_size=4000, tokenizer=place.root / "tokenizer")
    save_model(tmp_path / "large", vocab_size=4100)
    save_model(tmp_path / "padded", vocab_size=4100, tokenizer=place.root / "tokenizer")
    save_model(tmp_path / "bare")
    for name, said in (
        ("swapped", r"another vocabulary \(as many, under other ids\) than the rows of .* \(4,096 tokens\)"),
        ("small", "small says 4,000 tokens, the tokenizer of the rows of .* has 4,096"),
        ("large", r"large says 4,100 tokens.*; lay its tokenizer\.json beside it"),
    ):
        with pytest.raises(DataError, match=said) as refused:
            place.teach(place.root / "rows", tmp_path / "out", LogitRule(4), teacher=str(tmp_path / name))
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()
    for name in ("padded", "bare"):
        place.teach(place.root / "rows", tmp_path / name / "out", LogitRule(4), teacher=str(tmp_path / name))


def test_rows_of_somebody_else_are_read(place: Place, tmp_path: Path) -> None:
    """Without a manifest; an id that the teacher does not know is told, and what are no rows."""
    fixed = pa.list_(pa.int32(), 4)
    folder = tmp_path / "rows"
    folder.mkdir()

    def write(ids: list[list[int]], kind: Any = fixed, mask: tuple[int, ...] = (1, 1, 1, 0)) -> None:
        columns = {"input_ids": pa.array(ids, kind), "attention_mask": pa.array([list(mask)] * len(ids), kind)}
        pq.write_table(pa.table(columns), folder / "shard_0000.parquet")

    write([[5, 6, 7, 0], [8, 9, 10, 0]])
    place.teach(folder, tmp_path / "out", LogitRule(4))
    (first, second) = shards(tmp_path / "out")
    assert first["positions"] == second["positions"] == [0, 1, 2]
    write([[5, 6, 7, 0], [8, 9, 5000, 0]])
    with pytest.raises(PartialFailureError, match="token 5000 in it, and teacher knows 4,096"):
        place.teach(folder, tmp_path / "other", LogitRule(4))
    write([[0, 5, 6, 7]], mask=(0, 1, 1, 1))
    with pytest.raises(PartialFailureError, match="padding before or between its tokens"):
        place.teach(folder, tmp_path / "other", LogitRule(4))
    write([[5, 6, 7, 0]], pa.list_(pa.int32()))
    with pytest.raises(DataError, match=r"input_ids is list<.*, not lists of one length of whole numbers"):
        place.teach(folder, tmp_path / "other", LogitRule(4))


def test_what_cannot_be_is_one_line(place: Place, tmp_path: Path) -> None:
    """Weights that could hold programs, no model, no GPU, rows that the teacher has no positions for, bad bytes."""
    save_model(tmp_path / "pickled")
    next((tmp_path / "pickled").glob("*.safetensors")).rename(tmp_path / "pickled/pytorch_model.bin")
    for teacher, said in ((tmp_path / "pickled", r"no \*\.safetensors in it"), (tmp_path, r"no config\.json in it")):
        with pytest.raises(DataError, match=said):
            place.teach(place.root / "rows", tmp_path / "out", LogitRule(4), teacher=str(teacher))
    with pytest.raises(PartialFailureError, match="torch sees no GPU here"):
        place.teach(place.root / "rows", tmp_path / "out", LogitRule(4), device="cuda")
    save_model(tmp_path / "short", "OPT", ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=64)
    with pytest.raises(DataError, match=r"short reads 64 tokens, .* have 96: choose --max-seq-length 64"):
        place.teach(place.root / "rows", tmp_path / "out", LogitRule(4), teacher=str(tmp_path / "short"))
    place.teach(place.root / "rows", tmp_path / "first", LogitRule(4, longest=64), teacher=str(tmp_path / "short"))
    rows = place.pack("damaged")
    shard = rows / "shard_0000.parquet"
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1
    shard.write_bytes(data)
    with pytest.raises(PartialFailureError, match=r"shard_0000\.parquet: cannot be read"):
        place.teach(rows, tmp_path / "bad", LogitRule(4))
    with pytest.raises(IntegrityError, match="SHA-256"):
        verify_shards(rows, lambda _: None).check()


def test_processes_share_the_gpus_out() -> None:
    """One after the other, and from the first one again; the calling process takes the first."""
    assert [gpu_of(f"SpawnProcess-{number}", 2) for number in (1, 2, 3)] == [0, 1, 0]
    assert gpu_of("MainProcess", 4) == 0
    with pytest.raises(UsageError, match="torch sees no GPU"):
        Teacher(Path("nowhere"), "x", device="cuda")
