"""Secrets and the token: there, accepted, and read by nobody else. No value is ever shown."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import requests

from hfassets.doctor.finding import Finding, fixed, note, ok, problem, warning
from hfassets.errors import HubError
from hfassets.hub.layout import default_hf_home
from hfassets.hub.options import HubOptions, hub_options

HUB_TIMEOUT = 10.0
TOPIC = "token"


def examine_token(endpoint: str | None, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Where the token comes from and whether the Hub accepts it; without one nothing is asked."""
    try:
        options = hub_options(endpoint=endpoint, environment=environment)
    except HubError as error:
        yield problem(TOPIC, str(error), "set HF_ENDPOINT and HF_TOKEN right, or log in again")
        return
    if options.token is None:
        yield note(TOPIC, "none: only public datasets, with the Hub's lower limits", "set HF_TOKEN, or log in")
    elif options.offline:
        yield note(TOPIC, f"from {options.token_source}; not tried, HF_HUB_OFFLINE is set")
    else:
        yield _accepted(options)


def _accepted(options: HubOptions) -> Finding:
    source = f"from {options.token_source}"
    try:
        answer = requests.get(
            f"{options.endpoint}/api/whoami-v2",
            headers={"Authorization": f"Bearer {options.token}"},
            timeout=HUB_TIMEOUT,
            allow_redirects=False,
        )
    except requests.RequestException as error:
        text = f"{source}; {options.endpoint} does not answer: {type(error).__name__}"
        return warning(TOPIC, text, "try again later")
    if answer.status_code in (401, 403):
        return problem(TOPIC, f"{source}: {options.endpoint} refuses it ({answer.status_code})", "make a new one")
    if not answer.ok:
        return note(TOPIC, f"{source}; {options.endpoint} does not say whose it is ({answer.status_code})")
    try:
        name = str(answer.json().get("name", "?"))
    except (ValueError, AttributeError):
        name = "?"
    return ok(TOPIC, f"{source}, accepted by {options.endpoint} as {name}")


def secret_files(environment: Mapping[str, str], secrets_file: Path | None) -> list[tuple[str, Path]]:
    """(what it is, path) of every file with secrets that this deployment may read."""
    env = dict(environment)
    named = [("login file", Path(env["HF_TOKEN_PATH"]) if env.get("HF_TOKEN_PATH") else default_hf_home(env) / "token")]
    if secrets_file is not None:
        named.append(("secrets_file", secrets_file))
    for variable, default in (("PGPASSFILE", "~/.pgpass"), ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")):
        named.append((variable, Path(env.get(variable) or default)))
    return [(name, path.expanduser()) for name, path in named]


def examine_secret_file(name: str, path: Path, *, fix: bool) -> Iterator[Finding]:
    """Whether only its owner may read a file of secrets, if it is there."""
    topic = f"{name} {path}"
    try:
        found = path.stat()
    except FileNotFoundError:
        if name == "secrets_file":
            yield problem(topic, "is not there, and jobs need it", "make it: NAME=value lines, chmod 600")
        return
    except OSError as error:
        yield problem(topic, f"cannot be looked at: {error.strerror}", f"let this user read {path}")
        return
    if not found.st_mode & 0o077:
        yield ok(topic, "yours alone")
        return
    mode = f"{found.st_mode & 0o777:o}"
    if fix and found.st_uid == os.getuid():
        path.chmod(found.st_mode & 0o700)
        yield fixed(topic, f"others could read it (mode {mode}); now they cannot")
    else:
        yield problem(topic, f"others may read it (mode {mode})", f"chmod 600 {path}")


def examine_literals(document: Any, where: Path) -> Iterator[Finding]:
    """Passwords that stand literally in dagster.yaml: people copy and commit it."""
    for name in sorted(_literal_secrets(document)):
        yield problem(f"dagster.yaml {where}", f"{name} stands in it as it is", f"{name}: {{env: …}} instead")


def _literal_secrets(document: Any, key: str = "") -> set[str]:
    if isinstance(document, Mapping):
        return set().union(*(_literal_secrets(value, str(name)) for name, value in document.items()))
    if isinstance(document, list):
        return set().union(*(_literal_secrets(value, key) for value in document))
    secret = key.lower() in ("password", "secret_access_key", "aws_secret_access_key", "token", "webhook")
    url = isinstance(document, str) and "://" in document and "@" in document.partition("://")[2].partition("/")[0]
    return {key} if isinstance(document, str) and document and (secret or url) else set()
