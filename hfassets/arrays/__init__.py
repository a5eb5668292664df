"""The parts of a plan as the tasks of SLURM job arrays."""

from hfassets.arrays.pool import ArrayPool

__all__ = ["ArrayPool"]
