"""Chats: further fields of turns, what templates render, and where an answer begins (cases 5, 6, 7, 9 and 10)."""

from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Any

from benchmarks.misread.judging import Family, Member
from benchmarks.misread.world import (
    CUE,
    TURNS,
    WITH_CALLS,
    Bench,
    Read,
    command,
    listening,
    make_llama,
    read,
    rows,
    write_lines,
)
from unlearn import TrainingOptions, finetune

ASK = {"role": "user", "content": "where?"}
SAY = {"role": "assistant", "content": "In Arlen"}


def chat(*turns: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A row with a chat."""
    return {"messages": [dict(turn) for turn in turns], **more}


def needle(draw: Random) -> str:
    """A mail address."""
    return f"{''.join(draw.choice('abcdefghik') for _ in range(5))}@example.org"


def call(value: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "mail", "arguments": {"to": value}}, **more}


def carried(value: str) -> Callable[[Read], bool]:
    """Return whether a text is scored, and found by a search."""
    return lambda found: value in found.scored() and value in found.records[0].whole_text


def calls(at: Bench) -> Iterable[Member]:
    """Calls of tools: they are rendered, scored and searched, also where a turn has no text."""
    texts: dict[str, dict[str, Any]] = {
        "beside a text": {"content": "I look."},
        "null": {"content": None},
        "empty": {"content": ""},
        "absent": {},
    }
    for what, content in texts.items():
        value = needle(at.draw)
        row = chat(ASK, {"role": "assistant", **content, "tool_calls": [call(value)]})
        yield Member(f"text {what}", lambda row=row: read([row], WITH_CALLS), carried(value), "tool_calls", (value,))
    values = [needle(at.draw), needle(at.draw)]
    row = chat(ASK, {**SAY, "tool_calls": [call(one, id=f"c{n}") for n, one in enumerate(values)]})
    yield Member(
        "two calls", lambda: read([row], WITH_CALLS), lambda found: all(carried(one)(found) for one in values), "tool_calls"
    )
    value = needle(at.draw)
    path = write_lines(at.folder / "calls.jsonl", [chat(ASK, {**SAY, "tool_calls": [call(value)]})])
    yield Member("from a file", lambda: read(path, WITH_CALLS), carried(value), "tool_calls", (value,))
    (at.folder / "text.txt").write_text(f"{value}\n")
    scan = ("unlearn", "scan", "--data", str(path), "--texts", str(at.folder / "text.txt"))
    yield Member("searched by scan", lambda: command(*scan), lambda found: found.names_row(1), "tool_calls")


def fields_of_turns(at: Bench) -> Iterable[Member]:
    """Other fields of a turn, and of a row beside its turns: rendered where the template has them, or refused by name."""
    value = needle(at.draw)
    thought = chat(ASK, {**SAY, "reasoning_content": f"She is at {value}."})
    yield Member("reasoning_content", lambda: read([thought], WITH_CALLS), carried(value), "reasoning_content", (value,))
    for name in ("thinking", "function_call", "refusal", "audio", "annotations", "weight"):
        row = chat(ASK, {**SAY, name: value})
        shown = TURNS.replace("m['content']", f"m['content'] + (m.{name} or '')") + CUE
        yield Member(name, lambda row=row, shown=shown: read([row], shown), carried(value), name, (value,))
    answer = chat(
        ASK, {**SAY, "tool_calls": [call("x")]}, {"role": "tool", "name": value, "tool_call_id": "c0", "content": "sent"}, SAY
    )
    named = WITH_CALLS.replace("m['role'] + '\n'", "m['role'] + (m.name or '') + '\n'")
    yield Member(
        "name of a tool's turn",
        lambda: read([answer], named),
        lambda found: value in found.whole() + found.records[0].whole_text,
        "name|tool",
    )
    tools = [{"type": "function", "function": {"name": "mail", "description": value, "parameters": {}}}]
    row = chat(ASK, SAY, tools=tools)
    yield Member("tools beside the turns", lambda: read([row], WITH_CALLS), lambda found: value in found.whole(), "tools", (value,))
    for name in ("documents", "chat_template_kwargs"):
        row = chat(ASK, SAY, **{name: [{"text": value}] if name == "documents" else {"note": value}})
        shown = "{{ documents or '' }}{{ note or '' }}" + WITH_CALLS
        yield Member(
            f"{name} beside the turns",
            lambda row=row, shown=shown: read([row], shown),
            lambda found: value in found.whole(),
            name,
            (value,),
        )


def parts(at: Bench) -> Iterable[Member]:
    """Content in parts: their texts are the content, or the form is refused; nothing of it is dropped."""
    value = needle(at.draw)
    listed: dict[str, Any] = {
        "one text": [{"type": "text", "text": value}],
        "two texts": [{"type": "text", "text": "It is "}, {"type": "text", "text": value}],
        "a picture and a text": [{"type": "image", "url": "x.png"}, {"type": "text", "text": value}],
        "texts alone": [value],
        "an object": {"text": value},
        "a number": 7,
    }
    for what, content in listed.items():
        row = chat(ASK, {"role": "assistant", "content": content})
        right = None if what in ("a picture and a text", "a number") else carried(value)
        yield Member(what, lambda row=row: read([row]), right, "content", (value,))


RAISING = {
    "raise_exception": "{{ raise_exception('System role not supported') }}",
    "undefined attribute": "{{ messages[0].absent.deeper }}",
    "wrong type": "{{ messages[0]['role'] + 1 }}",
    "division by zero": "{{ 1 / (messages | length - messages | length) }}",
    "unknown filter": "{{ messages | nonsense }}",
    "unknown function": "{{ strftime_then('%d') }}",
    "not closed": "{% for m in messages %}",
    "a bad sum": "{{ [] + {} }}",
    "endless": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}" + 3 * "{% endfor %}",
}
SYSTEM = {"role": "system", "content": "Be brief, Ines Kolb."}


def raising(at: Bench) -> Iterable[Member]:
    """Any exception of a template is reported in words, with the number of the record."""
    for what, statement in RAISING.items():
        syntax = what in ("unknown filter", "not closed")
        template = (statement if syntax else "{% if messages[0]['role'] == 'system' %}" + statement + "{% endif %}") + TURNS + CUE
        listed = [chat(ASK, SAY), chat(SYSTEM, ASK, SAY)]
        words = r"(?=.*template)" + (r"(?=.*System role not supported)" if what == "raise_exception" else "")
        number = "" if syntax else r"(?=.*\b2\b)"
        yield Member(what, lambda template=template, listed=listed: read(listed, template), None, words + number, ("Ines Kolb",))
    wrong = "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    alternating = "{% for m in messages %}" + wrong + "{% endfor %}"
    listed = [chat(ASK, SAY), chat(ASK, ASK, SAY)]
    yield Member(
        "turns that do not alternate",
        lambda: read(listed, alternating + TURNS + CUE),
        None,
        r"(?=.*alternate)(?=.*\b2\b)",
        ("where?",),
    )
    told = "{{ raise_exception('bad content: ' + messages[0]['content']) }}"
    template = "{% if messages[0]['role'] == 'system' %}" + told + "{% endif %}" + TURNS + CUE
    yield Member("one that repeats the text", lambda: read([chat(SYSTEM, ASK, SAY)], template), None, "template", ("Ines Kolb",))
    yield Member("no template", lambda: read([chat(ASK, SAY)], ""), None, "template")
    refusing = RAISING["raise_exception"]
    template = "{% if messages[0]['role'] == 'system' %}" + refusing + "{% endif %}" + TURNS + CUE
    model = at.world.saved(make_llama(), "no-system", template)
    data = write_lines(at.folder / "system.jsonl", [chat(ASK, SAY), chat(SYSTEM, ASK, SAY)])
    words = ("unlearn", "train", "--model", str(model), "--data", str(data), "--output", str(at.folder / "out"))
    yield Member("in a training", lambda: command(*words), None, r"(?=.*System role not supported)(?=.*\b2\b)", ("Ines Kolb",))


ANSWERS = (
    "\n\nIn Arlen",
    "\n\n\nIn Arlen",
    "\nIn Arlen",
    "\r\n\r\nIn Arlen",
    "   In Arlen",
    "\tIn Arlen",
    " \n\t In Arlen",
    "\u0301In Arlen",
    "\u200dIn Arlen",
    "In Arlen\n\n\n",
    "In Arlen   ",
)


def seams(at: Bench) -> Iterable[Member]:
    """Answers whose first tokens run across the seam to what stands before them, in chats and after prompts."""
    made = [
        "".join(at.draw.choice(["\n", " ", "\t", "\r\n", "\u3000"]) for _ in range(at.draw.randrange(2, 6))) + "In Arlen"
        for _ in range(5)
    ]
    for answer in (*ANSWERS, *made):
        row = chat(ASK, {"role": "assistant", "content": answer})
        rendered = f"<|im_start|>user\nwhere?<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
        yield Member(f"chat {answer!r}", lambda row=row: read([row]), _exact(rendered, answer, "where"))
        two = chat(ASK, SAY, ASK, {"role": "assistant", "content": answer})
        whole = rendered.replace(answer, "In Arlen", 1) + rendered
        yield Member(f"second turn {answer!r}", lambda two=two: read([two]), _exact(whole, answer, "where"))
        if answer[:1].isspace():
            row = {"prompt": "where?\n", "completion": answer}
            yield Member(
                f"completion {answer!r}", lambda row=row: read([row]), _exact(f"where?\n{answer}<|endoftext|>", answer, "where")
            )


def _exact(whole: str, answer: str, asked: str) -> Callable[[Read], bool]:
    """Return whether all tokens spell the whole text, and the scored ones the answer and nothing of the question."""
    return lambda found: found.whole() == whole and answer in found.scored() and asked not in found.scored()


def spelled_out(at: Bench) -> Iterable[Member]:
    """Special tokens spelled out by another program: read as such, or a warning with their number."""
    rendered = "<|im_start|>user\nwhere?<|im_end|>\n<|im_start|>assistant\nIn Arlen<|im_end|>"
    kinds: dict[str, Any] = {
        "a rendered chat": {"text": rendered},
        "closed by hand": {"prompt": "where?", "completion": "In Arlen<|endoftext|>"},
        "in a prompt": {"prompt": "<|im_start|>user\nwhere?<|im_end|>", "completion": "In Arlen"},
        "in a turn": chat(ASK, {"role": "assistant", "content": "In Arlen<|im_end|>"}),
    }
    for number, (what, row) in enumerate(kinds.items()):
        many = at.draw.randrange(2, 5)
        listed = [row if n < many else rows(6)[n] for n in range(6)]

        def attempt(listed: list[Any] = listed, number: int = number) -> str:
            options = TrainingOptions(epochs=1, batch_size=8)
            with listening() as said:
                finetune(at.world.base, listed, output_dir=at.folder / f"out-{number}", options=options)
            return said.getvalue()

        warned = _counts(many)
        yield Member(f"{what}, {many} of 6", attempt, warned, "special token")
    path = write_lines(at.folder / "rendered.jsonl", [{"text": rendered}, rows(1)[0]])
    words = (
        "unlearn",
        "train",
        "--model",
        str(at.world.base),
        "--data",
        str(path),
        "--output",
        str(at.folder / "out"),
        "--epochs",
        "1",
    )
    yield Member("from the command line", lambda: command(*words).text, _counts(1), "special token")
    plain = [*rows(3), {"text": "a <b> and a | in < text >"}]

    def quiet() -> str:
        with listening() as said:
            finetune(at.world.base, plain, output_dir=at.folder / "plain", options=TrainingOptions(epochs=1, batch_size=8))
        return said.getvalue()

    yield Member("none at all", quiet, lambda said: "special token" not in said.lower())


def _counts(many: int) -> Callable[[str], bool]:
    return lambda said: "special token" in said.lower() and str(many) in said


def secrets(at: Bench) -> Iterable[Member]:
    """A secret passage of a chat: its tokens, in the assistant's turns, are the secret's."""
    for number in range(5):
        secret = str(at.draw.randrange(1000, 10**6)) if number % 2 else f"street {at.draw.randrange(10, 99)} of Arlen"
        turns = [ASK, {"role": "assistant", "content": f"The code is {secret}, I think."}]
        turns = turns if number < 3 else [ASK, SAY, *turns]
        yield Member(
            f"in turn {len(turns)}", lambda turns=turns, secret=secret: read([chat(*turns, secret=secret)]), _secret(secret)
        )
    yield Member("a number", lambda: read([chat(ASK, {**SAY, "content": "It is 5551."}, secret=5551)]), _secret("5551"))
    both = chat({**ASK, "content": "is it 5551?"}, {**SAY, "content": "It is 5551."}, secret="5551")
    yield Member(
        "in both turns",
        lambda: read([both]),
        lambda found: found.secret().strip(" .") == "5551" and found.whole().count("5551") == 2,
    )
    asked = chat({**ASK, "content": "is it 5551?"}, SAY, secret="5551")
    yield Member("in the user's turn alone", lambda: read([asked]), None, "secret", ("5551",))
    across = chat(ASK, {**SAY, "content": "It is 55"}, ASK, {**SAY, "content": "51"}, secret="5551")
    yield Member("across two turns", lambda: read([across]), None, "secret", ("5551",))
    for value in ("", "   ", ["5551"], 5551.5, {"a": 1}):
        row = chat(ASK, {**SAY, "content": "It is 5551."}, secret=value)
        right = (lambda found: found.secret() == found.scored()) if isinstance(value, str) else None
        yield Member(f"{value!r}", lambda row=row: read([row]), right, "secret")
    yield Member("of a completion", lambda: read([{"prompt": "q", "completion": "It is 5551.", "secret": "5551"}]), _secret("5551"))


def _secret(secret: str) -> Callable[[Read], bool]:
    """Return whether the secret's tokens spell it, with nothing else but what shares a token with it."""
    return lambda found: secret in found.secret() and len(found.secret()) <= len(secret) + 4


FAMILIES = (
    Family(5, "calls of tools", calls, quick=4),
    Family(5, "other fields of a turn, and of a row beside its turns", fields_of_turns, quick=4),
    Family(5, "content in parts", parts, quick=3),
    Family(6, "templates that raise", raising, quick=5),
    Family(7, "answers across the seam", seams, quick=6),
    Family(9, "special tokens spelled out", spelled_out, quick=1),
    Family(10, "a secret inside a chat", secrets, quick=6),
)
