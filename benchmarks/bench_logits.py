"""Teacher logits: top-k log-probabilities of packed rows beside a plain loop with the same batch size, in one run.

    python -m benchmarks.bench_logits [--rows 100] [--rounds 3]

A random Llama (4 layers of 256, 32,000 tokens to say) on rows of 1,024 tokens, packed (full) and a document each
(of all lengths). Theirs: rows in order, `model(...).logits`, `log_softmax`, `topk`, Parquet. Also said: bytes a
position, for float32 and float16, and the largest process. Aim: not slower.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.bench_mds import run, write_source, write_tokenizer_to

SIZE, TOP_K, BATCH = 1024, 32, 8

PREPARE = """
import shutil, sys
from pathlib import Path
from hfassets.mds.inputs import Cut
from hfassets.mds.origins import Target, from_files
from hfassets.mds.stage import StageRun, make_stage
from hfassets.packed.stage import Packing
from hfassets.packed.teacher import usable_transformers
from hfassets.storage.state import StateDir
from hfassets.tokens.engine import TokenizerSource
root, count = Path(sys.argv[1]), int(sys.argv[2])
transformers = usable_transformers()
import pyarrow.parquet as pq, torch
state, tokenizer = StateDir(root / "state"), root / "tokenizer"
found = from_files(root / "source", Target(root / "all", state, cut=Cut(1 << 40)))
for name, mode in (("full", "concat"), ("lengths", "best_fit")):
    packing = Packing(root / f"all-{name}", found, TokenizerSource.read(tokenizer), tokenizer, 1024, mode)
    make_stage(packing.stage(), StageRun(state))
    table = pq.read_table(root / f"all-{name}" / "shard_0000.parquet")
    if name == "lengths":
        # As many short ones as long ones: what a row a document looks like.
        import numpy as np
        mask = np.asarray(table["attention_mask"].combine_chunks().flatten()).reshape(-1, 1024).copy()
        ids = np.asarray(table["input_ids"].combine_chunks().flatten()).reshape(-1, 1024).copy()
        for row, length in enumerate(np.random.default_rng(0).integers(32, 1025, len(mask))):
            mask[row, length:] = 0
            ids[row, length:] = 0
        import pyarrow as pa
        fixed = lambda one: pa.FixedSizeListArray.from_arrays(pa.array(one.reshape(-1)), 1024)
        table = pa.table({"input_ids": fixed(ids), "attention_mask": fixed(mask)})
    (root / name).mkdir()
    pq.write_table(table.slice(0, count), root / name / "shard_0000.parquet")
torch.manual_seed(0)
config = transformers.LlamaConfig(
    vocab_size=32000, hidden_size=256, intermediate_size=704, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=4, max_position_embeddings=1024)
transformers.LlamaForCausalLM(config).save_pretrained(root / "teacher")
shutil.copyfile(tokenizer / "tokenizer.json", root / "teacher" / "tokenizer.json")
print(0)
"""

OURS = """
import resource, sys, time
from pathlib import Path
from hfassets.mds.stage import StageRun
from hfassets.packed.logits import LogitRule, Logits
from hfassets.packed.source import packed_rows
from hfassets.packed.teach import teach
from hfassets.packed.teacher import usable_transformers
from hfassets.packed.teacher_model import local_teacher
from hfassets.storage.state import StateDir
root, rows, out, values = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
usable_transformers().AutoModelForCausalLM
state = StateDir(out / "state")
began = time.perf_counter()
teacher = local_teacher(root / "teacher", state)
wanted = Logits(out / "out", packed_rows(rows, state), teacher, LogitRule(TOP_K, values=values), BATCH, device="cpu")
made = teach(wanted, StageRun(state))
print(time.perf_counter() - began, made.account["tokens"], made.details["bytes_per_position"],
      resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
""".replace("TOP_K", str(TOP_K)).replace("BATCH", str(BATCH))

THEIRS = """
import resource, sys, time
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq, torch
from hfassets.packed.teacher import usable_transformers
root, rows, out = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
out.mkdir(parents=True)
AutoModelForCausalLM = usable_transformers().AutoModelForCausalLM
began = time.perf_counter()
model = AutoModelForCausalLM.from_pretrained(root / "teacher", dtype=torch.float32).eval()
table = pq.read_table(rows / "shard_0000.parquet", columns=["input_ids", "attention_mask"])
columns = [np.asarray(table[name].combine_chunks().flatten()).reshape(-1, 1024).astype(np.int64)
           for name in table.column_names]
writer, count = None, 0
with torch.inference_mode():
    for start in range(0, len(table), BATCH):
        ids, mask = (torch.from_numpy(one[start:start + BATCH]) for one in columns)
        logprobs = torch.log_softmax(model(input_ids=ids, attention_mask=mask).logits.float(), dim=-1)
        top, which = logprobs.topk(TOP_K, dim=-1)
        rest = (1 - top.exp().sum(-1)).clamp(min=0)
        kept = [int(one.sum()) for one in mask]
        count += sum(kept)
        found = pa.table({
            "top_ids": [one[:n].int().numpy().tolist() for one, n in zip(which, kept)],
            "top_logprobs": pa.array([one[:n].numpy().tolist() for one, n in zip(top, kept)],
                                     pa.list_(pa.list_(pa.float32()))),
            "rest": pa.array([one[:n].numpy() for one, n in zip(rest, kept)], pa.list_(pa.float32()))})
        writer = writer or pq.ParquetWriter(out / "logits.parquet", found.schema)
        writer.write_table(found)
writer.close()
size = (out / "logits.parquet").stat().st_size
print(time.perf_counter() - began, count, size / count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
""".replace("TOP_K", str(TOP_K)).replace("BATCH", str(BATCH))


def same(ours: Path, theirs: Path) -> bool:
    """Whether both say the same of each position, within what float32 can tell."""
    found = pq.read_table(ours / "out" / "shard_0000.parquet", columns=["top_logprobs"])
    expected = pq.read_table(theirs / "logits.parquet", columns=["top_logprobs"])
    one, other = (np.asarray(table["top_logprobs"].combine_chunks().flatten().flatten()) for table in (found, expected))
    return bool(np.allclose(one, other, atol=1e-3))


def main() -> int:
    """Run all, print the table; 1 when an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory(prefix="bench-logits-") as folder:
        root = Path(folder)
        write_tokenizer_to(root / "tokenizer")
        write_source(root / "source", 8)
        run(PREPARE, root, options.rows)
        for name in ("full", "lengths"):
            ratios = []
            for number in range(options.rounds):
                ours = run(OURS, root, root / name, root / f"ours-{name}-{number}", "float32")
                theirs = run(THEIRS, root, root / name, root / f"theirs-{name}-{number}")
                good = good and same(root / f"ours-{name}-{number}", root / f"theirs-{name}-{number}")
                ratios.append((ours[1] / ours[0]) / (theirs[1] / theirs[0]))
            half = run(OURS, root, root / name, root / f"half-{name}", "float16")
            ratio = statistics.median(ratios)
            good = good and ratio >= 1
            print(
                f"{name}: {ours[1] / ours[0]:,.0f} tok/s, plain loop {theirs[1] / theirs[0]:,.0f}: {ratio:.2f} times; "
                f"B/position {ours[2]:.0f} (float16 {half[2]:.0f}), plain {theirs[2]:.0f}; "
                f"memory {ours[3] / 1e6:,.0f} MB, plain {theirs[3] / 1e6:,.0f} MB"
            )
    print(f"the same numbers, not slower: {'yes' if good else 'NO'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
