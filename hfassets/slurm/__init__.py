"""Dagster runs as SLURM jobs: a run launcher, its reconciler, and what they are made of. Usable without the rest."""
