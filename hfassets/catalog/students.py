"""What a mix says of its student and its teacher: rows of tokens, and what a teacher thinks of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ByteSize, Field

from hfassets.catalog.fields import Bytes, Model, Revision, Text
from hfassets.catalog.tokenizers import TokenizerEntry
from hfassets.errors import HubError
from hfassets.hub.names import check_repo_id
from hfassets.tokens.rules import LONGEST_ROW


class MixTokens(Model):
    """How the files of a mix become packed Parquet. `loss_mask`: one that leaves rationales out."""

    tokenizer: TokenizerEntry
    max_seq_length: int = Field(default=8192, ge=1, le=LONGEST_ROW)
    packing: Literal["concat", "best_fit"] = "concat"
    labels: Literal["shifted", "unshifted"] = "shifted"
    add_bos: bool = False
    loss_mask: bool = False
    shard_size_mb: int = Field(default=2048, ge=1, le=1 << 20)
    part_size: Bytes = ByteSize(1 << 30)
    workers: int = Field(default=1, ge=1, le=4096)


def _model(value: str) -> str:
    if is_local(value):
        return value
    try:
        return check_repo_id(value)
    except (HubError, ValueError):
        raise ValueError("must be a Hub repo id like owner/name, or a folder that begins with / or ~") from None


def is_local(model: str) -> bool:
    """Whether a model is named by a folder here."""
    return model.startswith(("/", "~"))


class TeacherConfig(Model):
    """What a teacher says of the packed rows: see `hfassets distill logits`. `max_seq_length`: as long as the rows."""

    enabled: bool = False
    model_path: Annotated[Text, AfterValidator(_model)] = "meta-llama/Llama-3.2-3B-Instruct"
    revision: Revision = "main"
    batch_size: int = Field(default=8, ge=1)
    max_seq_length: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    top_k: int = Field(default=32, ge=1, le=1 << 16)
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    values: Literal["float32", "float16"] = "float32"
    save_format: Literal["parquet"] = "parquet"
    shard_size_mb: int = Field(default=256, ge=1, le=1 << 20)

    @property
    def folder(self) -> Path | None:
        """The folder of a model that lies here; None for one of the Hub."""
        return Path(self.model_path).expanduser() if is_local(self.model_path) else None
