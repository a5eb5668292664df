"""The catalog's section `staging`: datasets that are prepared once and brought to the nodes that train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, ByteSize, Field, model_validator

from hfassets.catalog.fields import AbsolutePath, Bytes, Config, Model, Name, SlurmFields, Text
from hfassets.catalog.mixes import RepoPin, plain_key
from hfassets.catalog.tokenizers import TokenizerEntry

Split = Literal["train", "validation", "test"]
Share = Annotated[float, Field(ge=0, lt=1)]


class StagingSource(Model):
    """Where rows come from: a `dataset` of this catalog by its name, or a `mirror`, a folder with the files of one.

    `config`: of either; none = its default one.
    """

    dataset: Name | None = None
    mirror: AbsolutePath | None = None
    config: Config | None = None

    @model_validator(mode="after")
    def _one(self) -> StagingSource:
        if (self.dataset is None) == (self.mirror is None):
            given = "both" if self.dataset else "none"
            raise ValueError(f"must have a dataset of this catalog or a mirror, a folder of files; not {given}")
        return self


def _below_one(value: Mapping[Split, float]) -> Mapping[Split, float]:
    if "train" in value or sum(value.values()) >= 1:
        raise ValueError("must be shares of validation and test that leave rows to train on")
    return value


class StagingRecipe(Model):
    """What is made once, and staged. No `tokenizer`: rows as they are, images and audio in them.

    `block_size`: tokens of a row, none = as many as the model takes, at most 512; `column`: of the text; `remainders`:
    what is left of a document goes on in the next block, or is dropped with each 1,000 documents; `splits`: names that
    the source has for ours; `missing`: shares of splits that it lacks, drawn from the training rows by `seed`.
    """

    name: Annotated[Name, AfterValidator(plain_key)]
    source: StagingSource
    tokenizer: TokenizerEntry | None = None
    column: Text | None = None
    block_size: int | None = Field(default=None, ge=1, le=2**24)
    remainders: Literal["carry", "drop"] = "carry"
    add_eos: bool = False
    splits: Mapping[Split, Text] = Field(default_factory=dict)
    missing: Annotated[Mapping[Split, Share], AfterValidator(_below_one)] = Field(default_factory=dict)
    seed: int = 42
    shard_size: Bytes = ByteSize(500 << 20)
    part_size: Bytes = ByteSize(256 << 20)
    workers: int = Field(default=1, ge=1, le=4096)
    slurm: SlurmFields = Field(default_factory=dict)

    @property
    def pins(self) -> list[RepoPin]:
        """The repos whose commits it needs besides its dataset's: its tokenizer's."""
        of = self.tokenizer
        if of is None or of.repo is None:
            return []
        return [RepoPin(f"{self.name}, tokenizer", of.repo, of.revision, "model")]
