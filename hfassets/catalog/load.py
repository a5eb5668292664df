"""`catalog.yaml` -> Catalog; nothing else parses it.

Invariant: either the whole file is right, or every mistake in it is reported at once, each as one line with file, line
and key (`catalog.yaml:12 datasets[0].transfr: unknown key; did you mean transfer?`).
"""

from __future__ import annotations

import difflib
import gc
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from hfassets.c4.request import DEFAULT_SAMPLES
from hfassets.catalog.document import Document, Keys, Problem
from hfassets.catalog.fields import Model
from hfassets.catalog.mixes import DEFAULT_NAME, Mix
from hfassets.catalog.models import Catalog, Storage
from hfassets.errors import CatalogError, HfassetsError

DEFAULT_FILE = "catalog.yaml"

_MUST_BE = {
    "string_type": "text",
    "path_type": "a path",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "byte_size": "a size like 200GB or 1.5TB",
    "byte_size_unit": "a size like 200GB or 1.5TB",
}
_MISSING = {
    "repo": "it names the Hub repo, like owner/name",
    "hf_path": "it names the Hub repo, like owner/name",
    "category": "it names one of category_ratios",
    "name": "it names the partition, and its folder",
    "source": "it says where the text comes from, like {repo: owner/name}",
    "tokenizer": "it names the tokenizer, like EleutherAI/pythia-70m",
    "members": "it names recipes with their shares, like {web: 0.7, code: 0.3}",
    "domains": "it names recipes with their shares, like {web: 0.7, code: 0.3}",
    "tokens": "it says how many tokens of documents are drawn",
    "chunks": "it says how rows are cut, like {size: 8192}",
    "mapper": "it names what turns a row into text: a built-in mapper, or your own as module:function",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
}


def configured_path() -> Path:
    """HFASSETS_CATALOG, else ./catalog.yaml, whether there is such a file or not."""
    named = os.environ.get("HFASSETS_CATALOG")
    return Path(named).expanduser() if named else Path(DEFAULT_FILE)


def pointer_path(path: Path) -> Path:
    """`.catalog.accepted.json` beside `catalog.yaml`: where the state of a catalog is that was accepted before."""
    return path.with_name(f".{path.stem}.accepted.json")


def catalog_path() -> Path:
    """The catalog's file, be it wrong or, once it was accepted, gone; raises CatalogError when there never was one."""
    path = configured_path()
    if path.exists() or path.is_symlink() or pointer_path(path).exists():
        return path
    said = "HFASSETS_CATALOG names it" if os.environ.get("HFASSETS_CATALOG") else f"looked in {Path.cwd()}"
    raise CatalogError([f"{path}: no such catalog ({said}); `hfassets catalog init` writes a starter"])


def load_catalog(path: Path) -> Catalog:
    """Read and validate a catalog; raises CatalogError with every mistake in it."""
    return parse_catalog(read_bytes(path), path).catalog


def read_bytes(path: Path) -> bytes:
    """The file's content; raises CatalogError when it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CatalogError([f"{path}: no such catalog; `hfassets catalog init` writes a starter"]) from None
    except OSError as error:
        raise CatalogError([f"{path}: cannot be read ({error.strerror})"]) from None


@contextmanager
def without_collection() -> Iterator[None]:
    """Keep the garbage collector from walking 100,000 new objects again and again: a third of the time without it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@dataclass(frozen=True, slots=True)
class Parsed:
    """A valid catalog, and the document behind it, so that later errors can name their line."""

    catalog: Catalog
    document: Document
    path: Path

    def error(self, keys: Keys, text: str) -> str:
        """A message about `keys` in the one form that all have."""
        return format_problem(self.path, Problem(self.document.line(keys), keys, text))


def parse_catalog(
    content: bytes, path: Path, *, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> Parsed:
    """Validate the content of a catalog; `path` is for messages, `folder` (default: its own) for relative paths.

    Raises CatalogError with every mistake.
    """
    with without_collection():
        return _parse(content, path, _folder(path, folder), os.environ if environment is None else environment)


def _parse(content: bytes, path: Path, folder: Path, environment: Mapping[str, str]) -> Parsed:
    document = Document(content, path, environment)
    if document.data is None:
        raise CatalogError([f"{path}: is empty; `hfassets catalog init` writes a starter"])
    if not isinstance(document.data, dict):
        known = ", ".join(Catalog.model_fields)
        raise CatalogError([f"{path}:1: must be a mapping with the keys {known}, not {document.written(())}"])
    problems = list(document.problems)
    catalog = None
    try:
        catalog = Catalog.model_validate(document.data, context={"folder": folder})
    except ValidationError as error:
        # A place that is wrong as YAML already (an unset variable, say) has been reported with its real cause.
        reported = {problem.keys for problem in problems}
        found = (_translate(document, one) for one in error.errors(include_url=False, include_input=False))
        problems.extend(problem for problem in found if problem and problem.keys not in reported)
    problems.extend(_duplicate_names(document))
    if catalog is not None:
        looks = (_shared_outputs, _unusable_mixes, _unusable_recipes, _unusable_staging)
        wrong = (one for look in looks for one in look(catalog))
        problems.extend(Problem(document.line(keys), keys, text) for keys, text in wrong)
    if problems or catalog is None:
        ordered = sorted(problems, key=lambda problem: problem.line)
        raise CatalogError([format_problem(path, problem) for problem in ordered])
    return Parsed(catalog, document, path)


def parse_mix(content: bytes, path: Path) -> Mix:
    """A file with one distillation mix, as the old YAML has it; `path` is for messages and relative paths.

    Raises CatalogError with every mistake.
    """
    document = Document(content, path, os.environ)
    problems = list(document.problems)
    if not isinstance(document.data or {}, dict):
        raise CatalogError([f"{path}:1: must be a mapping like {{total_samples: 100000}}, not {document.written(())}"])
    mix = None
    try:
        mix = Mix.model_validate(document.data or {}, context={"folder": _folder(path, None)})
    except ValidationError as error:
        reported = {problem.keys for problem in problems}
        found = (_translate(document, one, Mix) for one in error.errors(include_url=False, include_input=False))
        problems.extend(problem for problem in found if problem and problem.keys not in reported)
    if problems or mix is None:
        ordered = sorted(problems, key=lambda problem: problem.line)
        raise CatalogError([format_problem(path, problem) for problem in ordered])
    return mix


def salvage_state_dir(content: bytes, path: Path) -> Path | None:
    """The state folder that an otherwise wrong catalog names, when its `storage` section can be read."""
    try:
        data = Document(content, path, os.environ).data
        section = data.get("storage", {}) if isinstance(data, dict) else None
        return Storage.model_validate(section, context={"folder": _folder(path, None)}).state_dir
    except (CatalogError, ValidationError):
        return None


def empty_catalog(path: Path, state_dir: Path | None = None) -> Catalog:
    """A catalog that declares nothing, with the default storage of one at `path`."""
    storage = {"state_dir": str(state_dir)} if state_dir else {}
    return Catalog.model_validate({"storage": storage}, context={"folder": _folder(path, None)})


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` is most likely a slip of."""
    by_case = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(word.casefold(), by_case, n=1)
    return by_case[close[0]] if close else None


def format_problem(path: Path, problem: Problem) -> str:
    """`catalog.yaml:12 datasets[0].repo: ...`"""
    return f"{path}:{problem.line}{' ' if problem.keys else ': '}{problem}"


def _folder(path: Path, folder: Path | None) -> Path:
    return (folder or path.parent).absolute()


def _duplicate_names(document: Document) -> Iterable[Problem]:
    """Entries whose names (so: partition keys) collide, found in the raw data so that other mistakes hide none."""
    data = document.data
    names = [(section, _given_name) for section in ("mds", "mixtures", "extensions", "staging")]
    for section, key_of in (
        ("datasets", _dataset_name),
        ("c4", _shard_set_name),
        ("distillation", _mix_name),
        *names,
    ):
        entries = data.get(section) if isinstance(data, dict) else None
        first: dict[str, int] = {}
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            name = key_of(entry) if isinstance(entry, dict) else None
            if not isinstance(name, str):
                continue
            if name in first:
                line = document.line((section, first[name]))
                named = next((key for key in ("name", "repo") if key in entry), None)
                keys: Keys = (section, index) if named is None else (section, index, named)
                text = f"the name {name!r} is taken by the entry on line {line}; give one of them a name of its own"
                yield Problem(document.line(keys), keys, text)
            first.setdefault(name, index)


def _dataset_name(entry: Mapping[str, Any]) -> Any:
    return entry.get("name", entry.get("repo"))


def _shard_set_name(entry: Mapping[str, Any]) -> Any:
    return entry.get("name", f"c4_{entry.get('split', 'train')}_{entry.get('num_samples', DEFAULT_SAMPLES)}")


def _mix_name(entry: Mapping[str, Any]) -> Any:
    return entry.get("name", DEFAULT_NAME)


def _given_name(entry: Mapping[str, Any]) -> Any:
    return entry.get("name")


def _unusable_recipes(catalog: Catalog) -> Iterator[tuple[Keys, str]]:
    """Recipes of sources, shares and members that the catalog does not have."""
    shard_sets = {one.name for one in catalog.c4}
    files = {
        f"{mix.name}/{source.category}/{name}" for mix in catalog.distillation for name, source in mix.enabled.items()
    }
    for index, recipe in enumerate(catalog.mds):
        source = recipe.source
        if source.c4 is not None and source.c4 not in shard_sets:
            yield (
                ("mds", index, "source", "c4"),
                f"no shard set {source.c4!r} in the section c4; {_near(source.c4, shard_sets)}",
            )
        if source.distillation is not None and source.distillation not in files:
            text = f"no file {source.distillation!r} of a mix; {_near(source.distillation, files)}"
            yield ("mds", index, "source", "distillation"), text
        if recipe.validation is not None and recipe.validation > catalog.validation.fraction:
            text = f"is more than the catalog's fraction {catalog.validation.fraction:g}; it can only be less"
            yield ("mds", index, "validation"), text
    recipes = {recipe.name for recipe in catalog.mds}
    named = (("mixtures", "members", catalog.mixtures), ("extensions", "domains", catalog.extensions))
    for section, key, entries in named:
        for index, entry in enumerate(entries):
            for name in getattr(entry, key):
                if name not in recipes:
                    yield (section, index, key, name), f"no recipe {name!r} in the section mds; {_near(name, recipes)}"
    taken = {recipe.name: "mds" for recipe in catalog.mds}
    both = {one.name for one in catalog.mixtures} & {one.name for one in catalog.extensions}
    for index, one in enumerate(catalog.extensions):
        if one.name in both or one.name in taken:
            yield ("extensions", index, "name"), f"the name {one.name!r} is taken by another entry; choose another"
    for index, mixture in enumerate(catalog.mixtures):
        if mixture.name in taken:
            yield ("mixtures", index, "name"), f"the name {mixture.name!r} is taken by a recipe; choose another"


def _unusable_staging(catalog: Catalog) -> Iterator[tuple[Keys, str]]:
    """Staging recipes of datasets that the catalog does not have, or with names that others have."""
    datasets = {one.name for one in catalog.datasets}
    sections = ("c4", "mds", "mixtures", "extensions")
    taken = {one.name: section for section in sections for one in getattr(catalog, section)}
    for index, recipe in enumerate(catalog.staging):
        name = recipe.source.dataset
        if name is not None and name not in datasets:
            text = f"no dataset {name!r} in the section datasets; {_near(name, datasets)}"
            yield ("staging", index, "source", "dataset"), text
        if recipe.name in taken:
            text = f"the name {recipe.name!r} is taken in the section {taken[recipe.name]}; choose another"
            yield ("staging", index, "name"), text


def _near(word: str, known: Iterable[str]) -> str:
    close = nearest(word, known)
    return f"did you mean {close!r}?" if close else f"there are {', '.join(sorted(known)) or 'none'}"


def _shared_outputs(catalog: Catalog) -> Iterator[tuple[Keys, str]]:
    """Shard sets whose parts would have the same names in the same place."""
    first: dict[tuple[str, str, int], str] = {}
    for index, one in enumerate(catalog.c4):
        output = (one.place(catalog.storage.output_root), one.split, one.num_samples)
        if output in first and first[output] != one.name:
            stem = f"c4_{one.split}_{one.num_samples}"
            yield (
                ("c4", index),
                f"writes {stem} to {output[0]}, as {first[output]!r} does; give it a destination of its own",
            )
        first.setdefault(output, one.name)


def _unusable_mixes(catalog: Catalog) -> Iterator[tuple[Keys, str]]:
    """Mixes that no run could make: shares, licences, filters or mappers that do not work out."""
    if not catalog.distillation:
        return
    from hfassets.distillation.from_catalog import mix_run

    for index, mix in enumerate(catalog.distillation):
        run = mix_run(catalog, mix, {}, None)
        try:
            names = list(run.quotas().rows)
        except HfassetsError as error:
            yield ("distillation", index), str(error)
            continue
        for name in names:
            try:
                # Its identity takes all of the request, the mapper's source included.
                run.request(name, 1, "", None).stream  # noqa: B018
            except HfassetsError as error:
                yield ("distillation", index, "datasets", name), str(error)


def _translate(document: Document, error: Any, root: type[Model] = Catalog) -> Problem | None:
    """One pydantic error as what would be right, never in pydantic's words; None when another error says the same."""
    # `[key]` is pydantic's mark for a key, not a value, that is wrong.
    keys: Keys = tuple(part for part in error["loc"] if part != "[key]")
    kind, context = error["type"], error.get("ctx", {})
    line, written = document.line(keys), document.written(keys)
    if keys[-1] == "name" and written is None and (kind != "missing" or keys[0] == "datasets"):
        return None  # the name was taken from `repo`, where the mistake is
    if kind == "extra_forbidden":
        known = tuple(_model_of(keys[:-1], root).model_fields)
        close = nearest(str(keys[-1]), known)
        hint = f"did you mean {close}?" if close else f"known are {', '.join(known)}"
        return Problem(line, keys, f"unknown key; {hint}")
    if kind == "missing":
        return Problem(line, keys, f"is missing; {_MISSING[str(keys[-1])]}")
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        text = f"must be a mapping with the keys {', '.join(_model_of(keys, root).model_fields)}"
    elif kind == "value_error":
        text = str(context["error"])
    elif kind == "literal_error":
        text = f"must be {context['expected'].replace(chr(39), '')}"
    elif kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        text = f"must be {words} {context[bound]:g}"
    else:
        text = f"must be {_MUST_BE[kind]}"
    # What was typed instead of a variable's name may be a token: it is never repeated. A request of resources names the
    # value itself, which is a field of what was written here.
    told = keys[-1] == "token_env" or "slurm" in keys
    return Problem(line, keys, text if told else f"{text}, not {written or 'what the environment says'}")


def _model_of(keys: Keys, root: type[Model]) -> type[Model]:
    """The model that the mapping at `keys` is read by."""
    model = root
    for key in keys:
        field = model.model_fields.get(str(key))
        # Places in lists and names in mappings of models lead to the model itself.
        found = _model_in(field.annotation) if field is not None else None
        model = model if found is None else found
    return model


def _model_in(annotation: Any) -> type[Model] | None:
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)
