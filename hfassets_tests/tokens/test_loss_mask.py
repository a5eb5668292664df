"""Which tokens are learnt, against the characters that they stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors

from hfassets.demo.hub_model import write_tokenizer
from hfassets.tokens.engine import Engine, TokenizerSource
from hfassets.tokens.loss_mask import encode_masked

TEXTS = [
    "user: 2 + 2?\nassistant: Two and two is 4.\n#### 4",
    "",
    "naïve café 日本語 \U0001f409\U0001f468\u200d\U0001f469 end",
    "plain",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer."""
    root = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(root)
    return root


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    """The fast one, where it can be had."""
    return Engine(TokenizerSource.read(folder))


@given(st.lists(st.tuples(st.sampled_from(TEXTS), st.floats(0, 1), st.floats(0, 1)), max_size=6))
def test_no_token_of_the_span_is_learnt_and_every_other_one_is(
    engine: Engine, folder: Path, drawn: list[tuple[str, float, float]]
) -> None:
    """And the tokens are those that they are without a mask, in the same order."""
    texts = [text for text, _, _ in drawn]
    spans = []
    for text, one, other in drawn:
        begin, end = sorted((int(one * len(text)), int(other * len(text))))
        spans.append((begin, end) if begin < end else None)
    data = [text.encode() for text in texts]
    tokens, learnt = encode_masked(engine, data, spans, "uint32")
    plain = engine.encode(data)
    assert np.array_equal(tokens.values, plain.values) and np.array_equal(tokens.offsets, plain.offsets)
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    reference.post_processor = processors.ByteLevel(trim_offsets=False)
    expected = []
    for text, span in zip(texts, spans, strict=True):
        for begin, end in reference.encode(text, add_special_tokens=False).offsets:
            inside = span is not None and any(span[0] <= place < span[1] for place in range(begin, end))
            expected.append(int(not inside))
    assert learnt.values.tolist() == expected
