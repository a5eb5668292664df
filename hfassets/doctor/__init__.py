"""What is wrong with a deployment, in words, and what would put it right."""

from hfassets.doctor.finding import Finding, Level

__all__ = ["Finding", "Level"]
