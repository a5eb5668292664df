"""Which Hub, as whom, and how patiently: read from the environment once, at the start of a command or run.

Invariant: the token is in `HubOptions.token` and nowhere else; it is not part of any repr or error.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from hfassets.errors import HubError
from hfassets.hub.layout import default_hf_home

DEFAULT_ENDPOINT = "https://huggingface.co"
_TRUE = ("1", "ON", "YES", "TRUE")


@dataclass(frozen=True, slots=True)
class HubOptions:
    """How to reach a Hub. Timeouts and `backoff_factor` in s; `quota_share`: hosts or slots that share one token."""

    endpoint: str
    token: str | None = field(repr=False)
    max_retries: int = 5
    backoff_factor: float = 1.0
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    token_source: str = ""
    offline: bool = False
    quota_share: int = 1


def hub_options(
    *,
    endpoint: str | None = None,
    token_env: str | None = None,
    max_retries: int = 5,
    backoff_factor: float = 1.0,
    quota_share: int = 1,
    environment: Mapping[str, str] | None = None,
) -> HubOptions:
    """Options from arguments, then the environment.

    Endpoint: `endpoint`, HF_ENDPOINT, the real Hub. Token: the variable named by `token_env`, HF_TOKEN,
    HUGGING_FACE_HUB_TOKEN, the login file (HF_TOKEN_PATH, else HF_HOME/token). HF_HUB_OFFLINE makes every request an
    error. Raises HubError for an endpoint or a token that cannot be one.
    """
    env = dict(os.environ if environment is None else environment)
    address = (endpoint or env.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
    if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).hostname:
        raise HubError("HF_ENDPOINT is no address of a Hub; it looks like https://huggingface.co")
    token, source = _token(env, token_env)
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise HubError(f"the token of {source} contains characters that no token has; copy it again")
    offline = any(env.get(name, "").upper() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return HubOptions(
        endpoint=address,
        token=token,
        max_retries=max_retries,
        backoff_factor=backoff_factor,
        token_source=source,
        offline=offline,
        quota_share=quota_share,
    )


def _token(env: dict[str, str], token_env: str | None) -> tuple[str | None, str]:
    for name in (token_env, "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if name and env.get(name, "").strip():
            return env[name].strip(), name
    file = Path(env["HF_TOKEN_PATH"]).expanduser() if env.get("HF_TOKEN_PATH") else default_hf_home(env) / "token"
    try:
        stored = file.read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return None, ""
    except (OSError, UnicodeDecodeError) as error:
        raise HubError(f"the login file {file} cannot be read: {type(error).__name__}") from None
    return (stored, str(file)) if stored else (None, "")
