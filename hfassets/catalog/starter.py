"""The catalog that `hfassets catalog init` writes: valid as it stands, and every key named with its default."""

from __future__ import annotations

STARTER = """\
# What this project wants from the Hugging Face Hub. After an edit:
#   hfassets catalog check    every mistake, with its line
#   hfassets catalog sync     asks the Hub for commits and configs, writes catalog.lock (keep both in version control)
# Values may use ${NAME} and ${NAME:-default} from the environment; $$ is a dollar sign.
# Paths are relative to this file; sizes are like 200GB or 1.5TB, in decimal units.

storage:
  # hub_cache: ~/.cache/huggingface/hub            # default: HF_HUB_CACHE, then HF_HOME/hub
  # datasets_cache: ~/.cache/huggingface/datasets  # default: HF_DATASETS_CACHE, then HF_HOME/datasets
  # output_root: ./data
  # state_dir: ./data/.hfassets                    # manifests, locks and memory; on a file system that all hosts share
  # umask: 0002                                    # for folders shared by a group

hub:
  # endpoint: https://huggingface.co               # default: HF_ENDPOINT
  # max_retries: 5
  # backoff_factor: 1.0                            # seconds, doubled with each retry

verify:
  # max_age_days: 30                               # bytes proven longer ago are read again
  # reverify_every_days: 7
  # reverify_max_partitions_per_tick: 20
  # repair_max_bytes_per_day: 200GB

slurm:                                             # what heavy runs ask for when they become SLURM jobs
  # prepared_dataset: {cpus: 8, memory: 32G, time: "04:00:00"}

datasets:
  - repo: openai/gsm8k
    configs: [main]                                # none: all that the repo has
    # name: gsm8k                                  # first part of the partition key; default: the repo
    # revision: main                               # branch, tag or commit; catalog.lock pins it
    # include: ["*.parquet"]
    # exclude: ["*.bin"]
    # files: config                                # all: the whole repo, where rows point at other files
    # transfer: http                               # or hf_transfer, xet: without our retries, budget and resume
    # max_bytes: 1.5TB                             # more than this is refused before the first byte
    # partitions_per_run: 1
    # token_env: HF_TOKEN                          # the name of the variable, never the token
    # num_proc: 8
    # slurm: {memory: 64G}                         # what this dataset's heavy runs ask for beyond that
"""
