"""The documents of a conversion's part, as many at a time as are worth tokenizing at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hfassets.distillation.mapping import Span
from hfassets.distillation.registry import load_mapper
from hfassets.mds.documents import Columns, Documents, Reading, documents
from hfassets.mds.inputs import Piece
from hfassets.mds.text_sources import open_piece

_BATCH_BYTES = 4 << 20
"""Text that is tokenized at once: enough for the engine, little for the processor's memory."""


def source_documents(part: Mapping[str, Any], context: Mapping[str, Any], reading: Reading) -> Iterator[Documents]:
    """The documents of a conversion's part, block by block; counts go to `reading`."""
    columns = Columns(*context["columns"])
    mapper: Callable[[Any], Any] | None = None if context["mapper"] is None else load_mapper(context["mapper"])
    for described in part["pieces"]:
        piece = Piece.from_dict(described, context["places"])
        with open_piece(piece, context) as source:
            yield from documents(piece, source, columns, mapper, reading)


def batched(blocks: Iterator[Documents]) -> Iterator[Documents]:
    """The same documents, as many at a time as are worth tokenizing at once."""
    ids: list[bytes] = []
    texts: list[bytes] = []
    spans: list[Span | None] = []
    size = 0
    for block in blocks:
        ids += block.ids
        texts += block.texts
        spans += block.spans
        size += sum(map(len, block.texts))
        if size >= _BATCH_BYTES:
            yield Documents(ids, texts, spans)
            ids, texts, spans, size = [], [], [], 0
    if ids:
        yield Documents(ids, texts, spans)
