"""One thing that was looked at, and what was found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How much a finding matters. Only problems make the examination fail."""

    OK = "ok"
    FIXED = "fixed"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """`topic` names what was looked at, `text` says what is so, `advice` what to do about it (empty: nothing)."""

    level: Level
    topic: str
    text: str
    advice: str = ""


def ok(topic: str, text: str) -> Finding:
    """It is as it should be."""
    return Finding(Level.OK, topic, text)


def note(topic: str, text: str, advice: str = "") -> Finding:
    """Good to know."""
    return Finding(Level.NOTE, topic, text, advice)


def warning(topic: str, text: str, advice: str) -> Finding:
    """It works now and may not for long."""
    return Finding(Level.WARNING, topic, text, advice)


def problem(topic: str, text: str, advice: str) -> Finding:
    """It does not work, or would lose something."""
    return Finding(Level.PROBLEM, topic, text, advice)


def fixed(topic: str, text: str) -> Finding:
    """It was wrong and has been put right."""
    return Finding(Level.FIXED, topic, text)
