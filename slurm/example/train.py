#!/usr/bin/env python3
"""A small language model, trained on staged data: a whole job to begin from.

    train.py --data $SLURM_TMPDIR/data                        what `hfassets stage RECIPE` brought there
    train.py --data $SLURM_TMPDIR/data --streaming            an MDS that it brought there, read by StreamingDataset

One process a task of SLURM, over all nodes of the job; alone, without SLURM. On a GPU where there is one. Rank 0 has
the progress bar, and each prints its result as one line of JSON. Needs torch: pip install 'hfassets[streaming]'.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler
from tqdm import tqdm

IGNORED = -100
"""The label that cross entropy passes over."""


class Model(nn.Module):
    """A causal transformer; tokens in, int64 of shape (rows, length), logits out, of shape (rows, length, words)."""

    def __init__(self, words: int, length: int, width: int, layers: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.places = nn.Embedding(length, width)
        layer = nn.TransformerEncoderLayer(
            width, max(1, width // 64), 4 * width, 0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, words, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        length = tokens.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=tokens.device)
        hidden = self.words(tokens) + self.places(torch.arange(length, device=tokens.device))
        logits: torch.Tensor = self.head(self.layers(hidden, mask=mask, is_causal=True))
        return logits


def main() -> int:
    """Train, and say what came of it."""
    given = arguments()
    rank, ranks = join()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.manual_seed(given.seed)
    train, words = (streamed if given.streaming else saved)(given, "train")
    model: nn.Module = Model(words, given.length, given.width, given.layers).to(device)
    if ranks > 1:
        model = DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=given.lr)
    losses: list[float] = []
    tokens, began = 0, time.monotonic()
    bar = tqdm(total=given.steps, desc="train", unit="step", disable=rank > 0, file=sys.stderr, mininterval=1.0)
    for batch in over_and_over(train):
        loss = loss_of(model, batch.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        tokens += batch.numel()
        bar.update()
        bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
        if len(losses) == given.steps:
            break
    bar.close()
    seconds = time.monotonic() - began
    told = {
        "rank": rank,
        "ranks": ranks,
        "node": os.environ.get("SLURMD_NODENAME", ""),
        "device": str(device),
        "steps": len(losses),
        "first_loss": round(losses[0], 4),
        "last_loss": round(losses[-1], 4),
        "validation_loss": None if given.streaming else validation_loss(model, given, device),
        "tokens_per_second": round(tokens / seconds),
        "data": str(given.data),
    }
    # One write: lines of several ranks share a log.
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
    if ranks > 1:
        torch.distributed.destroy_process_group()
    return 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the staged folder")
    parser.add_argument("--streaming", action="store_true", help="it is an MDS, read by StreamingDataset")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=8, help="rows of each process")
    parser.add_argument("--length", type=int, default=512, help="tokens of a row that are used")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vocab-size", type=int, help="[default: as the data's manifest has it]")
    return parser.parse_args()


def join() -> tuple[int, int]:
    """This process's rank and the number of all; the group is made where there are several."""
    environment = os.environ
    names = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}
    for name, of_slurm in names.items():
        environment.setdefault(name, environment.get(of_slurm) or ("1" if name == "WORLD_SIZE" else "0"))
    # What StreamingDataset asks for: the processes of this node.
    environment.setdefault("LOCAL_WORLD_SIZE", environment.get("SLURM_NTASKS_PER_NODE") or "1")
    # The node that srun was called on takes part, and its address needs no name service.
    environment.setdefault("MASTER_ADDR", environment.get("SLURM_LAUNCH_NODE_IPADDR") or "127.0.0.1")
    environment.setdefault("MASTER_PORT", str(20_000 + int(environment.get("SLURM_JOB_ID") or 0) % 20_000))
    rank, ranks = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    if ranks > 1:
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return rank, ranks


def saved(given: argparse.Namespace, split: str) -> tuple[DataLoader[Any], int]:
    """Batches of a split of a `save_to_disk` folder, and the number of words."""
    from datasets import load_from_disk

    rows = load_from_disk(str(given.data))[split].select_columns(["input_ids"]).with_format("numpy")
    sampler = DistributedSampler(rows, seed=given.seed) if torch.distributed.is_initialized() else None
    loader: DataLoader[Any] = DataLoader(
        rows,
        batch_size=given.batch_size,
        sampler=sampler,
        shuffle=sampler is None and split == "train",
        collate_fn=lambda batch: padded([row["input_ids"] for row in batch], given.length),
    )
    return loader, words_of(given)


def streamed(given: argparse.Namespace, split: str) -> tuple[Any, int]:
    """The same of an MDS with the sides train and validation, or of one without sides."""
    dataset = streaming_library().StreamingDataset
    folder = given.data / split if (given.data / split).is_dir() else given.data
    rows = dataset(local=str(folder), shuffle=True, shuffle_seed=given.seed, batch_size=given.batch_size)
    loader: DataLoader[Any] = DataLoader(
        rows,
        batch_size=given.batch_size,
        collate_fn=lambda batch: padded([row["input_ids"] for row in batch], given.length),
    )
    return loader, words_of(given)


def streaming_library() -> Any:
    """mosaicml-streaming. The torchvision that it imports may ask for operators that a CPU build of torch lacks."""
    with suppress(ImportError, RuntimeError):
        return importlib.import_module("streaming")
    for name in [one for one in sys.modules if one.partition(".")[0] in ("streaming", "torchvision")]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    module = importlib.import_module("streaming")
    module._operators = library  # type: ignore[attr-defined]
    return module


def words_of(given: argparse.Namespace) -> int:
    """The size of the vocabulary, of the data's manifest."""
    if given.vocab_size:
        return int(given.vocab_size)
    with suppress(FileNotFoundError, KeyError):
        return int(json.loads((given.data / "manifest.json").read_bytes())["details"]["vocab_size"])
    raise SystemExit(f"error: {given.data} says nothing of its vocabulary; give --vocab-size")


def padded(rows: list[Any], length: int) -> torch.Tensor:
    """Rows as one tensor, int64, as long as the longest; what is missing is IGNORED."""
    cut = [torch.as_tensor(row[:length].astype("int64")) for row in rows]
    return nn.utils.rnn.pad_sequence(cut, batch_first=True, padding_value=IGNORED)


def over_and_over(loader: Any) -> Iterator[torch.Tensor]:
    """Batches, one epoch after the other."""
    epoch = 0
    while True:
        if isinstance(getattr(loader, "sampler", None), DistributedSampler):
            loader.sampler.set_epoch(epoch)
        epoch += 1
        yield from loader


def loss_of(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each token after those before it."""
    logits = model(batch.clamp(min=0)[:, :-1])
    return nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), ignore_index=IGNORED)


def validation_loss(model: nn.Module, given: argparse.Namespace, device: torch.device) -> float | None:
    """The mean over a few batches; None without such a split."""
    if not (given.data / "validation").is_dir():
        return None
    loader, _ = saved(given, "validation")
    model.eval()
    with torch.no_grad():
        found = [loss_of(model, batch.to(device)).item() for _, batch in zip(range(10), loader, strict=False)]
    return round(sum(found) / len(found), 4) if found else None


if __name__ == "__main__":
    sys.exit(main())
