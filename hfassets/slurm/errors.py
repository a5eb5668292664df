"""What can go wrong between us and a cluster. `str()` of each is one line for the person who started the work."""

from __future__ import annotations


class SlurmError(Exception):
    """Anything about SLURM that a user or administrator can act on."""


class ResourceError(SlurmError):
    """A request for resources cannot be understood or met; nothing was submitted."""


class RefusedError(SlurmError):
    """The cluster refused for good: the same request will be refused again."""


class DeferredError(SlurmError):
    """The cluster did not take the request now; the same request may succeed later.

    `unknown`: it may have been taken all the same (the answer was lost), so look before asking again.
    """

    def __init__(self, message: str, *, unknown: bool = False) -> None:
        super().__init__(message)
        self.unknown = unknown


class UnreachableError(DeferredError):
    """The controller does not answer: nothing is known about any job, and so nothing is concluded."""
