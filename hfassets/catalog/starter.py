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
  # purge_after_days: 30                           # the site deletes what was not used for so long; days left are shown

hub:
  # endpoint: https://huggingface.co               # default: HF_ENDPOINT
  # max_retries: 5
  # backoff_factor: 1.0                            # seconds, doubled with each retry

verify:
  # max_age_days: 30                               # bytes proven longer ago are read again
  # reverify_every_days: 7
  # reverify_max_partitions_per_tick: 20
  # repair_max_bytes_per_day: 200GB

s3:                                                # for destinations like s3://bucket/prefix
  # endpoint_url: https://s3.example.org           # default: AWS_ENDPOINT_URL; none = Amazon's
  # region: eu-central-1
  # profile: training                              # of ~/.aws; keys never stand here

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

# c4:                                              # rows as JSON lines, in a folder or in S3: docs/c4.md
#   - num_samples: 10000
#     name: c4-10k                                 # the partition; default: c4_<split>_<num_samples>
#     repo: allenai/c4                             # or any repo of JSON lines or Parquet
#     config: en                                   # default for another repo: its own default
#     revision: main
#     split: train
#     max_lines_per_file: 2500                     # none: one file
#     destination: s3://bucket/prefix              # or a folder; default: <output_root>/c4/<name>
#     keep_local: false                            # with S3: keep the local copies
#     shuffle: false                               # true: a random sample over the split
#     seed: 42
#     streaming: auto                              # auto: up to 10,000 samples; else true or false
#     compression: none                            # or gzip, zstd
#     on_shortfall: fail                           # or report
#     workers: 1
#     cache_dir: ~/.cache/huggingface/hub          # another Hub cache for source files
#     token_env: HF_TOKEN
#     slurm: {time: "04:00:00"}                    # have shard sets made by SLURM jobs

# distillation:                                    # chat, code, mathematics, questions: docs/distillation.md
#   - name: student                                # laid over the built-in mix of twelve sources
#     total_samples: 100000
#     category_ratios: {instruction_chat: 0.35, code: 0.30, math_reasoning: 0.25, factual_qa: 0.10}
#     datasets:
#       openhermes: {enabled: false}
#     on_shortfall: report                         # or fail, redistribute
"""
