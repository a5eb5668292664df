"""`python -m hfassets.parts.worker PLAN INDEX...`: the entry point of pools whose processes run on other machines.

Exit code 0 when the parts are done, 1 after a failure (each on stderr), 2 for wrong usage.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hfassets.errors import DataError, HfassetsError
from hfassets.parts.make import attempt, stored_plan


def main(arguments: list[str]) -> int:
    """Make the parts with the given indexes, one after the other."""
    if len(arguments) < 2 or not all(index.isdecimal() for index in arguments[1:]):
        _say("usage: python -m hfassets.parts.worker PLAN INDEX...")
        return 2
    plan_file = Path(arguments[0])
    failed = 0
    try:
        plan, _ = stored_plan(plan_file)
        for index in map(int, arguments[1:]):
            if index >= len(plan.parts):
                raise DataError(f"{plan_file}: there is no part {index}, it has {len(plan.parts)}")
            outcome = attempt(plan_file, plan.fingerprint, index)
            if outcome.error is not None:
                failed = 1
                _say(f"{outcome.trace or ''}hfassets: error: {plan.parts[index]['name']}: {outcome.error}")
    except HfassetsError as error:
        _say(f"hfassets: error: {error}")
        return 1
    return failed


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
