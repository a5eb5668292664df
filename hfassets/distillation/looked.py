"""What was looked at elsewhere, as few large pieces: the lines of a block, but for their numbers.

Invariant: lines that are taken from here are byte for byte those that `Lines.of` makes of one candidate at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import orjson

from hfassets.distillation.candidates import Candidate, Outcome, Refused
from hfassets.distillation.digests import WIDTH
from hfassets.parts.arena import growing

TEXT = b'{"text":'
_DIGITS = 8
"""Of an id; from 10^8 rows on ids are longer."""
_POWERS = 10 ** np.arange(_DIGITS - 1, -1, -1)
_ZEROS = b"0" * _DIGITS


@dataclass(frozen=True, slots=True)
class Lines:
    """What the lines of a source have in common."""

    source: str
    category: str

    @property
    def before(self) -> bytes:
        """Between a line's text and its number."""
        return b',"id":"%b_' % self.source.encode()

    @property
    def behind(self) -> bytes:
        """Between a line's number and its metadata."""
        return b'","source":%b,"category":%b,"metadata":' % (orjson.dumps(self.source), orjson.dumps(self.category))


class Looked(NamedTuple):
    """The outcomes of a block's rows. Of its k candidates, in their order, int64 each:

    `lines`: their bytes; `ends`: where each one's line ends; `numbers`: where the eight zeros stand that its number
    replaces; `places`: which row of the block it is; `characters`: of its text; `folded`: 1 where runs of newlines were
    made shorter. `digests`: 16 bytes each. `refused`: place and outcome of the others; a blank line is in neither.
    """

    rows: int
    lines: Any
    ends: Any
    numbers: Any
    places: Any
    characters: Any
    folded: Any
    digests: bytes
    refused: Sequence[tuple[int, Refused]]


def pack(portions: Iterable[Sequence[Outcome]], lines: Lines) -> Looked:
    """The outcomes of a block, some at a time, packed; the prompts of candidates are not kept."""
    before, behind = lines.before, _ZEROS + lines.behind
    joined = growing()
    found: list[tuple[int, int, int, int, bool]] = []
    digests: list[bytes] = []
    refused: list[tuple[int, Refused]] = []
    count = 0
    for outcomes in portions:
        pieces: list[bytes] = []
        for place, one in enumerate(outcomes, count):
            if type(one) is Candidate:
                text, metadata, digest, characters, _, folded = one
                pieces += (TEXT, text, before, behind, metadata, b"}\n")
                found.append((place, len(text), len(metadata), characters, folded))
                digests.append(digest)
            elif isinstance(one, Refused):
                refused.append((place, one))
        # While they are near the processor.
        joined.write(b"".join(pieces))
        count += len(outcomes)
    places, texts, metadatas, characters_, folds = np.array(found, np.int64).reshape(-1, 5).T
    ends = np.cumsum(texts + metadatas + (len(TEXT) + len(before) + len(behind) + len(b"}\n")))
    numbers = ends - metadatas - (len(b"}\n") + len(behind))
    data = joined.taken()
    return Looked(count, data, ends, numbers, places, characters_, folds, b"".join(digests), refused)


def digests_of(looked: Looked) -> list[bytes]:
    """The digests of the candidates."""
    found: list[bytes] = np.frombuffer(looked.digests, f"V{WIDTH}").tolist()
    return found


def numbered(looked: Looked, kept: Any, first: int) -> memoryview | bytes:
    """The lines of those candidates that `kept`, shape (k,), is true of, their numbers from `first` on.

    `looked` is used up: its lines may be changed.
    """
    view, ends, numbers = memoryview(looked.lines), looked.ends, looked.numbers
    count = int(np.count_nonzero(kept))
    starts = np.concatenate(([0], ends[:-1]))
    if first + count > 10**_DIGITS:
        return b"".join(
            b"%b%08d%b" % (bytes(view[start:number]), first + place, bytes(view[number + _DIGITS : end]))
            for place, (start, number, end) in enumerate(
                zip(starts[kept].tolist(), numbers[kept].tolist(), ends[kept].tolist(), strict=True)
            )
        )
    shown = np.arange(first, first + count)[:, None] // _POWERS % 10 + ord("0")
    looked.lines[numbers[kept][:, None] + np.arange(_DIGITS)] = shown
    if count == len(kept):
        return view
    edges = np.flatnonzero(np.diff(np.concatenate(([False], kept, [False])).astype(np.int8)))
    runs = zip(starts[edges[::2]].tolist(), ends[edges[1::2] - 1].tolist(), strict=True)
    return b"".join([view[start:end] for start, end in runs])
