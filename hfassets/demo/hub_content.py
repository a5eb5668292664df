"""The sample repos on disk: built once a Python and a size, then only read.

Invariant: a content folder that exists is complete (it is published by one rename), and for one installed Python
its files are byte for byte the same each time it is built. Ids and schemas are those of real repos; the texts are the
standard library's.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from hfassets.demo import hub_corpus, hub_mix, hub_model, hub_repos
from hfassets.demo.hub_repos import Writer
from hfassets.demo.hub_store import ARCHIVE, HubStore
from hfassets.storage.atomic import publish_directory, temporary_beside


@dataclass(frozen=True, slots=True)
class SampleCommit:
    """One commit of a sample repo: what writes its files, and where it stands."""

    write: Writer
    title: str = "Add data"
    branch: str = "main"
    tag: str | None = None


@dataclass(frozen=True, slots=True)
class SampleRepo:
    """A repo of the sample Hub and what is peculiar about it."""

    repo_id: str
    commits: tuple[SampleCommit, ...]
    repo_type: str = "dataset"
    gated: bool = False
    redirect: bool = True
    xet: bool = False


def _one(write: Writer) -> tuple[SampleCommit, ...]:
    return (SampleCommit(write),)


def sample_repos(big_file_mb: int) -> tuple[SampleRepo, ...]:
    """All repos of the sample Hub."""
    return (
        # Two configs, Parquet, three splits each.
        SampleRepo("ibm-research/duorc", _one(hub_repos.write_duorc)),
        # Gzipped JSONL, and JSONL in zstd with inferred splits.
        SampleRepo("allenai/c4", _one(hub_repos.write_c4)),
        SampleRepo("cerebras/SlimPajama-627B", _one(hub_repos.write_slimpajama)),
        # Images within Parquet (a xet repo, as all new ones are), and an image folder.
        SampleRepo("google/docci", _one(hub_repos.write_docci), xet=True),
        SampleRepo("AI-Lab-Makerere/beans", _one(hub_repos.write_beans)),
        # No metadata at all: the config is inferred.
        SampleRepo("roneneldan/TinyStories", _one(hub_repos.write_tinystories), redirect=False),
        # Many small files.
        SampleRepo("bigcode/the-stack-smol-xs", _one(hub_repos.write_stack_smol)),
        # One large file.
        SampleRepo("HuggingFaceFW/fineweb-edu", _one(lambda folder: hub_repos.write_fineweb(folder, big_file_mb))),
        SampleRepo("bigcode/starcoderdata", _one(hub_repos.write_starcoder), gated=True),
        # A loading script, and the Parquet that the Hub converted it to.
        SampleRepo(
            "codeparrot/apps",
            (
                SampleCommit(hub_repos.write_apps_script, "Add loading script"),
                SampleCommit(hub_repos.write_apps_parquet, "Update parquet files", branch="refs/convert/parquet"),
            ),
        ),
        # Two revisions, the first with a tag.
        SampleRepo(
            "openai/gsm8k",
            (
                SampleCommit(hub_repos.write_gsm8k_first, "Add the main config", tag="v1.0"),
                SampleCommit(hub_repos.write_gsm8k_second, "Add the socratic config"),
            ),
        ),
        # The config ARC-Challenge names files that are not there.
        SampleRepo("allenai/ai2_arc", _one(hub_repos.write_arc)),
        # The sources of the distillation mix, those above aside.
        SampleRepo("teknium/OpenHermes-2.5", _one(hub_mix.write_openhermes)),
        SampleRepo("HuggingFaceH4/ultrachat_200k", _one(hub_mix.write_ultrachat)),
        SampleRepo("Open-Orca/OpenOrca", _one(hub_mix.write_open_orca)),
        SampleRepo("bigcode/the-stack-v2", _one(hub_mix.write_stack_v2), gated=True),
        SampleRepo("deepmind/code_contests", _one(hub_mix.write_code_contests)),
        SampleRepo("EleutherAI/hendrycks_math", _one(hub_mix.write_math)),
        SampleRepo("AI-MO/NuminaMath-CoT", _one(hub_mix.write_numina)),
        SampleRepo("google-research-datasets/natural_questions", _one(hub_mix.write_natural_questions)),
        SampleRepo("hotpotqa/hotpot_qa", _one(hub_mix.write_hotpot)),
        # Read as the bucket of that name, at /_s3.
        SampleRepo(ARCHIVE, _one(hub_mix.write_archive)),
        SampleRepo("EleutherAI/pythia-70m", _one(hub_model.write_model), repo_type="model"),
    )


def content_key(big_file_mb: int) -> str:
    """Names the content: it changes with this package's writers, with Python and pyarrow."""
    digest = hashlib.sha256(f"{platform.python_version()} {pa.__version__} {big_file_mb}".encode())
    for module in (__file__, hub_corpus.__file__, hub_mix.__file__, hub_repos.__file__, hub_model.__file__):
        digest.update(Path(str(module)).read_bytes())
    return digest.hexdigest()[:16]


def build_content(root: Path, *, big_file_mb: int = 12, note: Callable[[str], None] = lambda text: None) -> Path:
    """The folder of the sample repos below `root`, built when it is not there yet (a few seconds)."""
    final = root / f"content-{content_key(big_file_mb)}"
    if final.is_dir():
        return final
    note("building the sample repos from the standard library")
    root.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(final)
    try:
        for repo in sample_repos(big_file_mb):
            for number, commit in enumerate(repo.commits):
                folder = _commit_folder(temporary, repo, number)
                folder.mkdir(parents=True)
                commit.write(folder)
        publish_directory(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def load_content(store: HubStore, content: Path, *, big_file_mb: int = 12) -> None:
    """Put the repos of a content folder into a store."""
    for repo in sample_repos(big_file_mb):
        for number, commit in enumerate(repo.commits):
            folder = _commit_folder(content, repo, number)
            files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
            store.commit(
                repo.repo_id,
                files,
                repo_type=repo.repo_type,
                title=commit.title,
                branch=commit.branch,
                tag=commit.tag,
                gated=repo.gated,
                redirect=repo.redirect,
                xet=repo.xet,
            )


def _commit_folder(content: Path, repo: SampleRepo, number: int) -> Path:
    return content / f"{repo.repo_type}s" / repo.repo_id / f"commit-{number}"
