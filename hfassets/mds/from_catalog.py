"""A catalog's recipes as stages: where their folders lie, and what each is made of.

Invariant: recipes with the same beginning share its folders: text by source, tokens by tokenizer, chunks by rule.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from hfassets.catalog.lock import MixturePartition, RecipePartition
from hfassets.catalog.models import Catalog
from hfassets.catalog.recipes import ExtensionRecipe, Mixture, Recipe
from hfassets.errors import DataError
from hfassets.hub.layout import RepoCache
from hfassets.mds.catalog_run import CatalogRun
from hfassets.mds.chunk import Chunking
from hfassets.mds.convert import Conversion, ShardShape
from hfassets.mds.documents import Columns
from hfassets.mds.extend import Domain, Extension
from hfassets.mds.inputs import Cut
from hfassets.mds.origins import Target, from_files, from_hub, from_mds, from_urls
from hfassets.mds.sample import Member, Sampling, by_share, make_sampling, training_tokens
from hfassets.mds.sides import ValidationRule
from hfassets.mds.stage import StageOutput, find_stage, make_stage
from hfassets.mds.tokenize import Tokenization, specials_of
from hfassets.mds.upstream import upstream
from hfassets.mds.urls import read_url_list
from hfassets.progress import ProgressCallback, silent

TRAINING = "training_mds"


@dataclass(frozen=True)
class Recipes(CatalogRun):
    """The recipes of a catalog with the habits of this run."""

    @property
    def root(self) -> Path:
        """Below it lie all folders of the section."""
        return self.catalog.storage.output_root / "mds"

    def text_root(self, recipe: Recipe) -> Path:
        """`text/<source>`: the same for recipes that read the same rows in the same way."""
        return self.root / "text" / self._source_name(recipe)

    def tokens_root(self, recipe: Recipe) -> Path:
        """`tokenized_<tokenizer>/<source>`."""
        return self.root / f"tokenized_{self._tokenizer_name(recipe)}" / self._source_name(recipe)

    def chunks_root(self, recipe: Recipe) -> Path:
        """`chunked-<tokenizer>-<config>/<source>`."""
        rule = recipe.chunks.rule
        more = _short([rule.add_eos, rule.enforce_zeroth]) if rule.mode == "per_document" else _short(rule.add_eos)
        folder = f"chunked-{self._tokenizer_name(recipe)}-{rule.name}"
        return self.root / folder / f"{self._source_name(recipe)}-{more}"

    def sampled_root(self, recipe: Recipe) -> Path:
        """`sampled/<recipe>`."""
        return self.root / "sampled" / recipe.name

    def training_root(self, mixture: Mixture) -> Path:
        """`training/<mixture>`."""
        return self.root / "training" / mixture.name

    def extension_root(self, extension: ExtensionRecipe) -> Path:
        """`extension/<extension>`."""
        return self.root / "extension" / extension.name

    def make_text(self, of: RecipePartition, progress: ProgressCallback = silent) -> StageOutput:
        """The text stage of a recipe."""
        return make_stage(self._conversion(of, progress).stage(), self.stage_run(of.recipe.workers), progress)

    def make_tokens(self, of: RecipePartition, progress: ProgressCallback = silent) -> StageOutput:
        """The tokenized stage; its text has to be there."""
        recipe, wanted = of.recipe, of.recipe.tokenizer
        source, path = self.tokenizer(wanted, of.tokenizer_commit, progress)
        root = self.tokens_root(recipe)
        text = upstream(self.text_root(recipe))
        made = Tokenization(root, text, source, path, wanted.dtype, wanted.engine)
        return make_stage(made.stage(), self.stage_run(recipe.workers), progress)

    def make_chunks(self, of: RecipePartition, progress: ProgressCallback = silent) -> StageOutput:
        """The chunked stage; its tokens have to be there."""
        recipe = of.recipe
        tokens = upstream(self.tokens_root(recipe))
        _, specials = specials_of(tokens.root)
        made = Chunking(self.chunks_root(recipe), tokens, recipe.chunks.rule, specials)
        return make_stage(made.stage(), self.stage_run(recipe.workers), progress)

    def make_sample(self, of: RecipePartition, progress: ProgressCallback = silent) -> StageOutput:
        """The sampled stage; its chunks have to be there."""
        recipe = of.recipe
        member = self._member(recipe.name, self.chunks_root(recipe), recipe.sample.tokens)
        sampling = Sampling(self.sampled_root(recipe), [member], recipe.sample.seed)
        return make_sampling(sampling, self.stage_run(recipe.workers), progress)

    def make_training(self, of: MixturePartition, progress: ProgressCallback = silent) -> StageOutput:
        """A mixture; the samples of its members have to be there. Raises DataError naming one that is not."""
        mixture = of.entry
        if not isinstance(mixture, Mixture):
            raise TypeError(f"{of.key} is an extension")
        members = [self._member(name, self.sampled_root(one.recipe)) for name, one in of.members.items()]
        there = {member.name: training_tokens(member.root) for member in members}
        wanted = by_share(members, mixture.members, there, mixture.tokens)
        sampling = Sampling(self.training_root(mixture), wanted, mixture.seed, TRAINING, nested=True)
        return make_sampling(sampling, self.stage_run(mixture.workers), progress)

    def make_extension(self, of: MixturePartition, progress: ProgressCallback = silent) -> StageOutput:
        """A context extension; the tokens of its domains have to be there."""
        entry = of.entry
        if not isinstance(entry, ExtensionRecipe):
            raise TypeError(f"{of.key} is a mixture")
        domains = [
            Domain(name, upstream(self.tokens_root(one.recipe)), entry.domains[name])
            for name, one in of.members.items()
        ]
        _, specials = specials_of(domains[0].tokens.root)
        buckets = dict(entry.buckets or {entry.chunks.size: 1.0})
        root = self.extension_root(entry)
        made = Extension(root, domains, entry.tokens, entry.chunks.rule, specials, buckets, entry.seed)
        return make_stage(made.stage(), self.stage_run(entry.workers), progress)

    def _conversion(self, of: RecipePartition, progress: ProgressCallback) -> Conversion:
        recipe, source = of.recipe, of.recipe.source
        target = self._target(recipe)
        if source.repo is not None:
            repo = RepoCache(self.catalog.storage.hub_cache, source.repo)
            with self.client(source.token_env, progress) as client:
                return from_hub(
                    client, repo, of.commit, source.config, source.split, target, source.token_env, progress
                )
        if source.urls is not None:
            return from_urls(read_url_list(source.urls, source.section), target, self.catalog.hub.max_retries)
        if source.mds is not None:
            return from_mds(source.mds, target, progress)
        return from_files(self._folder(recipe), target, progress)

    def _folder(self, recipe: Recipe) -> Path:
        """Where the files of a recipe lie that reads what is here."""
        source = recipe.source
        if source.files is not None:
            return source.files
        if source.c4 is not None:
            one = next(entry for entry in self.catalog.c4 if entry.name == source.c4)
            if one.destination is not None and "://" in one.destination and not one.keep_local:
                raise DataError(f"{recipe.name}: the shard set {one.name} is in S3; bring it here by hfassets c4 fetch")
            return one.local(self.catalog.storage.output_root)
        mix, category, name = (source.distillation or "").split("/")
        of = next(entry for entry in self.catalog.distillation if entry.name == mix)
        return of.place(self.catalog.storage.output_root) / category / f"{name}.jsonl"

    def _target(self, recipe: Recipe) -> Target:
        rule = self.catalog.validation
        return Target(
            self.text_root(recipe),
            self.state,
            Columns(recipe.columns.text, recipe.columns.id),
            recipe.mapper,
            ValidationRule(rule.seed, rule.fraction, recipe.validation),
            ShardShape(recipe.compression),
            Cut(int(recipe.part_size)),
        )

    def _member(self, name: str, root: Path, tokens: int | None = None) -> Member:
        found = find_stage(root)
        if found is None:
            raise DataError(f"{name}: {root} is not finished; materialise it first")
        return Member(name, root, found.fingerprint, tokens)

    def _source_name(self, recipe: Recipe) -> str:
        """A name for people, and a mark that tells apart what is read in different ways."""
        source = recipe.source
        names: dict[str, list[Any]] = {
            "repo": [source.repo, source.config, source.split],
            "files": [source.files and source.files.stem],
            "urls": [source.urls and source.urls.stem, source.section],
            "mds": [source.mds and source.mds.name],
            "c4": [source.c4],
            "distillation": [source.distillation],
        }
        readable = "--".join(str(one).replace("/", "--") for one in names[source.kind] if one)
        rule = self.catalog.validation
        mark = _short(
            [
                recipe.source.model_dump(mode="json"),
                recipe.columns.model_dump(),
                recipe.mapper,
                [rule.seed, rule.fraction, recipe.validation],
                int(recipe.part_size),
                recipe.compression,
            ]
        )
        return f"{''.join(one if one.isalnum() or one in '._-' else '_' for one in readable)}-{mark}"

    def _tokenizer_name(self, recipe: Recipe) -> str:
        of = recipe.tokenizer
        plain = of.repo is not None and not of.use_prefix_space and of.dtype is None and of.revision == "main"
        return of.name if plain else f"{of.name}-{_short(of.model_dump(mode='json'))}"


def declared(stage: str, of: RecipePartition | MixturePartition, catalog: Catalog) -> str:
    """What names an output as the catalog declares it, whatever is on disk."""
    if isinstance(of, MixturePartition):
        members = {name: declared(stage, one, catalog) for name, one in of.members.items()}
        return _sha([stage, of.entry.model_dump(mode="json"), members])
    rule = catalog.validation
    return _sha(
        [stage, of.recipe.model_dump(mode="json"), of.commit, of.tokenizer_commit, rule.model_dump(mode="json")]
    )


def _sha(document: Any) -> str:
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _short(document: Any) -> str:
    return _sha(document)[:8]
