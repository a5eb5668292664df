"""The catalog's sections `mds`, `mixtures` and `extensions`: text to rows of tokens, and training sets of them.

Invariant: a recipe that exists has one source, a rule that can be followed for some tokenizer, and a plain name that
its folders carry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, ByteSize, Field, field_validator, model_validator

from hfassets.catalog.fields import (
    AbsolutePath,
    Bytes,
    Config,
    Model,
    Name,
    Repo,
    Revision,
    SlurmFields,
    Text,
    Variable,
)
from hfassets.catalog.mixes import RepoPin, plain_key, plain_mapper
from hfassets.catalog.tokenizers import TokenizerEntry
from hfassets.errors import UsageError
from hfassets.tokens.rules import ChunkRule

_KINDS = ("repo", "files", "urls", "mds", "c4", "distillation")


class ValidationSection(Model):
    """Which documents are kept for validation: by a hash of their text, one rule for the catalog."""

    seed: int = 0
    fraction: float = Field(default=0.0, ge=0, lt=1)


class RecipeSource(Model):
    """Where the text comes from: a dataset of the Hub, files here, a list of URLs (those that contain `section`),
    an MDS here, a shard set of this catalog's `c4`, or a file `mix/category/source` of its `distillation`.
    """

    repo: Repo | None = None
    config: Config | None = None
    split: Text = "train"
    revision: Revision = "main"
    token_env: Variable | None = None
    files: AbsolutePath | None = None
    urls: AbsolutePath | None = None
    section: Text | None = None
    mds: AbsolutePath | None = None
    c4: Name | None = None
    distillation: Text | None = None

    @model_validator(mode="after")
    def _one(self) -> RecipeSource:
        given = [name for name in _KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"must have one of {', '.join(_KINDS)}, not {' and '.join(given) or 'none'}")
        return self

    @property
    def kind(self) -> str:
        """Which of them it is."""
        return next(name for name in _KINDS if getattr(self, name) is not None)


class RecipeColumns(Model):
    """Columns of text and id; missing ids are made."""

    text: Text = "text"
    id: Text = "id"


class RecipeTokenizer(TokenizerEntry):
    """A tokenizer, and what its tokens are stored as."""

    dtype: Literal["uint16", "uint32"] | None = None


class RecipeChunks(Model):
    """As `ChunkRule` has it."""

    size: int = Field(default=1024, ge=1, le=2**24)
    mode: Literal["per_document", "concat", "best_fit"] = "per_document"
    minimum: int = Field(default=0, ge=0)
    skip: int = Field(default=0, ge=0)
    backfill: bool = False
    duplicates: bool = True
    add_eos: bool = False
    enforce_zeroth: bool = False

    @model_validator(mode="after")
    def _followable(self) -> RecipeChunks:
        try:
            self.rule.capacity(0)
        except UsageError as error:
            raise ValueError(f"cannot be followed: {error}") from None
        return self

    @property
    def rule(self) -> ChunkRule:
        """The rule."""
        return ChunkRule(**self.model_dump())


class RecipeSample(Model):
    """How many tokens of the training side, drawn by `seed`; none = all."""

    tokens: int | None = Field(default=None, ge=1)
    seed: int = 42


class Recipe(Model):
    """One MDS dataset. `validation`: its share, at most the catalog's fraction. `part_size`: of input, the unit of
    resuming. `compression`: of the text stage.
    """

    name: Annotated[Name, AfterValidator(plain_key)]
    source: RecipeSource
    columns: RecipeColumns = Field(default_factory=RecipeColumns)
    mapper: Annotated[Text, AfterValidator(plain_mapper)] | None = None
    tokenizer: RecipeTokenizer
    chunks: RecipeChunks = Field(default_factory=RecipeChunks)
    sample: RecipeSample = Field(default_factory=RecipeSample)
    validation: float | None = Field(default=None, ge=0, lt=1)
    part_size: Bytes = ByteSize(1 << 30)
    compression: Text | None = "zstd:1"
    workers: int = Field(default=1, ge=1, le=4096)
    slurm: SlurmFields = Field(default_factory=dict)

    @field_validator("compression")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        from hfassets.mds.writer import zstd_level

        if value == "none":
            return None
        try:
            zstd_level(value)
        except UsageError as error:
            raise ValueError(str(error)) from None
        return value

    @property
    def pins(self) -> list[RepoPin]:
        """The repos whose commits it needs: its source's and its tokenizer's."""
        found = []
        if self.source.repo is not None:
            of = self.source
            found.append(RepoPin(f"{self.name}, source", self.source.repo, of.revision, token_env=of.token_env))
        if self.tokenizer.repo is not None:
            found.append(RepoPin(f"{self.name}, tokenizer", self.tokenizer.repo, self.tokenizer.revision, "model"))
        return found


class _Shares(Model):
    name: Annotated[Name, AfterValidator(plain_key)]
    seed: int = 42
    workers: int = Field(default=1, ge=1, le=4096)
    slurm: SlurmFields = Field(default_factory=dict)


def _whole(value: Mapping[str, float]) -> Mapping[str, float]:
    if not value or min(value.values()) <= 0 or abs(sum(value.values()) - 1) > 1e-6:
        raise ValueError(f"must be shares above 0 that add up to 1, not {sum(value.values()):g}")
    return value


class Mixture(_Shares):
    """A training set of recipes by share; `tokens`: in all, none = as many as without anything twice."""

    members: Annotated[Mapping[Name, float], AfterValidator(_whole)]
    tokens: int | None = Field(default=None, ge=1)


class ExtensionRecipe(_Shares):
    """Rows of a longer context. `domains`: recipes by share; `buckets`: least length of documents by share; `tokens`:
    the budget, of documents.
    """

    domains: Annotated[Mapping[Name, float], AfterValidator(_whole)]
    tokens: int = Field(ge=1)
    chunks: RecipeChunks
    buckets: Annotated[Mapping[int, float], AfterValidator(_whole)] | None = None
