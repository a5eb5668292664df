"""Best-fit decreasing: pieces into rows of a capacity, with as little room left as can be had quickly.

Invariant: every piece is in exactly one row, no row has more than its capacity, and equal lengths give equal rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def best_fit(lengths: Any, capacity: int) -> tuple[Any, Any]:
    """Where each piece goes: its row, and the order in which pieces were placed; two int64 arrays of shape (pieces,).

    `lengths`: whole numbers from 1 to `capacity`. The longest piece comes first, and goes into the fullest row that has
    room for it, else into a new one; among equals, the earlier piece and the row that was filled last. Source of the
    rule: best-fit decreasing, as in Ding et al., «Fewer Truncations Improve Language Modeling» (2024).
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    rows = np.empty(len(order), dtype=np.int64)
    # Rows by the room they have left, and a number whose bits tell which of these stacks are not empty.
    stacks: list[list[int]] = [[] for _ in range(capacity + 1)]
    mask = count = 0
    found: list[int] = []
    sorted_lengths = np.asarray(lengths, dtype=np.int64)[order].tolist()
    place, total = 0, len(sorted_lengths)
    while place < total:
        length = sorted_lengths[place]
        fitting = mask >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            stack = stacks[room]
            row = stack.pop()
            if not stack:
                mask ^= 1 << room
        else:
            row, room = count, capacity
            count += 1
        # A row that takes one piece of a length takes the next of the same length too: it is the fullest that can.
        while room >= length and place < total and sorted_lengths[place] == length:
            found.append(row)
            room -= length
            place += 1
        if room:
            if not stacks[room]:
                mask ^= 1 << room
            stacks[room].append(row)
    rows[order] = found
    return rows, order
