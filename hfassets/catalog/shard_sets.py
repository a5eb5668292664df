"""The catalog's section `c4`: which rows, in what shape, to where."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from hfassets.c4.request import DEFAULT_CONFIG, DEFAULT_REPO, DEFAULT_SAMPLES, DEFAULT_SEED
from hfassets.catalog.fields import (
    AbsolutePath,
    Config,
    Model,
    Name,
    Repo,
    Revision,
    SlurmFields,
    Text,
    Variable,
    absolute,
)
from hfassets.errors import UsageError
from hfassets.storage.s3 import S3Prefix, S3Settings
from hfassets.storage.state import file_name


def _destination(value: Any, info: ValidationInfo) -> Any:
    """An address in S3 as it stands, or an absolute path."""
    if not isinstance(value, str) or "://" not in value:
        return str(absolute(value, info)) if isinstance(value, str) else value
    try:
        return str(S3Prefix.parse(value, S3Settings()))
    except UsageError as error:
        raise ValueError(f"must be a folder or an address like s3://bucket/prefix: {error}") from None


def _streaming(value: Any) -> Any:
    return None if value == "auto" else value


def _split(value: str) -> str:
    if file_name(value) != value:
        raise ValueError("must be the name of a split like train or validation")
    return value


class ShardSet(Model):
    """Rows of a split as JSONL parts. No `config` = en for allenai/c4, else the repo's default.

    `destination`: a folder, or s3://bucket/prefix; by default `<output_root>/c4/<name>`, where the local copies of a
    set in S3 stay if `keep_local`. `shuffle` takes a sample over the split in place of its first rows, by `seed`.
    `streaming` auto: up to 10,000 samples. `cache_dir`: another Hub cache than the catalog's.
    """

    name: Name
    repo: Repo = DEFAULT_REPO
    config: Config | None = None
    revision: Revision = "main"
    split: Annotated[Text, AfterValidator(_split)] = "train"
    num_samples: int = Field(default=DEFAULT_SAMPLES, ge=1, le=10**15)
    max_lines_per_file: int | None = Field(default=None, ge=1, le=10**15)
    destination: Annotated[str, BeforeValidator(_destination)] | None = None
    keep_local: bool = False
    shuffle: bool = False
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1)
    streaming: Annotated[bool | None, BeforeValidator(_streaming)] = None
    compression: Literal["none", "gzip", "zstd"] = "none"
    on_shortfall: Literal["fail", "report"] = "fail"
    workers: int = Field(default=1, ge=1, le=4096)
    cache_dir: AbsolutePath | None = None
    token_env: Variable | None = None
    slurm: SlurmFields = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        name = f"c4_{data.get('split', 'train')}_{data.get('num_samples', DEFAULT_SAMPLES)}"
        config = {"config": DEFAULT_CONFIG} if data.get("repo", DEFAULT_REPO) == DEFAULT_REPO else {}
        return {"name": name, **config, **data}

    @property
    def repo_type(self) -> str:
        """As the Hub has it."""
        return "dataset"

    @property
    def sample_seed(self) -> int | None:
        """The seed of the sample, None for the first rows."""
        return (DEFAULT_SEED if self.seed is None else self.seed) if self.shuffle or self.seed is not None else None

    def place(self, output_root: Path) -> str:
        """Where the set goes."""
        return self.destination or str(self.local(output_root))

    def local(self, output_root: Path) -> Path:
        """The folder of the set, or of its local copies."""
        if self.destination is not None and "://" not in self.destination:
            return Path(self.destination)
        return output_root / "c4" / file_name(self.name)
