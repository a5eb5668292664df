"""Engines: the reference's tokens, whoever makes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from hfassets.demo.hub_corpus import passages
from hfassets.demo.hub_model import write_tokenizer
from hfassets.errors import DataError, UsageError
from hfassets.tokens.engine import Engine, TokenizerSource

pytestmark = pytest.mark.unit


@pytest.fixture(scope="session")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer with an end token and nothing around sequences."""
    folder = tmp_path_factory.mktemp("gpt")
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def bert(gpt: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with [CLS] and [SEP] around sequences."""
    document = orjson.loads((gpt / "tokenizer.json").read_bytes())
    end = max(document["model"]["vocab"].values())
    document["added_tokens"] += [
        {**document["added_tokens"][0], "id": end + 1, "content": "[CLS]"},
        {**document["added_tokens"][0], "id": end + 2, "content": "[SEP]"},
    ]
    folder = tmp_path_factory.mktemp("bert")
    (folder / "tokenizer.json").write_bytes(orjson.dumps(document))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", end + 1), ("[SEP]", end + 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_bytes(orjson.dumps({"sep_token": {"content": "[SEP]"}}))
    return folder


def test_gigatoken_makes_the_references_tokens(gpt: Path) -> None:
    """All passages of the sample corpus; an empty one among them."""
    engine, plain = Engine(TokenizerSource.read(gpt)), Engine(TokenizerSource.read(gpt), "tokenizers")
    assert engine.engine.startswith("gigatoken") and plain.engine.startswith("tokenizers")
    texts = [text.encode() for _, text in passages()[::5]] + [b""]
    found, expected = engine.encode(texts, "uint16"), plain.encode(texts, "uint16")
    assert np.array_equal(found.values, expected.values) and np.array_equal(found.offsets, expected.offsets)
    assert found.values.dtype == np.uint16 and engine.dtype() == "uint16"
    assert engine.decode(found[0]) == texts[0].decode()


def test_any_text_gives_the_references_tokens(gpt: Path) -> None:
    """Whatever stands in it."""
    reference, engine = Tokenizer.from_file(str(gpt / "tokenizer.json")), Engine(TokenizerSource.read(gpt))

    @given(st.lists(st.text(max_size=60), max_size=6))
    def same(texts: list[str]) -> None:
        found = engine.encode([text.encode() for text in texts])
        expected = [one.ids for one in reference.encode_batch(texts, add_special_tokens=False)]
        assert [found[place].tolist() for place in range(len(found))] == expected

    same()
    assert engine.engine.startswith("gigatoken")


def test_specials_are_those_that_the_tokenizer_puts_around(gpt: Path, bert: Path) -> None:
    """None, or one on each side; the end token from the config, else the separator; literal ones in text stay ids."""
    bare, around = Engine(TokenizerSource.read(gpt)).specials, Engine(TokenizerSource.read(bert)).specials
    assert (bare.before, bare.after, bare.eos, bare.ids) == ((), (), 0, {0, 1})
    assert len(around.before) == len(around.after) == 1 and around.eos == around.after[0] and around.count == 2
    assert Engine(TokenizerSource.read(gpt)).encode([b"a<|endoftext|>"])[0].tolist()[-1] == 0


def test_a_prefix_space_only_when_asked_for(gpt: Path) -> None:
    """Then a text begins as a word in the middle of one does; the identity tells the two apart."""
    plain, spaced = TokenizerSource.read(gpt), TokenizerSource.read(gpt, prefix_space=True)
    assert Engine(spaced).encode([b"data"])[0].tolist() == Engine(plain).encode([b" data"])[0].tolist()
    assert Engine(plain).encode([b"data"])[0].tolist() != Engine(plain).encode([b" data"])[0].tolist()
    assert plain.identity != spaced.identity


def test_a_tokenizer_that_gigatoken_cannot_do_falls_back(tmp_path: Path) -> None:
    """WordPiece: the reference makes the tokens, and why is said."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(["some words are here"], trainers.WordPieceTrainer(special_tokens=["[UNK]"]))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    source = TokenizerSource.read(tmp_path)
    engine = Engine(source)
    assert engine.engine.startswith("tokenizers") and engine.fell_back
    assert engine.encode([b"words here"])[0].tolist() == tokenizer.encode("words here").ids
    with pytest.raises(DataError, match="gigatoken cannot be used"):
        Engine(source, "gigatoken")
    with pytest.raises(UsageError, match="use_prefix_space has no meaning"):
        Engine(TokenizerSource.read(tmp_path, prefix_space=True))


class _Panic(BaseException):
    pass


def test_an_engine_that_fails_or_differs_is_left(gpt: Path) -> None:
    """A panic in the middle of the work costs nothing but speed; other tokens than the reference's are never taken."""

    class Failing:
        def encode_batch(self, texts: list[bytes]) -> Any:
            raise _Panic("index out of bounds")

    engine = Engine(TokenizerSource.read(gpt))
    expected = engine.encode([b"some text"])[0].tolist()
    engine._fast = Failing()
    assert engine.encode([b"some text"])[0].tolist() == expected
    assert engine.fell_back == "_Panic: index out of bounds" and engine.engine.startswith("tokenizers")

    class Differing:
        def __init__(self, real: Any) -> None:
            self.real = real

        def encode_batch(self, texts: list[bytes]) -> Any:
            return self.real.encode_batch([text + b"." for text in texts])

    engine = Engine(TokenizerSource.read(gpt))
    engine._fast = Differing(engine._fast)
    engine.check([b"some text"])
    assert engine.fell_back == "it gives other tokens than the reference"


def test_what_is_no_tokenizer_is_said(tmp_path: Path, gpt: Path) -> None:
    """Missing, not JSON, another JSON, refused by the library; ids that do not fit."""
    with pytest.raises(DataError, match=r"no tokenizer\.json there"):
        TokenizerSource.read(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text("{")
    with pytest.raises(DataError, match="not a tokenizer that can be read"):
        TokenizerSource.read(path)
    path.write_text("{}")
    with pytest.raises(DataError, match=r"not a tokenizer\.json"):
        TokenizerSource.read(path)
    path.write_text('{"model": {"type": "none"}}')
    with pytest.raises(DataError, match="not a tokenizer"):
        Engine(TokenizerSource.read(path))
    engine = Engine(TokenizerSource.read(gpt))
    engine.vocabulary = replace(engine.vocabulary, size=70_000)
    assert engine.dtype() == "uint32"
    with pytest.raises(DataError, match="do not fit uint16"):
        engine.dtype("uint16")
    with pytest.raises(UsageError, match="uint16 or uint32"):
        engine.dtype("int8")
    with pytest.raises(DataError, match="not UTF-8"):
        Engine(TokenizerSource.read(gpt), "tokenizers").encode([b"\xff"])
