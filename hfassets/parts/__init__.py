"""A plan, its parts, and the pool that makes them: the unit of parallelism and resume."""

from hfassets.parts.plan import Outcome, PartOutput, Plan
from hfassets.parts.pool import Backend, LocalPool
from hfassets.parts.run import PartsResult, run

__all__ = ["Backend", "LocalPool", "Outcome", "PartOutput", "PartsResult", "Plan", "run"]
