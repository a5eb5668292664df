#!/bin/bash
#SBATCH --job-name=dagster-0d5c8a1e-1
#SBATCH --comment=dagster:ffffffffffffffffffffffffffffffff:0d5c8a1e-1111-2222-3333-444455556666:1
#SBATCH --account=proj
#SBATCH --reservation=night
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --mail-type=FAIL
#SBATCH --switches=1@00:10:00
#SBATCH --chdir=/shared/project
#SBATCH --output=/shared/slurm/runs/0d5c8a1e-1111-2222-3333-444455556666/1/stdout.log
#SBATCH --error=/shared/slurm/runs/0d5c8a1e-1111-2222-3333-444455556666/1/stderr.log
#SBATCH --open-mode=append
#SBATCH --export=NONE

unset SLURM_EXPORT_ENV
export DAGSTER_HOME='/shared/dagster home'
export DAGSTER_PG_HOST=db.cluster
export HF_ENDPOINT=https://mirror
export HTTPS_PROXY=http://proxy:3128
export NO_PROXY=localhost,.cluster
export PYTHONUNBUFFERED=1
export SCRATCH='/scratch/me & you'
failed='module load python/3.11'
{ module load python/3.11
} || { code=$?; echo "job: the preamble failed: $failed" >&2; exit "$code"; }
failed='ulimit -n 65536'
{ ulimit -n 65536
} || { code=$?; echo "job: the preamble failed: $failed" >&2; exit "$code"; }
failed='source '"'"'/opt/venv of ours/bin/activate'"'"''
{ source '/opt/venv of ours/bin/activate'
} || { code=$?; echo "job: the preamble failed: $failed" >&2; exit "$code"; }
exec srun --ntasks=1 --environment=emu3 /containers/python3 -m hfassets.slurm.job /shared/slurm 0d5c8a1e-1111-2222-3333-444455556666 1
