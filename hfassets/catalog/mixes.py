"""The catalog's section `distillation`: mixes in the form of the old YAML, laid over the built-in one.

Invariant: a `Mix` that exists is whole: every source has a repo, a mapper, a category that has a share, and filters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, field_validator, model_validator

from hfassets.catalog.fields import (
    AbsolutePath,
    Endpoint,
    Model,
    Name,
    Repo,
    Revision,
    SlurmFields,
    Text,
    Variable,
)
from hfassets.catalog.students import MixTokens, TeacherConfig
from hfassets.distillation.builtin import built_in, merged, moved

DEFAULT_TOKENIZER = "EleutherAI/pythia-70m"
DEFAULT_NAME = "distillation"
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def _ratio(value: Any) -> Any:
    if isinstance(value, Fraction):
        return value
    try:
        found = Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise ValueError("must be a share like 0.35") from None
    if found < 0:
        raise ValueError("must be a share of 0 or more, like 0.35")
    return found


def plain_key(value: str) -> str:
    """A name that may be that of a file; raises ValueError."""
    if not _PLAIN.fullmatch(value):
        raise ValueError("must be letters, digits, dots, dashes and underscores only: it becomes the name of a file")
    return value


def _subset(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def plain_mapper(value: str) -> str:
    """The name of a built-in mapper, or a function as module:function; raises ValueError."""
    from hfassets.distillation.registry import MAPPERS

    if value not in MAPPERS and not re.fullmatch(r"[\w.]+:\w+", value):
        known = ", ".join(sorted(MAPPERS))
        raise ValueError(f"must be one of {known}, or your own as module:function")
    return value


def _hook(value: str) -> str:
    if not re.fullmatch(r"[\w.]+:\w+", value):
        raise ValueError("must be a function as module:function")
    return value


def _moved(value: Any) -> Any:
    return moved(value) if isinstance(value, str) else value


Ratio = Annotated[Fraction, BeforeValidator(_ratio), PlainSerializer(str)]
Key = Annotated[str, AfterValidator(plain_key)]
Length = Annotated[int, Field(ge=0, le=10**12)]


@dataclass(frozen=True, slots=True)
class RepoPin:
    """A repo of which only the commit has to be known; `name` says what for."""

    name: str
    repo: str
    revision: str
    repo_type: str = "dataset"
    token_env: str | None = None


class MixFilters(Model):
    """Filters of one source; what it does not say is as in `preprocessing`. Lengths in characters."""

    allowed_licenses: tuple[Text, ...] | None = None
    min_length: Length | None = None
    max_length: Length | None = None
    min_words: Length | None = None


class MixSource(Model):
    """One source of a mix. `subset`: one or more configs, or folders of the repo if `subset_is` says so.

    `notes` is for people; `notes_hook` names a function that fills the field `notes` of the metadata. `columns`: those
    that the mapper reads, others are not fetched of Parquet files. `contents`: where they lie if rows have ids only.
    """

    enabled: bool = True
    category: Key
    allocation: Ratio = Fraction(1)
    hf_path: Annotated[Repo, BeforeValidator(_moved)]
    revision: Revision = "main"
    subset: Annotated[tuple[Text, ...] | None, BeforeValidator(_subset)] = None
    subset_is: Literal["config", "folder"] = "config"
    split: Key = "train"
    license: Text | None = None
    license_column: Text | None = None
    streaming: bool = True
    filters: MixFilters = Field(default_factory=MixFilters)
    notes: str | None = None
    mapper: Annotated[str, AfterValidator(plain_mapper)]
    columns: tuple[Text, ...] | None = None
    contents: Literal["software_heritage"] | None = None
    verbatim: bool = False
    notes_hook: Annotated[str, AfterValidator(_hook)] | None = None
    token_env: Variable | None = None


class PromptCurriculum(Model):
    """Short prompts first, in the category instruction_chat; lengths in tokens of `tokenizer`, a model repo."""

    enabled: bool = True
    phase1_max_tokens: int = Field(default=256, ge=1, le=10**9)
    phase2_max_tokens: int | None = Field(default=None, ge=1, le=10**9)
    tokenizer: Repo = DEFAULT_TOKENIZER
    tokenizer_revision: Revision = "main"


class Preprocessing(Model):
    """What holds for all sources that do not say otherwise. `dedup_scope`: mix = no text comes twice in all of it."""

    deduplicate: bool = True
    dedup_method: Literal["xxh3_128", "md5_hash"] = "xxh3_128"
    dedup_scope: Literal["source", "mix"] = "source"
    min_text_length: Length = 50
    max_text_length: Length | None = 500_000
    min_words: Length = 10
    max_consecutive_newlines: int | None = Field(default=5, ge=1, le=1000)
    prompt_length_curriculum: PromptCurriculum = Field(default_factory=PromptCurriculum)


class MixLogging(Model):
    """Accepted as the old YAML has it; statistics are always written."""

    level: Text = "INFO"
    save_stats: bool = True
    stats_interval: int = Field(default=1000, ge=1)


class SoftwareHeritage(Model):
    """Where the contents of The Stack v2 are fetched, and how many at once."""

    endpoint_url: Endpoint | None = None
    bucket: Text = "softwareheritage"
    workers: int = Field(default=16, ge=1, le=256)


class Mix(Model):
    """A distillation mix. `output_dir`: by default `<output_root>/distillation/<name>`.

    `tokens`: how its files become packed rows, none = they do not. `strict`: shares that do not add up are an error,
    not a notice. `license_policy: commercial` refuses sources whose data may not be used so, or where nobody says.
    """

    name: Annotated[Name, AfterValidator(plain_key)] = DEFAULT_NAME
    total_samples: int = Field(default=100_000, ge=1, le=10**12)
    output_dir: AbsolutePath | None = None
    category_ratios: Mapping[Key, Ratio]
    datasets: Mapping[Key, MixSource]
    preprocessing: Preprocessing = Field(default_factory=Preprocessing)
    tokens: MixTokens | None = None
    teacher_config: TeacherConfig = Field(default_factory=TeacherConfig)
    logging: MixLogging = Field(default_factory=MixLogging)
    on_shortfall: Literal["report", "fail", "redistribute"] = "report"
    strict: bool = False
    license_policy: Literal["any", "commercial"] = "any"
    software_heritage: SoftwareHeritage = Field(default_factory=SoftwareHeritage)
    workers: int = Field(default=1, ge=1, le=256)
    slurm: SlurmFields = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _over_the_built_in(cls, data: Any) -> Any:
        return merged(built_in(), data) if isinstance(data, dict) else data

    @field_validator("datasets")
    @classmethod
    def _in_categories(cls, value: Mapping[str, MixSource], info: Any) -> Mapping[str, MixSource]:
        ratios = info.data.get("category_ratios") or {}
        for name, source in value.items():
            if ratios and source.enabled and source.category not in ratios:
                known = ", ".join(ratios)
                raise ValueError(f"{name}: the category {source.category!r} has no share; category_ratios has {known}")
        return value

    @model_validator(mode="after")
    def _taught(self) -> Mix:
        if self.teacher_config.enabled and self.tokens is None:
            raise ValueError("has a teacher and no section tokens: a teacher reads packed rows")
        return self

    def place(self, output_root: Path) -> Path:
        """Where the files go."""
        return self.output_dir or output_root / "distillation" / self.name

    @property
    def curriculum(self) -> PromptCurriculum | None:
        """Short prompts first, if asked for."""
        found = self.preprocessing.prompt_length_curriculum
        return found if found.enabled else None

    @property
    def teacher(self) -> TeacherConfig | None:
        """The teacher, if there is one."""
        return self.teacher_config if self.teacher_config.enabled else None

    @property
    def models(self) -> dict[str, RepoPin]:
        """The model repos that it needs, by what for: the curriculum's tokenizer, the student's, the teacher."""
        found = {}
        if (of := self.curriculum) is not None:
            found["curriculum"] = RepoPin(f"{self.name}, tokenizer", of.tokenizer, of.tokenizer_revision, "model")
        if self.tokens is not None and (entry := self.tokens.tokenizer).repo is not None:
            found["tokens"] = RepoPin(f"{self.name}, tokens", entry.repo, entry.revision, "model")
        if (teacher := self.teacher) is not None and teacher.folder is None:
            found["teacher"] = RepoPin(f"{self.name}, teacher", teacher.model_path, teacher.revision, "model")
        return found

    @property
    def pins(self) -> list[RepoPin]:
        """The repos of the sources that are used, and of its models."""
        sources = [
            RepoPin(f"{self.name}/{name}", source.hf_path, source.revision, token_env=source.token_env)
            for name, source in self.enabled.items()
        ]
        return [*sources, *self.models.values()]

    @property
    def enabled(self) -> dict[str, MixSource]:
        """The sources that are used, in order."""
        return {name: source for name, source in self.datasets.items() if source.enabled}
