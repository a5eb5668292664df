"""The kinds of values that a catalog may have, and their checks.

Invariant: messages of the validators complete the sentence "<key> ...", and say what would be right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ByteSize, ConfigDict, ValidationInfo

from hfassets.errors import HubError
from hfassets.hub.names import check_repo_id, check_revision
from hfassets.slurm.errors import ResourceError
from hfassets.slurm.resources import parse_resources

DEFAULT_ENDPOINT = "https://huggingface.co"
MAX_NAME = 200

# Dagster refuses "..." in partition keys (it separates the ends of a range); the characters of NAME_REFUSED are those
# that its partition fields read as syntax, and ":" separates name and config in a key.
RANGE = "..."
NAME_REFUSED = ",:*\"'[]|\\"


def is_plain(text: str) -> bool:
    """Not empty, no space around it, no control characters (Unicode's line separators included)."""
    return bool(text) and text == text.strip() and text.isprintable()


def _text(value: str) -> str:
    if not is_plain(value):
        raise ValueError("must be plain text, without control characters or space around it")
    return value


def _name(value: str) -> str:
    bad = RANGE in value or any(character in NAME_REFUSED for character in value)
    if len(value) > MAX_NAME or bad or not is_plain(value):
        refused = " ".join(NAME_REFUSED)
        raise ValueError(f"must be plain text of at most {MAX_NAME} characters without {RANGE} and any of {refused}")
    return value


def _config(value: str) -> str:
    if RANGE in value:
        raise ValueError(f"must not contain {RANGE}, which separates the ends of a partition range")
    return _text(value)


def _repo(value: str) -> str:
    try:
        return _text(check_repo_id(value))
    except (HubError, ValueError):
        raise ValueError("must be a Hub repo id like owner/name") from None


def _revision(value: str) -> str:
    try:
        return _text(check_revision(value))
    except (HubError, ValueError):
        raise ValueError("must be a branch, a tag or a commit") from None


def _unique(values: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({value for value in values if values.count(value) > 1}) if len(set(values)) < len(values) else []
    if twice:
        raise ValueError(f"must name each once; twice: {', '.join(twice)}")
    return values


def _some(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        raise ValueError("must name at least one; leave the key out to take all")
    return values


def absolute(value: Any, info: ValidationInfo) -> Any:
    """A path relative to the catalog's folder, which the validation context carries as `folder`."""
    if not isinstance(value, str):
        return value
    if not is_plain(value):
        raise ValueError("must be a path")
    try:
        return (info.context or {}).get("folder", Path.cwd()) / Path(value).expanduser()
    except RuntimeError:
        raise ValueError("must be a path in a home folder that exists") from None


def _octal(value: Any) -> Any:
    if isinstance(value, str):
        if not re.fullmatch(r"(0o)?[0-7]{1,4}", value) or int(value, 8) > 0o777:
            raise ValueError("must be an octal file mode mask like 0002")
        return int(value, 8)
    return value


def _endpoint(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"must be an address like {DEFAULT_ENDPOINT}")
    if parts.username or parts.password:
        raise ValueError("must not carry a password; a token is given by token_env")
    return value.rstrip("/")


def _variable(value: str) -> str:
    if value.startswith("hf_"):
        raise ValueError("looks like a token itself; it must be the name of the environment variable that holds it")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError("must be the name of an environment variable like HF_TOKEN")
    return value


def _positive(value: ByteSize) -> ByteSize:
    if value < 1:
        raise ValueError("must be a size of at least 1 byte like 200GB or 1.5TB")
    return value


def _slurm_fields(value: Any) -> dict[str, str]:
    """A request of SLURM resources as written, once it is known to be one."""
    if not isinstance(value, dict):
        raise ValueError("must be a mapping of fields like {cpus: 8, memory: 32G, time: 12:00:00}")
    fields = {str(name): str(text) for name, text in value.items()}
    try:
        parse_resources({name: text for name, text in fields.items() if name != "profile"}, "")
    except ResourceError as error:
        raise ValueError(f"cannot be asked of SLURM: {error}") from None
    return fields


MODES = ("run", "parts")
"""Of a heavy asset's runs: each is one job, or is light and has its parts made by job arrays."""


def _asset_slurm_fields(value: Any) -> dict[str, str]:
    """The same for an asset, which may say its mode as well."""
    mode = value.get("mode") if isinstance(value, dict) else None
    if mode is not None and mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
    if mode is None:
        return _slurm_fields(value)
    return {"mode": mode, **_slurm_fields({name: text for name, text in value.items() if name != "mode"})}


AssetSlurmFields = Annotated[Mapping[str, str], BeforeValidator(_asset_slurm_fields)]
SlurmFields = Annotated[Mapping[str, str], BeforeValidator(_slurm_fields)]
Text = Annotated[str, AfterValidator(_text)]
Name = Annotated[str, AfterValidator(_name)]
Repo = Annotated[str, AfterValidator(_repo)]
Revision = Annotated[str, AfterValidator(_revision)]
Config = Annotated[str, AfterValidator(_config)]
Configs = Annotated[tuple[Config, ...], AfterValidator(_unique), AfterValidator(_some)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
Variable = Annotated[str, AfterValidator(_variable)]
Octal = Annotated[int, BeforeValidator(_octal)]
AbsolutePath = Annotated[Path, BeforeValidator(absolute)]
Bytes = Annotated[ByteSize, AfterValidator(_positive)]
Globs = tuple[Text, ...]


class Model(BaseModel):
    """Frozen, and nothing that is not declared."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
