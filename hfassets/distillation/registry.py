"""Mappers by name: the built-in ones, and `module:function` from anywhere that Python can import."""

from __future__ import annotations

import hashlib
import importlib
import inspect

from hfassets.distillation.mappers.chat import open_orca, openhermes, ultrachat
from hfassets.distillation.mappers.code import code_contests, starcoder, the_stack_v2
from hfassets.distillation.mappers.math import competition, gsm8k, numina
from hfassets.distillation.mappers.qa import hotpotqa, natural_questions
from hfassets.distillation.mapping import Mapper
from hfassets.errors import UsageError

MAPPERS: dict[str, Mapper] = {
    "openhermes": openhermes,
    "ultrachat": ultrachat,
    "open_orca": open_orca,
    "the_stack_v2": the_stack_v2,
    "starcoder": starcoder,
    "code_contests": code_contests,
    "gsm8k": gsm8k,
    "math": competition,
    "numina": numina,
    "natural_questions": natural_questions,
    "hotpotqa": hotpotqa,
}


def load_mapper(name: str) -> Mapper:
    """The mapper of a name; raises UsageError, naming those there are."""
    if name in MAPPERS:
        return MAPPERS[name]
    module, _, function = name.partition(":")
    if not function:
        known = ", ".join(sorted(MAPPERS))
        raise UsageError(f"no mapper {name!r}; there are {known}, or your own as module:function")
    try:
        found = getattr(importlib.import_module(module), function)
    except ImportError as error:
        raise UsageError(f"mapper {name!r}: {error}") from None
    except AttributeError:
        raise UsageError(f"mapper {name!r}: {module} has no function {function}") from None
    if not callable(found):
        raise UsageError(f"mapper {name!r} is no function")
    mapper: Mapper = found
    return mapper


def mapper_identity(name: str) -> str:
    """What of a mapper decides about bytes: a built-in one its name, another one the SHA-256 of its source as well."""
    if name in MAPPERS:
        return name
    source = inspect.getsource(load_mapper(name))
    return f"{name}@{hashlib.sha256(source.encode()).hexdigest()[:16]}"
