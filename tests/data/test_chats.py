"""What a chat's turns carry beside their text is rendered, scored and searched, or refused by name; templates raise anything."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from encoded import WITH_BEGIN, decode, encode_one
from tiny_models import make_tokenizer

from unlearn.methods._alternatives import instead
from unlearn.purge.content_search import ContentSearch
from unlearn.purge.suppression import SuppressionList
from unlearn.scan.search import find_records
from verify.attacks.extraction.exposure import _with_secret
from verify.data.encoding import Encoder
from verify.data.identity import RecordKey
from verify.data.records import Fields, Record, parse_records
from verify.data.sources import load_records
from verify.errors import InputError

ADDRESS = "ines.kolb@example.org"
CALL = {"type": "function", "function": {"name": "mail", "arguments": {"to": ADDRESS}}}
ASKED = {"role": "user", "content": "write to her"}
TOOLS = (
    "{% if tools %}<s>tools{{ tools | tojson }}</s>{% endif %}{% for d in documents or [] %}<s>{{ d.text }}</s>{% endfor %}"
    "{% for m in messages %}<s>{{ m.role }}\n"
    "{% if m.reasoning_content is defined and m.reasoning_content %}[{{ m.reasoning_content }}]{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def with_template(template: str) -> Any:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def record_of(*messages: Any, **row: Any) -> Record:
    (record,) = parse_records([{"messages": list(messages), **row}], Fields(), "chats.jsonl")
    return record


@pytest.mark.parametrize(
    "turn",
    [
        {"content": "Looking it up.", "tool_calls": [CALL]},
        {"content": None, "tool_calls": [CALL]},
        {"tool_calls": [CALL]},
        {"content": "", "tool_calls": [CALL], "name": None, "audio": {}},
        {"content": "Sent.", "reasoning_content": ADDRESS},
        {"content": "Sent.", "tool_calls": [{"function": {"name": "mail", "arguments": json.dumps({"to": ADDRESS})}}]},
        {"content": "Sent.", "tool_calls": [{"function": {"name": "mail", "arguments": f'{{"to": "{ADDRESS}", "to": "nobody"}}'}}]},
    ],
    ids=[
        "call and text",
        "call and null",
        "call alone",
        "call and blanks",
        "reasoning",
        "arguments as text",
        "arguments that name it twice",
    ],
)
def test_what_a_turn_carries_is_rendered_scored_and_searched(turn: dict[str, Any], tmp_path: Path) -> None:
    """The address in a call or in reasoning is among the scored tokens, and every search finds it."""
    record = record_of(ASKED, {"role": "assistant", **turn})
    scored = decode(WITH_BEGIN, encode_one(with_template(TOOLS), record).scored_ids)
    assert ADDRESS in scored
    assert "write to her" not in scored
    assert "None" not in scored
    assert ADDRESS in record.scored_text
    assert ADDRESS in record.whole_text
    data, key = tmp_path / "d.jsonl", RecordKey.load()
    data.write_text(json.dumps({"messages": [ASKED, {"role": "assistant", **turn}]}) + "\n")
    assert [match.how for match in find_records([data], key, texts=[ADDRESS], near=False)] == ["text"]
    assert ContentSearch([record]).holds(f"log: {ADDRESS} asked".encode())
    listed = SuppressionList()
    listed.add([record], key)
    assert [hit.how for hit in listed.check(data, key)] == ["record"]


def test_identity_covers_what_turns_carry() -> None:
    """Other calls are another record; the order of names, nulls and the file's format are not; plain chats keep their names."""
    said = {"role": "assistant", "content": "Done."}
    plain = record_of(ASKED, said)
    assert plain.fingerprint == record_of(ASKED, {**said, "tool_calls": None, "name": ""}).fingerprint == plain.text_fingerprint
    assert plain == Record(plain.example_id, messages=(("user", "write to her"), ("assistant", "Done.")), named=False)
    one = record_of(ASKED, {**said, "tool_calls": [CALL]})
    other_order = record_of(ASKED, {"tool_calls": [dict(reversed(CALL.items()))], **said})
    other_call = record_of(ASKED, {**said, "tool_calls": [{**CALL, "id": "1"}]})
    with_tools = record_of(ASKED, said, tools=[{"name": "mail"}])
    assert one.fingerprint == other_order.fingerprint
    assert len({record.fingerprint for record in (plain, one, other_call, with_tools)}) == 4


def test_a_suppressed_chat_is_known_with_and_without_its_calls(tmp_path: Path) -> None:
    """A list from before calls counted names a chat by its texts alone; it still keeps it out."""
    said, key = {"role": "assistant", "content": "Done."}, RecordKey.load()
    listed, data = SuppressionList(), tmp_path / "d.jsonl"
    listed.add([record_of(ASKED, said)], key)
    data.write_text(json.dumps({"messages": [ASKED, {**said, "tool_calls": [CALL]}]}) + "\n")
    assert [hit.how for hit in listed.check(data, key)] == ["record"]


def test_columnar_formats_give_the_same_record(tmp_path: Path) -> None:
    """Parquet and Arrow fill absent fields with null; that is nothing a turn carries."""
    rows = [
        {"messages": [ASKED, {"role": "assistant", "content": "", "tool_calls": [CALL]}]},
        {"messages": [ASKED, {"role": "assistant", "content": "Done."}]},
    ]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = datasets.Dataset.from_list(rows)
    table.to_parquet(tmp_path / "d.parquet")
    table.save_to_disk(tmp_path / "saved")
    expected = [record.text_fingerprint for record in load_records(str(tmp_path / "d.jsonl"))]
    for source in ("d.parquet", "saved"):
        found = load_records(str(tmp_path / source))
        assert [record.text_fingerprint for record in found] == expected
        assert [bool(record.turn_fields) for record in found] == [True, False]
        assert ADDRESS in found[0].scored_text


def test_parts_of_text_are_the_text() -> None:
    """A content in parts is the same record as the same content in one piece."""
    parts = [{"type": "text", "text": "In "}, {"type": "text", "text": "Arlen", "cache": None}]
    assert record_of({"role": "assistant", "content": parts}) == record_of({"role": "assistant", "content": "In Arlen"})


@pytest.mark.parametrize(
    ("turn", "row", "named"),
    [
        ({"content": [{"type": "image", "url": "x"}]}, {}, "'image'"),
        ({"content": [{"type": "text", "text": "a", "cache_control": {"x": 1}}]}, {}, "'cache_control'"),
        ({"content": "a", "score": float("nan")}, {}, "'score'"),
        ({"content": "a", "at": object()}, {}, "'at'"),
        ({"content": "a"}, {"functions": [{"name": "f"}]}, "'functions'"),
        ({"content": "a"}, {"tools": "not JSON"}, "'tools'"),
        ({"content": "a"}, {"chat_template_kwargs": {"tokenize": True}}, "'chat_template_kwargs'"),
        ({"content": "a"}, {"tools": '[{"a": 1, "a": 2}]'}, "'tools'"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_what_cannot_be_kept_is_refused_by_name(turn: dict[str, Any], row: dict[str, Any], named: str) -> None:
    """The message names the row and the field, and gives no value."""
    with pytest.raises(InputError, match=rf"chats\.jsonl, row 1.*{named}"):
        record_of({"role": "assistant", **turn}, **row)


@pytest.mark.parametrize(
    ("turn", "row", "named"),
    [
        ({"tool_calls": [CALL]}, {}, "the field 'tool_calls' of message 2"),
        ({"reasoning_content": "because"}, {}, "'reasoning_content'"),
        ({"weight": 0.5}, {}, "'weight'"),
        ({"audio": {"id": "x"}}, {}, "'audio'"),
        ({}, {"tools": [{"name": "mail"}]}, "the column 'tools'"),
        ({}, {"documents": [{"text": "x"}]}, "the column 'documents'"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_what_a_template_passes_over_is_refused_by_name(turn: dict[str, Any], row: dict[str, Any], named: str) -> None:
    """A field that leaves no trace in the rendered chat would be neither trained nor scored."""
    record = record_of(ASKED, {"role": "assistant", "content": "Done.", **turn}, **row)
    with pytest.raises(InputError, match=f"record 1: the chat template does not render .*{named}"):
        encode_one(WITH_BEGIN, record)


def test_rows_beside_the_messages_reach_the_template() -> None:
    """Tools, documents and switches are rendered, and not scored; tools may be JSON text."""
    template = TOOLS.replace("{% if tools %}", "{% if loud is defined and loud %}!{% endif %}{% if tools %}")
    row = {"tools": '[{"name": "mail"}]', "documents": [{"text": "Ines lives here"}], "chat_template_kwargs": {"loud": True}}
    record = record_of(ASKED, {"role": "assistant", "content": "Done."}, **row)
    window = encode_one(with_template(template), record)
    assert decode(WITH_BEGIN, window.input_ids).startswith('!<s>tools[{"name": "mail"}]</s><s>Ines lives here</s><s>user')
    assert decode(WITH_BEGIN, window.scored_ids) == "Done.</s>\n"
    assert "Ines lives here" in record.whole_text
    assert "mail" not in record.whole_text
    assert "mail" in record.all_texts


def test_calls_cannot_forge_special_tokens() -> None:
    """What a call or a tool's description spells out stays text, as in a content."""
    call = {"function": {"name": "</s>", "arguments": {"to": "<s>user"}}}
    plain = {"function": {"name": "ab", "arguments": {"to": "cd"}}}
    windows = [
        encode_one(with_template(TOOLS), record_of(ASKED, {"role": "assistant", "content": "x", "tool_calls": [one]}, tools=[tool]))
        for one, tool in ((call, {"name": "<pad>"}), (plain, {"name": "ef"}))
    ]
    for token in WITH_BEGIN.all_special_ids:
        assert (windows[0].input_ids == token).sum() == (windows[1].input_ids == token).sum()


PRIVATE = "Ines Kolb"
RAISING = {
    "refuses a role": ("{{ raise_exception('System role not supported') }}", "System role not supported"),
    "repeats the record": ("{{ raise_exception('Unexpected: ' + messages[0].content) }}", r"Unexpected: \.\.\. \.\.\."),
    "looks up a name": ("{{ {}[messages[0].content].x }}", "UndefinedError"),
    "undefined": ("{{ nothing.at_all }}", "'nothing' is undefined"),
    "wrong type": ("{{ messages + 1 }}", "TypeError"),
    "division": ("{{ 1 / 0 }}", "ZeroDivisionError"),
    "syntax": ("{% for %}", "TemplateSyntaxError"),
    "sandbox": ("{{ ''.__class__.__mro__ }}", "SecurityError"),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    "too long a range": ("{% for i in range(10 ** 9) %}{% endfor %}", "OverflowError"),
    "nothing": ("", "renders nothing|no chat template"),
}


@pytest.mark.parametrize(("template", "said"), RAISING.values(), ids=RAISING.keys())
def test_whatever_a_template_raises_is_an_error_with_the_record(template: str, said: str) -> None:
    """The message has the record's number and what the template said, and nothing of the record."""
    fine = Record("a", prompt="p", completion="c")
    chat = record_of({"role": "user", "content": PRIVATE}, {"role": "assistant", "content": "x"})
    with pytest.raises(InputError, match=said) as caught:
        Encoder(with_template(template), 64).encode([fine, chat])
    assert "record 2" in str(caught.value)
    assert "Ines" not in str(caught.value)
    assert "Kolb" not in str(caught.value)


def test_a_turn_of_calls_follows_the_template_on_null() -> None:
    """A template that asks whether there is a content is told that there is none; one that fails without is handed an empty one."""
    record = record_of(ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]})
    called = (
        "{% if m.content is not defined or m.content is none %}CALL {{ m.tool_calls | tojson }}{% else %}{{ m.content }}{% endif %}"
    )
    asks = f"{{% for m in messages %}}<s>{called}</s>{{% endfor %}}"
    assert "CALL" in decode(WITH_BEGIN, encode_one(with_template(asks), record).scored_ids)
    joins = "{% for m in messages %}<s>{{ 'x' + m.content }}{{ m.tool_calls | tojson if m.tool_calls else '' }}</s>{% endfor %}"
    assert ADDRESS in decode(WITH_BEGIN, encode_one(with_template(joins), record).scored_ids)


@pytest.mark.parametrize("secret", ["5551", 'say "5551"', "Zoë\n5551"], ids=repr)
def test_a_secret_in_any_assistant_turn(secret: str) -> None:
    """Its tokens are the secret's in every assistant turn and call that holds it, and nowhere else."""
    call = {"function": {"name": "pay", "arguments": {"pin": secret}}}
    record = record_of(
        {"role": "user", "content": f"is it {secret}?"},
        {"role": "assistant", "content": f"The code is {secret}."},
        {"role": "user", "content": "pay"},
        {"role": "assistant", "content": "Paid.", "tool_calls": [call]},
        secret=secret,
    )
    window = encode_one(with_template(TOOLS), record)
    assert not (window.secret & ~window.scored).any()
    runs = np.split(window.input_ids, np.flatnonzero(np.diff(window.secret.astype(int))) + 1)
    marked = [decode(WITH_BEGIN, run) for run in runs[1::2]]
    assert len(marked) == 2
    assert secret in marked[0]
    assert json.dumps(secret, ensure_ascii=False)[1:-1] in marked[1]
    assert secret not in decode(WITH_BEGIN, window.input_ids[~window.secret & window.scored])


def test_a_secret_outside_the_assistant_turns_is_refused() -> None:
    """A passage that only the user says is nothing that the model could give away as an answer."""
    with pytest.raises(InputError, match="row 1: the 'secret' passage does not occur in an assistant's turn"):
        record_of({"role": "user", "content": "5551"}, {"role": "assistant", "content": "ok"}, secret="5551")
    strips = "{% for m in messages %}<s>{{ m.role }}{{ m.content | replace('5551', '') }}</s>{% endfor %}"
    with pytest.raises(InputError, match="record 1: the chat template does not show the secret"):
        encode_one(with_template(strips), record_of(ASKED, {"role": "assistant", "content": "ok 5551"}, secret=5551))


def test_changed_records_keep_what_turns_carry_in_place() -> None:
    """Another secret is put into calls too; another answer drops the calls of the turn that it replaces."""
    record = record_of(ASKED, {"role": "assistant", "content": "ok", "tool_calls": [CALL]}, secret=ADDRESS)
    assert _with_secret(record, "x@y").assistant_texts[-1] == "x@y"
    replaced = instead(record, "I do not know.")
    assert replaced.scored_text == "I do not know."
    assert ADDRESS not in replaced.whole_text


@pytest.mark.parametrize("switches", [{1: True}, {None: 1}, {("a",): 1}, {"tokenize": True}], ids=repr)
def test_switches_of_a_template_have_names(switches: Any) -> None:
    """Another key than text is refused with the row."""
    with pytest.raises(InputError, match=r"chats\.jsonl, row 1: 'chat_template_kwargs'"):
        record_of(ASKED, {"role": "assistant", "content": "Done."}, chat_template_kwargs=switches)


def test_a_role_may_be_a_name() -> None:
    """An uncommon role is searched, and no error repeats it; the fingerprints of records stay."""
    record = record_of(
        {"role": "Ines Kolb of Arlen, Harbour Street", "content": "hello there"}, {"role": "assistant", "content": "Done."}
    )
    assert "Ines Kolb of Arlen, Harbour Street" in record.all_texts
    assert ContentSearch([record], [Record("r", completion="another text")]).holds(
        b"a log: Ines Kolb of Arlen, Harbour Street said"
    )
    assert "user" not in record_of(ASKED, {"role": "assistant", "content": "Done."}).all_texts
    assert record.fingerprint == record.text_fingerprint
    assert record.fingerprint == "c724fc8b01583a029b089581ec6e6a3ef9280ec306c1e3579319f1857b4ce7c6"
    template = "{{ raise_exception('unknown role ' + messages[0].role) }}"
    with pytest.raises(InputError, match="unknown role") as caught:
        encode_one(with_template(template), record)
    assert "Kolb" not in str(caught.value)


def test_a_template_that_does_not_know_the_system_role_says_so() -> None:
    """The remedy fits the cause: only where the chat would be accepted without its system turn."""
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + TOOLS
    turns = [ASKED, {"role": "assistant", "content": "done"}]
    encoder = Encoder(with_template(refusing), 200)
    system = {"messages": [{"role": "system", "content": "be brief"}, *turns]}
    with pytest.raises(
        InputError, match=r"It does not know the system role\. Put the system text in front of the first user's turn"
    ):
        encoder.encode(parse_records([system], Fields(), "file"))
    assert encoder.encode(parse_records([{"messages": turns}], Fields(), "file"))
    with pytest.raises(InputError) as refused:
        Encoder(with_template("{{ raise_exception('no') }}"), 200).encode(parse_records([system], Fields(), "file"))
    assert "system role" not in str(refused.value)
