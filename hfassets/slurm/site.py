"""A site profile: what is true of a cluster whatever runs there. A YAML file, and the same keys in dagster.yaml.

Invariant: a `Site` that exists is complete and checked, paths absolute, and holds no secret.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from hfassets.slurm.errors import SlurmError
from hfassets.slurm.resources import Resources, override, parse_resources
from hfassets.slurm.secrets import refuse_secrets

NETWORKS = "everywhere, daemon or partition:NAME"


def _network(value: Any) -> str:
    if not re.fullmatch(r"everywhere|daemon|partition:[A-Za-z0-9_.-]+", str(value)):
        raise ValueError(f"must be {NETWORKS}")
    return str(value)


def _words(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item for item in value):
        raise ValueError("must be a list of texts")
    return tuple(value)


def _lines(value: Any) -> tuple[str, ...]:
    """Shell lines: a list of them, or one text; empty ones are left out."""
    lines = value.splitlines() if isinstance(value, str) else value
    return _words([line for line in lines if line != ""] if isinstance(lines, list | tuple) else lines)


def _options(value: Any) -> tuple[str, ...]:
    words = _words(value)
    if not all(re.fullmatch(r"--[a-z][a-z0-9-]*(=[^\n]*)?", word) for word in words):
        raise ValueError("must be a list of sbatch options, each like --mail-type=FAIL")
    return words


def _absolute(value: Any) -> Path:
    path = Path(str(value)).expanduser()
    if not path.is_absolute() or "\n" in str(value):
        raise ValueError("must be an absolute path")
    return path


def _variables(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError("must be a mapping NAME: value")
    wrong = [str(name) for name in value if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(name))]
    if wrong:
        raise ValueError(f"must have names of variables as keys, not {wrong[0]!r}")
    return {str(name): str(text) for name, text in value.items()}


class Site(BaseModel):
    """What every job of a site has in common.

    `network`: who has one. `environment`: variables of every job; `export`: names taken over from the launching
    process. `preamble`: shell lines before the worker; `activate`: a script to source; `wrapper`: words before the
    interpreter; `extra_args`: sbatch options as they stand; `python`: the interpreter on the nodes; `secrets_file`:
    NAME=value lines, mode 600, which jobs read on their node.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    resources: Resources = Resources()
    profiles: Mapping[str, Resources] = {}
    network: Annotated[str, BeforeValidator(_network)] = "everywhere"
    environment: Annotated[Mapping[str, str], BeforeValidator(_variables)] = {}
    export: Annotated[tuple[str, ...], BeforeValidator(_words)] = ()
    preamble: Annotated[tuple[str, ...], BeforeValidator(_lines)] = ()
    activate: Annotated[Path, BeforeValidator(_absolute)] | None = None
    wrapper: Annotated[tuple[str, ...], BeforeValidator(_words)] = ()
    extra_args: Annotated[tuple[str, ...], BeforeValidator(_options)] = ()
    python: Annotated[Path, BeforeValidator(_absolute)] | None = None
    secrets_file: Annotated[Path, BeforeValidator(_absolute)] | None = None


def parse_site(values: Mapping[str, Any], where: str, base: Site | None = None) -> Site:
    """A site from a mapping, over `base`: resources, profiles and variables are merged, everything else replaced.

    Raises SlurmError: one line that begins with `where` and names every mistake.
    """
    base = base or Site()
    own = dict(values)
    resources = override(base.resources, _request(own.pop("resources", None), f"{where}resources: "))
    named = own.pop("profiles", None) or {}
    if not isinstance(named, Mapping):
        raise SlurmError(f"{where}profiles must be a mapping name: {{cpus: 8, …}}")
    profiles = {str(name): _request(fields, f"{where}profiles, {name}: ") for name, fields in named.items()}
    try:
        parsed = Site(**own)
    except ValidationError as error:
        raise SlurmError(f"{where}{'; '.join(_mistake(item) for item in error.errors())}") from None
    refuse_secrets(parsed.environment, f"{where}environment")
    changes = {name: getattr(parsed, name) for name in parsed.model_fields_set}
    changes |= {"resources": resources, "profiles": {**base.profiles, **profiles}}
    return base.model_copy(update={**changes, "environment": {**base.environment, **parsed.environment}})


def load_site(path: Path) -> Site:
    """The site profile in a YAML file. Raises SlurmError with file and key."""
    try:
        document = yaml.load(path.read_text(), Loader=TimesAsText)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise SlurmError(f"the site profile {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SlurmError(f"the site profile {path} is no YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(document, dict | None):
        raise SlurmError(f"the site profile {path} must be a mapping of keys like network, resources, environment")
    return parse_site(document or {}, f"{path}: ")


class TimesAsText(yaml.SafeLoader):
    """YAML as people write it: 12:00:00 is a text, not the number 43200 that YAML 1.1 makes of it."""


TimesAsText.yaml_implicit_resolvers = {
    first: [
        (tag, re.compile(r"[-+]?(0|[1-9][0-9_]*)$") if tag == "tag:yaml.org,2002:int" else pattern)
        for tag, pattern in resolvers
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _request(values: Any, where: str) -> Resources:
    if not isinstance(values, Mapping | None):
        raise SlurmError(f"{where}must be a mapping of fields like {{cpus: 8, memory: 32G}}")
    return parse_resources(values or {}, where)


def _mistake(item: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, Site.model_fields, n=1)
        return f"{name} is no key{f'; did you mean {near[0]}?' if near else ''}"
    return f"{name} {str(item['msg']).removeprefix('Value error, ')}"
