"""A tokenizer as the catalog names it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from hfassets.catalog.fields import AbsolutePath, Model, Repo, Revision


class TokenizerEntry(Model):
    """A tokenizer of the Hub, pinned, or a `file` or folder here."""

    repo: Repo | None = None
    revision: Revision = "main"
    file: AbsolutePath | None = None
    use_prefix_space: bool = False
    engine: Literal["auto", "gigatoken", "tokenizers"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, data: Any) -> Any:
        return {"repo": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _one(self) -> TokenizerEntry:
        if (self.repo is None) == (self.file is None):
            raise ValueError("must name a repo of the Hub or a file, one of the two")
        return self

    @property
    def name(self) -> str:
        """As folders are named after it."""
        return self.repo.rsplit("/", 1)[-1] if self.repo else (self.file.stem if self.file else "")
