"""A catalog's staging recipes: where their folders lie, and what they are made of."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path

import orjson

from hfassets.catalog.lock import StagingPartition
from hfassets.hub.acquire import find_snapshot, take_snapshot
from hfassets.hub.from_catalog import prepare_request, snapshot_request
from hfassets.hub.prepare import find_prepared, prepare
from hfassets.mds.catalog_run import CatalogRun
from hfassets.mds.stage import StageOutput, find_stage
from hfassets.progress import ProgressCallback, silent
from hfassets.staging.preprocess import STAGE, Preprocessing, TokenRule, preprocess
from hfassets.staging.source import ArrowSource, from_mirror, from_prepared
from hfassets.staging.splits import plan_splits


@dataclass(frozen=True)
class StagingRecipes(CatalogRun):
    """The staging recipes of a catalog with the habits of this run."""

    def root(self, of: StagingPartition) -> Path:
        """`staging/<recipe>`: what is staged."""
        return self.catalog.storage.output_root / "staging" / of.recipe.name

    def find(self, of: StagingPartition) -> StageOutput | None:
        """The finished folder, if it is there."""
        return find_stage(self.root(of))

    def make(self, of: StagingPartition, progress: ProgressCallback = silent) -> StageOutput:
        """A recipe's folder; its dataset has to be prepared. Raises DataError when it is not, and as `preprocess`."""
        recipe, workers = of.recipe, self.workers or of.recipe.workers
        source = self._source(of, workers, progress)
        shares = {str(name): share for name, share in recipe.missing.items()}
        named = {str(name): theirs for name, theirs in recipe.splits.items()}
        splits = plan_splits(list(source.splits), named, shares, recipe.seed, source.name)
        rule = None
        if recipe.tokenizer is not None:
            tokenizer, path = self.tokenizer(recipe.tokenizer, of.tokenizer_commit, progress)
            rule = TokenRule(
                tokenizer,
                path,
                recipe.block_size,
                recipe.column,
                recipe.remainders,
                recipe.add_eos,
                recipe.tokenizer.engine,
            )
        root = self.root(of)
        wanted = Preprocessing(
            root,
            root.parent / ".work" / root.name,
            source,
            splits,
            rule,
            int(recipe.shard_size),
            int(recipe.part_size),
        )
        return preprocess(wanted, self.stage_run(workers), progress)

    def bring(self, of: StagingPartition, progress: ProgressCallback = silent) -> None:
        """Have the recipe's dataset prepared: downloaded, verified and made Arrow, as far as that is not done."""
        part = of.dataset
        if part is None:
            return
        wanted = prepare_request(self.catalog, part, run_id=self.run_id)
        if find_prepared(wanted) is not None:
            return
        request = snapshot_request(self.catalog, part, run_id=self.run_id)
        if find_snapshot(request) is None:
            with self.client(part.dataset.token_env, progress) as client:
                take_snapshot(client, request, progress)
        prepare(wanted, progress)

    def _source(self, of: StagingPartition, workers: int, progress: ProgressCallback) -> ArrowSource:
        mirror = of.recipe.source.mirror
        if of.dataset is not None:
            return from_prepared(prepare_request(self.catalog, of.dataset))
        if mirror is None:
            raise TypeError(f"{of.key} has no source")
        cache = self.catalog.storage.datasets_cache
        return from_mirror(mirror, of.recipe.source.config, cache, self.state, workers, progress)


def declared(of: StagingPartition) -> str:
    """What names a recipe's output as the catalog declares it, whatever is on disk."""
    asked = of.recipe.model_dump(mode="json", exclude={"workers", "slurm"})
    dataset = None if of.dataset is None else [of.dataset.dataset.repo, of.dataset.config, of.dataset.commit]
    document = [STAGE, asked, dataset, of.tokenizer_commit]
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()


def stage_command(recipe: str) -> str:
    """What brings a recipe to the disk of a node."""
    return f"hfassets stage {shlex.quote(recipe)} --to '$SLURM_TMPDIR/data'"
