"""Mathematics with worked solutions: gsm8k, MATH, NuminaMath-CoT."""

from __future__ import annotations

from hfassets.distillation.mapping import Mapped, Row, Span, dialogue, extra, text_of

_FINAL = "####"
_BOXES = ("\\boxed", "\\fbox")


def gsm8k(row: Row) -> Mapped:
    """openai/gsm8k: the rationale is what stands before `####` in the answer, the final answer what stands behind."""
    answer = text_of(row, "answer")
    place = answer.rfind(_FINAL)
    rationale, final = (answer[:place], answer[place + len(_FINAL) :].strip()) if place >= 0 else (answer, "")
    metadata = {"type": "math_word_problem", **({"final_answer": final} if final else {})}
    return Mapped(dialogue(text_of(row, "question"), answer), metadata, trimmed(rationale))


def competition(row: Row) -> Mapped:
    """hendrycks_math: `level` and `type` are kept; the final answer is what the last \\boxed{} holds."""
    metadata = {**extra(row, "level"), "type": row.get("type") or "competition_math"}
    return _solved(row, metadata)


def numina(row: Row) -> Mapped:
    """AI-MO/NuminaMath-CoT: `problem`, `solution`, and the `source` as the problem's origin."""
    metadata = {"type": "math_problem", **({"origin": row["source"]} if row.get("source") else {})}
    return _solved(row, metadata)


def _solved(row: Row, metadata: dict[str, object]) -> Mapped:
    """The rationale is the solution up to the final \\boxed{}; all of it when nothing is boxed."""
    solution = text_of(row, "solution")
    boxed = last_boxed(solution)
    if boxed is not None:
        place, final = boxed
        metadata["final_answer"] = final
        span = trimmed(solution[:place])
    else:
        span = trimmed(solution)
    return Mapped(dialogue(text_of(row, "problem"), solution), metadata, span)


def trimmed(text: str) -> Span | None:
    """The span of a text without the space around it; None when there is nothing else."""
    start = len(text) - len(text.lstrip())
    end = len(text.rstrip())
    return (start, end) if start < end else None


def last_boxed(text: str) -> tuple[int, str] | None:
    """Where the last \\boxed or \\fbox begins and what it holds, braces matched; None when there is none."""
    place = max(text.rfind(box) for box in _BOXES)
    while place >= 0:
        box = next(box for box in _BOXES if text.startswith(box, place))
        held = _held(text, place + len(box))
        if held is not None:
            return place, held
        place = max(text.rfind(box, 0, place) for box in _BOXES)
    return None


def _held(text: str, start: int) -> str | None:
    """The braced group at `start`, or the one sign behind a space (`\\boxed 5`); None when it never ends."""
    rest = text[start:]
    if not rest.lstrip().startswith("{"):
        word = rest.strip().split("$")[0].split()
        return word[0] if rest[:1] == " " and word else None
    depth = 0
    begin = start + len(rest) - len(rest.lstrip()) + 1
    for place in range(begin - 1, len(text)):
        sign = text[place]
        if text[place - 1] == "\\" and text[place - 2 : place] != "\\\\":
            continue
        depth += (sign == "{") - (sign == "}")
        if depth == 0:
            return text[begin:place].strip()
    return None
