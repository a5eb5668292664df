"""Options and places that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from hfassets.errors import UsageError
from hfassets.storage.state import StateDir

Command = TypeVar("Command", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)


def options(*decorators: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Several click options as one decorator, listed by `--help` in the order given."""

    def apply(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


class Size(click.ParamType[int]):
    """A number of bytes, or one with a unit: 200GB (decimal), 200GiB (binary)."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes, at least 1."""
        from pydantic import ByteSize, TypeAdapter, ValidationError

        try:
            size = int(TypeAdapter(ByteSize).validate_python(value))
        except ValidationError:
            size = 0
        if size < 1:
            self.fail(f"{value!r} is no size; it looks like 200GB or 1.5TB", param, ctx)
        return size


def _refuse_token(context: click.Context, parameter: click.Parameter, value: object) -> None:
    if value is not None:
        raise UsageError("a token on the command line can be read by every user of this machine; set HF_TOKEN instead")


# Scripts written for other tools may pass one; the value must not be shown by an error about an unknown option.
no_token = click.option("--token", hidden=True, expose_value=False, callback=_refuse_token)
state_option = click.option(
    "--state-dir", type=PATH, help="Our memory and reports [default: the catalog's, else ./data/.hfassets]."
)
s3_options = options(
    click.option("--endpoint-url", metavar="URL", help="An S3 other than Amazon's [default: AWS_ENDPOINT_URL]."),
    click.option("--region", help="Its region [default: AWS_DEFAULT_REGION]."),
    click.option("--profile", help="A profile of ~/.aws [default: AWS_PROFILE]."),
)
hub_cache_option = click.option(
    "--hub-cache", type=PATH, help="The Hub cache for raw files [default: the catalog's, else HF_HUB_CACHE]."
)


@dataclass(frozen=True, slots=True)
class Places:
    """Where a command works when no option says otherwise."""

    state: StateDir
    hub_cache: Path


def places(state_dir: Path | None = None, hub_cache: Path | None = None) -> Places:
    """Options first, then the catalog if there is one, then the environment. Applies the catalog's umask.

    A catalog that has become wrong only warns: the last accepted one says where things are.
    """
    from hfassets.catalog.accepted import accept
    from hfassets.catalog.load import catalog_path, configured_path
    from hfassets.hub.layout import default_hub_cache

    if os.environ.get("HFASSETS_CATALOG") or configured_path().exists():
        accepted = accept(catalog_path(), record=False)
        for line in accepted.errors:
            click.echo(f"warning: {line}", err=True)
        storage = accepted.catalog.storage
        if storage.umask is not None:
            os.umask(storage.umask)
        return Places(StateDir(state_dir or storage.state_dir), hub_cache or storage.hub_cache)
    return Places(StateDir((state_dir or Path("data/.hfassets")).absolute()), hub_cache or default_hub_cache())
