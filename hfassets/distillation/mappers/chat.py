"""Conversations: openhermes, ultrachat, open_orca."""

from __future__ import annotations

from typing import Any

from hfassets.distillation.mapping import Mapped, Row, Turn, dialogue, extra, list_of, malformed, optional_text, text_of

# The names that data sets of this kind use for who speaks.
_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "tool",
}


def conversation(turns: list[Any], who: str, what: str) -> list[Turn]:
    """Turns from a list of objects; anybody unknown makes the row malformed."""
    try:
        roles = [_ROLES[turn[who]] for turn in turns]
        contents = [turn[what] for turn in turns]
        plain = {*map(type, contents)} <= {str}
    except (KeyError, TypeError):
        plain = False
    found = list(zip(roles, contents, strict=True)) if plain else [_turn(turn, who, what) for turn in turns]
    # A system prompt that says nothing is none.
    return [one for one in found if one[0] != "system" or one[1].strip()]


def _turn(turn: Any, who: str, what: str) -> Turn:
    if not isinstance(turn, dict):
        raise malformed("a turn is no object")
    said = turn.get(who)
    role = _ROLES.get(said.strip().lower()) if isinstance(said, str) else None
    if role is None:
        raise malformed(f"a turn by {said!r}")
    return role, text_of(turn, what)


def openhermes(row: Row) -> Mapped:
    """teknium/OpenHermes-2.5: `conversations` [{from, value}]; a `system_prompt` of its own comes first."""
    turns = conversation(list_of(row, "conversations"), "from", "value")
    system = optional_text(row, "system_prompt")
    if system is not None and not any(role == "system" for role, _ in turns):
        turns.insert(0, ("system", system))
    return Mapped(turns, {"type": "conversation", **extra(row, "source", "category", "topic", "language")})


def ultrachat(row: Row) -> Mapped:
    """HuggingFaceH4/ultrachat_200k: `messages` [{role, content}]."""
    turns = conversation(list_of(row, "messages"), "role", "content")
    return Mapped(turns, {"type": "conversation", **extra(row, "prompt_id")})


def open_orca(row: Row) -> Mapped:
    """Open-Orca/OpenOrca: `system_prompt`, `question`, `response`."""
    turns = dialogue(text_of(row, "question"), text_of(row, "response"), optional_text(row, "system_prompt"))
    return Mapped(turns, {"type": "instruction", **({"orca_id": row["id"]} if optional_text(row, "id") else {})})
