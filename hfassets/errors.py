"""The one exception tree.

The text of each is a single line for the person who started the work: what is wrong, where, what would be right.
The faces (`cli/`, `defs/`) print that line and nothing more; any other exception is a defect of ours.
"""

from __future__ import annotations

from collections.abc import Sequence


class HfassetsError(Exception):
    """Something the user can act on; `str()` of it is one line."""


class UsageError(HfassetsError):
    """A command was called with words that do not fit together (exit code 2)."""


class CatalogError(HfassetsError):
    """`catalog.yaml` or `catalog.lock` is wrong; carries every error, each with file and key."""

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("; ".join(errors))
        self.errors = tuple(errors)


class HubError(HfassetsError):
    """The Hub refused or failed a request after all retries."""


class UnsafePathError(HubError):
    """A name from the network would leave the folder it belongs in."""


class IntegrityError(HfassetsError):
    """Bytes are not what their source or manifest says."""


class DataError(HfassetsError):
    """The data itself cannot be processed (malformed rows, unknown configs, script datasets)."""


class SpaceError(HfassetsError):
    """Not enough bytes or inodes for what was asked, or more than `max_bytes` allows."""


class LeaseHeldError(HfassetsError):
    """Another run works on the same output."""


class PartialFailureError(HfassetsError):
    """Some parts failed and the others are done; `failures` names each with its reason."""

    def __init__(self, what: str, failures: Sequence[tuple[str, str]], total: int) -> None:
        listing = "; ".join(f"{name}: {reason}" for name, reason in failures)
        super().__init__(f"{len(failures)} of {total} {what} failed: {listing}")
        self.failures = tuple(failures)
        self.total = total
