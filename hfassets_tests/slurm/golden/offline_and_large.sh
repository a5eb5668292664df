#!/bin/bash
#SBATCH --job-name=dagster-0d5c8a1e-1
#SBATCH --comment=dagster:ffffffffffffffffffffffffffffffff:0d5c8a1e-1111-2222-3333-444455556666:1
#SBATCH --partition=normal
#SBATCH --cpus-per-task=8
#SBATCH --mem=32768M
#SBATCH --gpus=a100:2
#SBATCH --time=0-12:00:00
#SBATCH --no-requeue
#SBATCH --chdir=/shared/project
#SBATCH --output=/shared/slurm/runs/0d5c8a1e-1111-2222-3333-444455556666/1/stdout.log
#SBATCH --error=/shared/slurm/runs/0d5c8a1e-1111-2222-3333-444455556666/1/stderr.log
#SBATCH --open-mode=append
#SBATCH --export=NONE

unset SLURM_EXPORT_ENV
export DAGSTER_HOME='/shared/dagster home'
export DAGSTER_PG_HOST=db.cluster
export HF_DATASETS_OFFLINE=1
export HF_ENDPOINT=https://mirror
export HF_HUB_OFFLINE=1
export PYTHONUNBUFFERED=1
export SCRATCH='/scratch/me & you'
export TRANSFORMERS_OFFLINE=1
exec /opt/venv/bin/python3 -m hfassets.slurm.job /shared/slurm 0d5c8a1e-1111-2222-3333-444455556666 1
