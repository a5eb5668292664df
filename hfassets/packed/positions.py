"""Which positions of packed rows a teacher is asked about. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Positions:
    """`wanted`: booleans of shape (rows, tokens); `tokens`, `not_learnt`, `beyond`: how many positions have a token, of
    these how many are left out by the loss mask, and by the largest length. Of the tokens all others are wanted.
    """

    wanted: Any
    tokens: int
    not_learnt: int
    beyond: int


def positions(attention: Any, loss_mask: Any, *, shifted: bool, longest: int | None) -> Positions:
    """The positions whose next token is to be learnt, of those that have a token and are before `longest`.

    `attention`, `loss_mask`: of shape (rows, tokens), the latter None when there is none; it goes with the labels,
    which are the next tokens if `shifted`, else the tokens themselves.
    """
    there = attention.astype(bool)
    wanted = there.copy()
    if longest is not None:
        wanted[:, longest:] = False
    beyond = int(there.sum() - wanted.sum())
    if loss_mask is not None:
        learnt = loss_mask.astype(bool)
        if not shifted:
            learnt = np.concatenate([learnt[:, 1:], np.zeros((len(learnt), 1), dtype=bool)], axis=1)
        wanted &= learnt
    tokens = int(there.sum())
    return Positions(wanted, tokens, tokens - beyond - int(wanted.sum()), beyond)


def followers(ids: Any, lengths: Any) -> Any:
    """The token behind each position, -1 where the row has no more; of the shape of `ids`, which is (rows, tokens)."""
    found = np.full(ids.shape, -1, dtype=np.int64)
    found[:, :-1] = ids[:, 1:]
    found[np.arange(ids.shape[1])[None, :] >= lengths[:, None] - 1] = -1
    return found
