"""Questions of fact in the form of instructions: natural_questions, hotpotqa."""

from __future__ import annotations

from typing import Any

from hfassets.distillation.mapping import (
    Mapped,
    Row,
    RowRefusedError,
    dialogue,
    extra,
    list_of,
    malformed,
    struct_of,
    text_of,
)

# google-research-datasets/natural_questions: the class label `yes_no_answer`; -1 stands for none.
_YES_NO = {0: "no", 1: "yes"}


def natural_questions(row: Row) -> Mapped:
    """google-research-datasets/natural_questions: the short answers, else yes or no, else the long answer's text.

    A question that no annotator could answer is counted as `unanswerable`.
    """
    question = text_of(struct_of(row, "question"), "text").strip()
    annotations = _annotations(row.get("annotations"))
    short = list(dict.fromkeys(text for one in annotations for text in _short(one)))
    yes_no = next((_YES_NO[value] for one in annotations if (value := one.get("yes_no_answer")) in _YES_NO), None)
    long = next((text for one in annotations if (text := _long(one.get("long_answer"), row.get("document")))), None)
    answer = ", ".join(short) or yes_no or long
    if not answer:
        raise RowRefusedError("unanswerable", "no annotator gave an answer")
    document = row.get("document")
    title = document.get("title") if isinstance(document, dict) else None
    metadata: dict[str, Any] = {
        "type": "factual_question",
        "answer_type": "short" if short else "yes_no" if yes_no else "long",
        "final_answer": answer,
        **({"short_answers": short} if short else {}),
        **({"yes_no_answer": yes_no} if yes_no else {}),
        **({"long_answer": long} if long else {}),
        **({"title": title} if title else {}),
    }
    asked = question if question.endswith("?") else f"{question}?"
    return Mapped(dialogue(asked[:1].upper() + asked[1:], answer), metadata)


def _annotations(value: object) -> list[dict[str, Any]]:
    """One object an annotator, from a list of objects or (as the Parquet files have it) an object of lists."""
    if isinstance(value, dict):
        columns = {name: items for name, items in value.items() if isinstance(items, list)}
        count = max(map(len, columns.values()), default=0)
        return [{name: items[n] for name, items in columns.items() if n < len(items)} for n in range(count)]
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        return value
    raise malformed("annotations are neither a list nor an object")


def _short(annotation: dict[str, Any]) -> list[str]:
    answers = annotation.get("short_answers") or []
    texts = answers.get("text") or [] if isinstance(answers, dict) else [one.get("text") for one in answers]
    flat = [text for one in texts for text in (one if isinstance(one, list) else [one])]
    return [text.strip() for text in flat if isinstance(text, str) and text.strip()]


def _long(answer: object, document: object) -> str | None:
    """The words of a long answer: the document's tokens in its range that are no HTML."""
    if isinstance(answer, list):
        answer = answer[0] if answer else None
    if not isinstance(answer, dict) or not isinstance(document, dict):
        return None
    start, end = answer.get("start_token"), answer.get("end_token")
    tokens = document.get("tokens")
    if not isinstance(start, int) or not isinstance(end, int) or not 0 <= start < end:
        return None
    if isinstance(tokens, dict):
        words, html = tokens.get("token") or [], tokens.get("is_html") or []
    elif isinstance(tokens, list):
        words, html = [one.get("token") for one in tokens], [one.get("is_html") for one in tokens]
    else:
        return None
    kept = [word for word, tag in zip(words[start:end], html[start:end], strict=False) if not tag and word]
    return " ".join(kept) or None


def hotpotqa(row: Row) -> Mapped:
    """hotpotqa/hotpot_qa: the paragraphs and the question, the answer; supporting facts as the chain of reasoning."""
    context = struct_of(row, "context")
    titles, paragraphs = list_of(context, "title"), list_of(context, "sentences")
    if len(titles) != len(paragraphs) or not all(isinstance(one, list) for one in paragraphs):
        raise malformed("context: a list of sentences is needed for each title")
    shown = "\n".join(
        f"{title}: {''.join(map(str, sentences)).strip()}" for title, sentences in zip(titles, paragraphs, strict=True)
    )
    question = text_of(row, "question").strip()
    metadata = {
        "type": row.get("type") or "multi_hop",
        **extra(row, "level"),
        "final_answer": text_of(row, "answer").strip(),
        "supporting_facts": _chain(row.get("supporting_facts"), dict(zip(titles, paragraphs, strict=True))),
    }
    asked = f"{shown}\n\nQuestion: {question}" if shown else question
    return Mapped(dialogue(asked, text_of(row, "answer")), metadata)


def _chain(facts: object, paragraphs: dict[str, list[str]]) -> list[dict[str, Any]]:
    """The sentences that the answer rests on, in their order; a fact that points nowhere keeps its place only."""
    if not isinstance(facts, dict):
        return []
    chain = []
    for title, place in zip(facts.get("title") or [], facts.get("sent_id") or [], strict=False):
        sentences = paragraphs.get(title) or []
        there = isinstance(place, int) and 0 <= place < len(sentences)
        chain.append({"title": title, "sentence": place, **({"text": sentences[place].strip()} if there else {})})
    return chain
