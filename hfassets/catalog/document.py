"""A YAML file as plain data that knows its line numbers.

Invariant: what is written is what is meant. Every scalar stays the text the user typed (a config named `no`, `1.0` or
`2024-01-01` is that name; the models convert), a key without a value is a key not given, and nothing in the file can
make Python objects. `${NAME}` and `${NAME:-default}` in values come from the environment, `$$` is a dollar sign.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hfassets.errors import CatalogError

Keys = tuple[str | int, ...]
Data = dict[str, Any] | list[Any] | str | None

MAX_DEPTH = 50

_TAG = "tag:yaml.org,2002:"
_TAGS = {yaml.ScalarNode: f"{_TAG}str", yaml.SequenceNode: f"{_TAG}seq", yaml.MappingNode: f"{_TAG}map"}
_NULLS = ("", "~", "null", "Null", "NULL")
_STANDARD = {f"{_TAG}{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "seq", "map")}
_REFERENCE = re.compile(
    r"\$(?:(?P<dollar>\$)|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^{}]*))?\}|(?P<bad>\{))"
)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Composes nodes only: resolving no scalar types saves time, the depth limit keeps libyaml off the stack's end."""

    depth = 0

    def descend_resolver(self, node: yaml.Node | None, index: Any) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = node.start_mark if node else None
            raise yaml.MarkedYAMLError(problem=f"nested more than {MAX_DEPTH} levels deep", problem_mark=mark)

    def ascend_resolver(self) -> None:
        self.depth -= 1

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode and implicit[0] and value in _NULLS:
            return f"{_TAG}null"
        return _TAGS[kind]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong at a place: 1-based line, keys from the root, and what is wrong."""

    line: int
    keys: Keys
    text: str

    def __str__(self) -> str:
        return f"{dotted(self.keys)}: {self.text}" if self.keys else self.text


def dotted(keys: Keys) -> str:
    """`("datasets", 0, "repo")` as people write it: `datasets[0].repo`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return text.removeprefix(".")


class Document:
    """The parsed file: `data` (keys without a value left out) and `problems`, what cannot be right whatever it means.

    Raises CatalogError when the bytes are not one YAML document.
    """

    def __init__(self, content: bytes, path: Path, environment: Mapping[str, str]) -> None:
        self.problems: list[Problem] = []
        self._environment = environment
        self._pairs_of: dict[int, dict[str, tuple[yaml.Node, yaml.Node]]] = {}
        self._built: dict[int, Data] = {}
        self._root = _compose(content, path)
        try:
            self.data = self._build(self._root, ()) if self._root is not None else None
        except RecursionError:
            raise CatalogError([f"{path}: an alias (*name) refers to what contains it"]) from None

    def line(self, keys: Keys) -> int:
        """The 1-based line of a key, or of the nearest thing around it that is in the file."""
        node, line = self._root, 1
        for key in keys:
            if isinstance(node, yaml.MappingNode) and key in (pairs := self._pairs(node, ())):
                key_node, node = pairs[str(key)]
                line = key_node.start_mark.line + 1
            elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
                node = node.value[key]
                line = node.start_mark.line + 1
            else:
                break
        return line

    def written(self, keys: Keys) -> str | None:
        """What stands at `keys`, for messages: the text before references are replaced, or the kind of thing.

        None when the file has nothing there.
        """
        node = self._root
        for key in keys:
            if isinstance(node, yaml.MappingNode) and key in (pairs := self._pairs(node, ())):
                node = pairs[str(key)][1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
                node = node.value[key]
            else:
                return None
        if isinstance(node, yaml.ScalarNode):
            text = str(node.value)
            return repr(text if len(text) <= 60 else f"{text[:57]}...")
        return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"

    def _problem(self, node: yaml.Node, keys: Keys, text: str) -> None:
        self.problems.append(Problem(node.start_mark.line + 1, keys, text))

    def _build(self, node: yaml.Node, keys: Keys) -> Data:
        if id(node) in self._built:
            return self._built[id(node)]
        if node.tag not in _STANDARD:
            self._problem(node, keys, f"has the tag {node.tag.replace(_TAG, '!!')}; write the plain value")
        result: Data
        if isinstance(node, yaml.ScalarNode):
            result = None if node.tag == f"{_TAG}null" else self._expand(node, keys)
        elif isinstance(node, yaml.SequenceNode):
            result = [self._item(item, (*keys, index)) for index, item in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            pairs = self._pairs(node, keys)
            built = ((key, self._build(value, (*keys, key))) for key, (_, value) in pairs.items())
            result = {key: value for key, value in built if value is not None}
        else:
            raise TypeError(type(node))
        self._built[id(node)] = result
        return result

    def _item(self, node: yaml.Node, keys: Keys) -> Data:
        value = self._build(node, keys)
        if value is None:
            self._problem(node, keys, "is an empty item; remove its dash or give it a value")
            return ""
        return value

    def _pairs(self, node: yaml.MappingNode, keys: Keys) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Key -> (key node, value node), what `<<` merges in included; found problems are reported once."""
        if id(node) in self._pairs_of:
            return self._pairs_of[id(node)]
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key_node, value in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem(key_node, keys, "has a list or mapping for a key; a key is one word")
            elif key_node.value == "<<" and not key_node.style:
                sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
                for source in reversed(sources):
                    if isinstance(source, yaml.MappingNode):
                        merged |= self._pairs(source, keys)
                    else:
                        self._problem(key_node, (*keys, "<<"), "must be an alias of a mapping, or a list of such")
            elif key_node.value in own:
                first = own[key_node.value][0].start_mark.line + 1
                self._problem(key_node, (*keys, key_node.value), f"is given twice; the first is on line {first}")
            else:
                own[key_node.value] = (key_node, value)
        self._pairs_of[id(node)] = merged | own
        return self._pairs_of[id(node)]

    def _expand(self, node: yaml.ScalarNode, keys: Keys) -> str:
        text = str(node.value)
        return _REFERENCE.sub(lambda match: self._reference(match, node, keys), text) if "$" in text else text

    def _reference(self, match: re.Match[str], node: yaml.Node, keys: Keys) -> str:
        if match["dollar"]:
            return "$"
        if match["bad"]:
            self._problem(node, keys, "has a ${ that is no reference; write ${NAME}, ${NAME:-default}, or $${ for a ${")
            return ""
        value, default = self._environment.get(match["name"]), match["default"]
        if default is not None:
            return value or default
        if value is None:
            name = match["name"]
            text = f"the environment variable {name} is not set; set it or write ${{{name}:-default}}"
            self._problem(node, keys, text)
            return ""
        return value


def _compose(content: bytes, path: Path) -> yaml.Node | None:
    try:
        loader = _Loader(content)
        try:
            node: yaml.Node | None = loader.get_single_node()
            return node
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise CatalogError([f"{path}:{line}: not YAML: {_syntax(error, content, line)}"]) from None
    except yaml.reader.ReaderError as error:
        line = content[: error.position].count(b"\n") + 1
        reason = f"not a text file in UTF-8 (byte {error.position}: {error.reason})"
        raise CatalogError([f"{path}:{line}: {reason}"]) from None


def _syntax(error: yaml.MarkedYAMLError, content: bytes, line: int) -> str:
    lines = content.splitlines()
    if line <= len(lines) and lines[line - 1].lstrip(b" ").startswith(b"\t"):
        return "a tab; indent with spaces"
    return " ".join(f"{error.problem} ({error.context})".split()) if error.context else str(error.problem)
