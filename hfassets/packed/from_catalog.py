"""The rows of a catalog's mixes, and what their teachers say of them: where they lie, and what each is made of."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from hfassets.catalog.lock import MixPartition
from hfassets.catalog.students import MixTokens, TeacherConfig
from hfassets.distillation.from_catalog import mix_run
from hfassets.distillation.mix import find_one
from hfassets.errors import DataError, HubError
from hfassets.hub.layout import RepoCache
from hfassets.hub.sweep import default_workers
from hfassets.mds.catalog_run import CatalogRun
from hfassets.mds.inputs import Cut
from hfassets.mds.origins import Target, from_files
from hfassets.mds.stage import StageOutput
from hfassets.packed.folder import write_splits
from hfassets.packed.logits import LogitRule, Logits
from hfassets.packed.shards import find_shards, make_shards
from hfassets.packed.source import packed_rows
from hfassets.packed.stage import Packing
from hfassets.packed.teach import teach
from hfassets.packed.teacher import gpu_count
from hfassets.packed.teacher_model import TeacherModel, hub_teacher, local_teacher
from hfassets.progress import ProgressCallback, silent
from hfassets.tokens.engine import Engine
from hfassets.tokens.vocabulary import Vocabulary


@dataclass(frozen=True)
class Students(CatalogRun):
    """The mixes of a catalog that have a student, with the habits of this run."""

    def tokens_folder(self, of: MixPartition) -> Path:
        """`distillation_tokens/<mix>/<source>`."""
        return self.catalog.storage.output_root / "distillation_tokens" / of.mix.name / of.source

    def make_tokens(self, of: MixPartition, progress: ProgressCallback = silent) -> StageOutput:
        """The packed rows of a file of a mix; it has to be there. Raises DataError when it is not."""
        wanted = tokens_of(of)
        run = mix_run(self.catalog, of.mix, of.commits, of.tokenizer_commit)
        file = find_one(run, of.source)
        if file is None:
            raise DataError(f"{of.key}: not made as the catalog asks for it; materialise distillation_file first")
        commit = of.models.get("tokens", "")
        tokenizer, path = self.tokenizer(wanted.tokenizer, commit, progress)
        folder = self.tokens_folder(of)
        text = from_files(file.path, Target(folder, self.state, cut=Cut(int(wanted.part_size))), progress)
        packing = Packing(
            folder,
            text,
            tokenizer,
            path,
            wanted.max_seq_length,
            wanted.packing,
            wanted.labels == "shifted",
            wanted.add_bos,
            wanted.shard_size_mb << 20,
            wanted.tokenizer.engine,
            wanted.loss_mask,
        )
        habits = self.stage_run(wanted.workers)
        made = make_shards(packing.stage(), habits, progress)
        if not made.reused:
            told = {
                "tokenizer": tokenizer.name,
                "max_seq_length": wanted.max_seq_length,
                "shard_size_gb": wanted.shard_size_mb / 1024,
                "input_path": str(run.output),
                "labels": "shifted" if wanted.labels == "shifted" else "not shifted",
                "packing": wanted.packing,
            }
            write_splits(folder.parent, told, habits)
        return made

    def logits_folder(self, of: MixPartition) -> Path:
        """`teacher_logits/<mix>/<source>`."""
        return self.catalog.storage.output_root / "teacher_logits" / of.mix.name / of.source

    def teacher_model(
        self, of: MixPartition, progress: ProgressCallback = silent, *, offline: bool = False
    ) -> TeacherModel:
        """The teacher of a mix, brought here if it is of the Hub and not `offline`; raises DataError, HubError."""
        wanted = teacher_of(of)
        if wanted.folder is not None:
            return local_teacher(wanted.folder, self.state, progress)
        repo = RepoCache(self.catalog.storage.hub_cache, wanted.model_path, "model")
        with self.client(None, progress, offline=offline) as client:
            return hub_teacher(client, repo, of.models["teacher"], self.state, progress)

    def student_vocabulary(self, of: MixPartition, progress: ProgressCallback = silent) -> Vocabulary:
        """That of the student's tokenizer."""
        entry, commit = tokens_of(of).tokenizer, of.models.get("tokens", "")
        source, _ = self.tokenizer(entry, commit, progress)
        return Engine(source, "tokenizers").vocabulary

    def make_logits(self, of: MixPartition, progress: ProgressCallback = silent) -> StageOutput:
        """What the teacher of a mix expects behind the tokens of a file; its rows and the teacher have to be there.

        Raises DataError naming what is not.
        """
        wanted, folder = teacher_of(of), self.tokens_folder(of)
        if find_shards(folder) is None:
            raise DataError(f"{of.key}: its rows are not there; materialise distillation_tokens first")
        try:
            teacher = self.teacher_model(of, progress, offline=True)
        except HubError as error:
            raise DataError(f"{of.key}: {error}; materialise teacher_model first") from error
        rule = LogitRule(wanted.top_k, wanted.temperature, wanted.max_seq_length, wanted.values, wanted.dtype)
        workers = self.workers or gpu_count()
        logits = Logits(
            self.logits_folder(of),
            packed_rows(folder, self.state, progress),
            teacher,
            rule,
            wanted.batch_size,
            wanted.shard_size_mb << 20,
            threads=max(1, default_workers() // workers) if workers > 1 else None,
        )
        return teach(logits, self.stage_run(workers), progress)

    def declared_logits(self, of: MixPartition) -> str:
        """What names them as the catalog declares them, whatever is on disk."""
        asked = teacher_of(of).model_dump(mode="json", exclude={"batch_size"})
        return _sha(["teacher_logits", self.declared_tokens(of), asked, of.models.get("teacher", "")])

    def declared_tokens(self, of: MixPartition) -> str:
        """What names the rows as the catalog declares them, whatever is on disk."""
        file = mix_run(self.catalog, of.mix, of.commits, of.tokenizer_commit).declared(of.source)
        asked = tokens_of(of).model_dump(mode="json", exclude={"workers"})
        return _sha(["distillation_tokens", file, asked, of.models.get("tokens", "")])


def tokens_of(of: MixPartition) -> MixTokens:
    """The section `tokens` of a file's mix; raises DataError when the catalog has none any more."""
    if of.mix.tokens is None:
        raise DataError(f"{of.key}: the mix {of.mix.name} has no section tokens")
    return of.mix.tokens


def teacher_of(of: MixPartition) -> TeacherConfig:
    """The teacher of a file's mix; raises DataError when the catalog has none any more."""
    if of.mix.teacher is None:
        raise DataError(f"{of.key}: the mix {of.mix.name} has no teacher (teacher_config.enabled)")
    return of.mix.teacher


def _sha(document: Any) -> str:
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()
