"""Text to tokens: gigatoken where it gives what the reference tokenizer gives, else the reference itself.

Invariant: tokens are those of the `tokenizers` library for the same tokenizer.json, without special tokens around them
and without truncation; which engine made them is recorded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
from tokenizers import Tokenizer

from hfassets.errors import DataError, UsageError
from hfassets.tokens.chunking import Specials
from hfassets.tokens.ragged import Ragged
from hfassets.tokens.vocabulary import Vocabulary

EngineName = Literal["auto", "gigatoken", "tokenizers"]
TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILES = ("tokenizer_config.json", "special_tokens_map.json")
# Text that tokenizers have been seen to differ on: spaces of all kinds, digits, scripts, marks, control characters.
_PROBES = (
    *("", " ", "  ", "\n", "\r\n\r\n", " \t \n", "a", " a", "a ", "  a  b   c", "Hello, world!", "don't we've I'LL"),
    *("0123456789 3.14159 1,000,000 ١٢٣ Ⅷ ½", "CamelCase snake_case kebab-case", "https://a.b/c?d=e&f#g", "a@b.cd"),
    *("café naïve coöperate", "cafe\u0301 n\u0303", "日本語のテキスト。中文，标点！", "한국어 띄어쓰기"),
    *("العربية עברית", "\U0001f409\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f", "x̷͓̃y̸z̶"),
    *("\u00a0\u2003\u200b\u2028\u2029\ufeff\u0085x", "\x00\x01\x07\x7f", "ſtrange ﬁ ǆ İ ı ß ẞ"),
    *("!!!???...;;;---___===+++***", "def f(x):\n    return x  # \t\n\n\n", "\\n \\u0041 %20 &amp; <b>"),
    *("ਪੰਜਾਬੀ తెలుగు ไทย", "a" * 300, " " * 130, "ab" * 150 + "\n" * 40),
)


@dataclass(frozen=True)
class TokenizerSource:
    """A tokenizer.json and what stands beside it. `name`: for people and folders.

    `prefix_space`: put a space in front of each document, whatever the file says; False = as the file says.
    """

    name: str
    document: Mapping[str, Any]
    config: Mapping[str, Any]
    prefix_space: bool = False

    @classmethod
    def read(cls, path: Path, *, name: str | None = None, prefix_space: bool = False) -> TokenizerSource:
        """From a tokenizer.json, or a folder that has one; raises DataError for what is none."""
        file = path / TOKENIZER_FILE if path.is_dir() else path
        config: dict[str, Any] = {}
        try:
            document = orjson.loads(file.read_bytes())
            for one in CONFIG_FILES:
                beside = file.with_name(one)
                if beside.exists():
                    config = {**orjson.loads(beside.read_bytes()), **config}
        except FileNotFoundError:
            raise DataError(f"{path}: no {TOKENIZER_FILE} there") from None
        except ValueError as error:
            raise DataError(f"{path}: not a tokenizer that can be read: {error}") from None
        if not isinstance(document, dict) or "model" not in document:
            raise DataError(f"{file}: not a tokenizer.json of the tokenizers library")
        folder = file.parent.name if file.name == TOKENIZER_FILE else file.stem
        return cls(name or folder, document, config, prefix_space)

    @property
    def identity(self) -> str:
        """SHA-256 of everything here that decides about tokens."""
        used = {key: _content(self.config.get(key)) for key in ("eos_token", "sep_token")}
        data = orjson.dumps([self._plain(), used], option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(data).hexdigest()

    def _plain(self) -> dict[str, Any]:
        """The document without truncation and padding, with the prefix space if that is asked for."""
        document = {**self.document, "truncation": None, "padding": None}
        if self.prefix_space:
            document["pre_tokenizer"] = _with_prefix_space(document.get("pre_tokenizer"), self.name)
        return document

    def json(self) -> bytes:
        """What both engines load."""
        return orjson.dumps(self._plain())


class Engine:
    """A tokenizer that was loaded. `engine`: which library makes the tokens; `fell_back`: why it is not gigatoken.

    Raises DataError for a tokenizer that the libraries refuse, or that `wanted` cannot do.
    """

    def __init__(self, source: TokenizerSource, wanted: EngineName = "auto") -> None:
        data = source.json()
        try:
            self._reference = Tokenizer.from_buffer(data)
        except Exception as error:
            # The library raises plain Exception for whatever is wrong with the file.
            raise DataError(f"{source.name}: not a tokenizer.json that can be read: {error}") from error
        self.source = source
        self.vocabulary = Vocabulary.of(self._reference.get_vocab(with_added_tokens=True))
        self.specials = self._find_specials()
        self._fast: Any = None
        self.fell_back: str | None = None
        if wanted != "tokenizers":
            self.fell_back = self._try_gigatoken(data)
            if self.fell_back is not None and wanted == "gigatoken":
                raise DataError(f"{source.name}: gigatoken cannot be used: {self.fell_back}")

    @property
    def vocab_size(self) -> int:
        """The largest id + 1."""
        return self.vocabulary.size

    @property
    def engine(self) -> str:
        """Name and version of the library that makes the tokens."""
        name = "tokenizers" if self._fast is None else "gigatoken"
        return f"{name} {version(name)}"

    def dtype(self, wanted: str | None = None) -> str:
        """uint16 where all ids fit, else uint32; or what is wanted, if they fit (DataError otherwise)."""
        smallest = "uint16" if self.vocab_size <= 1 << 16 else "uint32"
        if wanted is None:
            return smallest
        if wanted not in ("uint16", "uint32"):
            raise UsageError(f"tokens as {wanted!r}: uint16 or uint32")
        if wanted == "uint16" and smallest == "uint32":
            raise DataError(f"{self.source.name} has {self.vocab_size:,} tokens: they do not fit uint16, use uint32")
        return wanted

    def encode(self, texts: Sequence[bytes], dtype: str = "uint32") -> Ragged:
        """The tokens of texts in UTF-8; raises DataError for bytes that are not."""
        if self._fast is not None:
            try:
                return _ragged(self._fast.encode_batch(list(texts)), dtype)
            except BaseException as error:
                # A panic in Rust is no Exception.
                if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
                    raise
                self._fast, self.fell_back = None, _said(error)
        try:
            decoded = [text.decode() for text in texts]
        except UnicodeDecodeError as error:
            raise DataError(f"a text is not UTF-8: {error}") from None
        return self._plainly(decoded, dtype)

    def encode_with_offsets(self, texts: Sequence[bytes], dtype: str = "uint32") -> tuple[Ragged, list[Any]]:
        """The reference's tokens of texts, and where each stands in characters, int64 of shape (tokens, 2)."""
        found = self._untrimmed.encode_batch([text.decode() for text in texts], add_special_tokens=False)
        offsets = [np.array(one.offsets, dtype=np.int64).reshape(-1, 2) for one in found]
        return Ragged.of([one.ids for one in found], dtype), offsets

    def decode(self, tokens: Any) -> str:
        """The text of tokens, special ones included."""
        text: str = self._reference.decode([int(one) for one in tokens], skip_special_tokens=False)
        return text

    def check(self, texts: Sequence[bytes]) -> None:
        """Compare the engine with the reference on texts of the data at hand; fall back when they differ."""
        if self._fast is not None:
            self.fell_back = self._difference([text.decode(errors="replace") for text in texts])

    @cached_property
    def _untrimmed(self) -> Any:
        """The reference, made to count the spaces of a token as its characters."""
        return Tokenizer.from_buffer(orjson.dumps(_without_trimming(orjson.loads(self.source.json()))))

    def _plainly(self, texts: Sequence[str], dtype: str) -> Ragged:
        encoded = self._reference.encode_batch_fast(list(texts), add_special_tokens=False)
        return Ragged.of([one.ids for one in encoded], dtype)

    def _find_specials(self) -> Specials:
        """What stands around one sequence, found out by encoding one."""
        probe = "a"
        bare = self._reference.encode(probe, add_special_tokens=False).ids
        whole = self._reference.encode(probe, add_special_tokens=True).ids
        for start in range(len(whole) - len(bare) + 1):
            if whole[start : start + len(bare)] == bare:
                break
        else:
            raise DataError(f"{self.source.name}: its special tokens change what stands between them; not supported")
        added = self._reference.get_added_tokens_decoder()
        ids = frozenset(number for number, token in added.items() if token.special)
        return Specials(tuple(whole[:start]), tuple(whole[start + len(bare) :]), self._find_eos(), ids)

    def special_id(self, key: str) -> int | None:
        """The id of the token that the config names by a key, like `bos_token`; None when it names none."""
        content = _content(self.source.config.get(key))
        found: int | None = None if content is None else self._reference.token_to_id(content)
        return found

    def _find_eos(self) -> int | None:
        for key in ("eos_token", "sep_token"):
            if _content(self.source.config.get(key)) is not None:
                return self.special_id(key)
        return None

    def _try_gigatoken(self, data: bytes) -> str | None:
        """None when it can be used, else why not."""
        try:
            import gigatoken

            self._fast = gigatoken.Tokenizer.from_json(data)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
                raise
            return _said(error)
        specials = [token.content for token in self._reference.get_added_tokens_decoder().values()]
        around = [f"x{token}y {token} {token}" for token in specials[:64]]
        return self._difference([*_PROBES, *around])

    def _difference(self, probes: Sequence[str]) -> str | None:
        """Compare on probes; without the fast engine, and with why, when they differ."""
        expected = self._plainly(probes, "uint32")
        try:
            found = _ragged(self._fast.encode_batch([probe.encode() for probe in probes]), "uint32")
            same = np.array_equal(found.offsets, expected.offsets) and np.array_equal(found.values, expected.values)
            why = None if same else "it gives other tokens than the reference"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
                raise
            why = _said(error)
        if why is not None:
            self._fast = None
        return why


def _without_trimming(document: Any) -> Any:
    if isinstance(document, list):
        return [_without_trimming(one) for one in document]
    if not isinstance(document, dict):
        return document
    # The model is all words: nothing is trimmed there, and it is large.
    return {
        key: False if key == "trim_offsets" else one if key == "model" else _without_trimming(one)
        for key, one in document.items()
    }


def _ragged(encoded: Any, dtype: str) -> Ragged:
    layout = encoded.layout
    offsets = np.asarray(layout.offsets.data, dtype=np.int64)
    values = np.asarray(layout.content.data)[offsets[0] : offsets[-1]]
    return Ragged(values.astype(dtype, copy=False), offsets - offsets[0])


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _content(token: Any) -> str | None:
    """A special token as configs write it: a text, or an object with its content."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def _with_prefix_space(pre_tokenizer: Any, name: str) -> Any:
    """A pre-tokenizer that puts a space in front; raises UsageError for kinds where that means nothing."""
    kind = pre_tokenizer.get("type") if isinstance(pre_tokenizer, dict) else None
    if kind == "ByteLevel":
        return {**pre_tokenizer, "add_prefix_space": True}
    if kind == "Metaspace":
        return {**pre_tokenizer, "prepend_scheme": "always"}
    if kind == "Sequence":
        inner = list(pre_tokenizer["pretokenizers"])
        for place, one in enumerate(inner):
            if one.get("type") in ("ByteLevel", "Metaspace"):
                inner[place] = _with_prefix_space(one, name)
                return {**pre_tokenizer, "pretokenizers": inner}
    raise UsageError(f"{name}: use_prefix_space has no meaning for this tokenizer's {kind or 'missing'} pre-tokenizer")
