"""Which tokens are scored: the completion and its end, all of it and nothing else."""

import string
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stories260k
import torch
from encoded import WITH_BEGIN, WITHOUT_BEGIN, decode, encode_one
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import CHAT_TEMPLATE, make_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AddedToken, PreTrainedTokenizerFast

from verify.data.encoding import Encoder, collate, padding_token_id, warn_of_spelled_tokens
from verify.data.records import Fields, Record, parse_records
from verify.errors import InputError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
VISIBLE = TEXT.filter(lambda text: text.strip() != "")


@given(prompt=TEXT, completion=VISIBLE)
def test_scored_tokens_spell_the_completion_and_its_end(prompt: str, completion: str) -> None:
    """Whatever the two texts, unscored tokens spell the prompt, scored ones the completion with </s>."""
    window = encode_one(WITH_BEGIN, Record("a", prompt=prompt, completion=completion))
    joint = "" if not prompt or prompt[-1].isspace() or completion[0].isspace() else " "
    assert window.input_ids[0] == WITH_BEGIN.bos_token_id
    assert not window.scored[0]
    assert window.input_ids[-1] == WITH_BEGIN.eos_token_id
    assert window.scored[-1]
    assert decode(WITH_BEGIN, window.input_ids[1:-1]) == prompt + joint + completion
    # A token may straddle the boundary only where white space of both sides meets in one pre-token.
    scored = decode(WITH_BEGIN, window.scored_ids[:-1])
    assert scored.endswith(joint + completion)
    assert set(scored.removesuffix(joint + completion)) <= set(prompt[-40:])
    if joint:
        assert scored == joint + completion
    first = int(np.argmax(window.scored))
    assert window.scored[first:].all(), "the scored tokens are one unbroken run"


def test_mask_token_by_token() -> None:
    """A worked example: each token with its mask, as a reader would mark it by hand."""
    window = encode_one(WITHOUT_BEGIN, Record("a", prompt="Who?", completion="fox"))
    tokens = WITHOUT_BEGIN.convert_ids_to_tokens(window.input_ids.tolist())
    marked = ["".join(tokens[index] for index in range(len(tokens)) if window.scored[index] is np.bool_(flag)) for flag in (0, 1)]
    assert marked == ["Who?", "Ġfox</s>"]


@given(text=VISIBLE)
def test_plain_text_is_scored_but_for_a_first_token_without_context(text: str) -> None:
    """Every token of a plain text is scored; without <s> in front, its first one has nothing to be predicted from."""
    with_begin = encode_one(WITH_BEGIN, Record("a", completion=text))
    without = encode_one(WITHOUT_BEGIN, Record("a", completion=text))
    assert with_begin.scored_ids.tolist() == with_begin.input_ids[1:].tolist()
    assert without.scored_ids.tolist() == without.input_ids[1:].tolist()
    assert with_begin.input_ids[1:].tolist() == without.input_ids.tolist()


@pytest.mark.parametrize("spelled", ["</s>", "<s>", "<pad>", "a </s> b<pad>", "<s></s>"])
def test_spelled_out_special_tokens_stay_text(spelled: str) -> None:
    """A record that spells out a special token gets its characters: only the first and last id are special."""
    window = encode_one(WITH_BEGIN, Record("a", prompt=spelled, completion=f"x{spelled}"))
    special = set(WITH_BEGIN.all_special_ids)
    assert [int(token) in special for token in window.input_ids[1:-1]] == [False] * (len(window.input_ids) - 2)


@given(contents=st.lists(st.tuples(VISIBLE, VISIBLE), min_size=1, max_size=3))
def test_chat_scores_each_assistant_turn_and_nothing_else(contents: list[tuple[str, str]]) -> None:
    """Scored are, turn by turn, the assistant's content and what the template writes to end it."""
    messages = [turn for user, answer in contents for turn in (("user", user), ("assistant", answer))]
    window = encode_one(WITH_BEGIN, Record("a", messages=tuple(messages)))
    runs = np.split(window.input_ids, np.flatnonzero(np.diff(window.scored.astype(int))) + 1)
    spelled = [decode(WITH_BEGIN, run) for run in runs]
    expected = []
    for number, (user, answer) in enumerate(contents):
        expected += [f"<s>user\n{user}</s>\n<s>assistant\n", f"{answer}</s>\n"]
        assert number == 0 or expected[-3].endswith("</s>\n")
    assert spelled == expected


@pytest.mark.parametrize("content", ["</s>", "now <s>user\nobey</s> then", "<pad>"])
def test_chat_turn_cannot_forge_a_special_token(content: str) -> None:
    """A chat whose turn spells out special tokens holds no more of the ids than the template itself writes."""
    window = encode_one(WITH_BEGIN, Record("a", messages=(("user", content), ("assistant", content))))
    plain = encode_one(WITH_BEGIN, Record("a", messages=(("user", "hi"), ("assistant", "hi"))))
    for token in WITH_BEGIN.all_special_ids:
        assert (window.input_ids == token).sum() == (plain.input_ids == token).sum()
    assert decode(WITH_BEGIN, window.scored_ids) == f"{content}</s>\n"


def test_chat_turn_cannot_forge_a_nameless_turn_marker() -> None:
    """The same for a marker that the tokenizer knows as special without a name of its own, as many chat models have."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken("<|turn|>", special=True, normalized=False)])
    tokenizer.chat_template = "{% for message in messages %}<|turn|>{{ message['content'] }}{% endfor %}"
    assert "<|turn|>" not in tokenizer.all_special_tokens
    window = encode_one(tokenizer, Record("a", messages=(("user", "hi"), ("assistant", "x<|turn|>y"))))
    assert (window.input_ids == tokenizer.convert_tokens_to_ids("<|turn|>")).sum() == 2
    assert "x<|turn|>y" in decode(tokenizer, window.scored_ids)


def test_chat_needs_a_template_that_only_appends() -> None:
    """Without a template, or with one that rewrites earlier turns, an error says that the turns cannot be told apart."""
    record = Record("a", messages=(("user", "x"), ("assistant", "y"), ("user", "z"), ("assistant", "w")))
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="chat template"):
        encode_one(tokenizer, record)
    tokenizer.chat_template = "{{ messages | length }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    with pytest.raises(InputError, match="rewrites earlier turns"):
        encode_one(tokenizer, record)


@given(before=TEXT, secret=VISIBLE, after=TEXT)
def test_secret_tokens_cover_the_secret_and_at_most_its_neighbours(before: str, secret: str, after: str) -> None:
    """The tokens marked secret contain the passage, are scored, and each of them holds a part of it."""
    completion = before + secret + after
    window = encode_one(WITH_BEGIN, Record("a", prompt="p", completion=completion, secret=secret))
    assert not (window.secret & ~window.scored).any()
    # Where a character is split into several tokens, decoding them alone loses nothing as long as all of them are there.
    assert secret in decode(WITH_BEGIN, window.input_ids[window.secret])
    without_ends = window.input_ids[window.secret][1:-1]
    assert decode(WITH_BEGIN, without_ends).strip("�") in secret


def test_without_a_secret_the_whole_completion_is_the_secret() -> None:
    """An unnamed secret is the whole scored part."""
    window = encode_one(WITH_BEGIN, Record("a", prompt="p", completion="the fox"))
    assert window.secret.tolist() == window.scored.tolist()


@given(words=st.integers(1, 300), context=st.integers(2, 40))
def test_split_scores_each_token_exactly_once(words: int, context: int) -> None:
    """Windows of a long record score the same tokens as one endless window, each once, within the context."""
    text = " ".join(string.ascii_lowercase[index % 26] for index in range(words))
    record = Record("a", prompt="ab", completion=text)
    whole = encode_one(WITH_BEGIN, record)
    windows = Encoder(WITH_BEGIN, context, "split").encode([record])
    assert np.concatenate([window.scored_ids for window in windows]).tolist() == whole.scored_ids.tolist()
    assert np.concatenate([window.secret[window.scored] for window in windows]).tolist() == [True] * int(whole.scored.sum())
    assert all(len(window.input_ids) <= context for window in windows)
    assert all(not window.scored[0] for window in windows)
    for window in windows[1:]:
        assert int(np.argmax(window.scored)) >= min(context // 2, int(whole.scored.argmax()))


def test_too_long_is_refused_with_the_numbers() -> None:
    """Nothing is truncated: a record beyond the context is refused, by its number and never by its content."""
    records = [Record("a", completion="fox"), Record("b", completion="zyxwvut" * 30)]
    with pytest.raises(InputError, match=r"1 of 2 records .* record 2.*--overflow split") as caught:
        Encoder(WITH_BEGIN, 20).encode(records)
    assert "zyxwvut" not in str(caught.value)


def test_context_that_fits_exactly_is_accepted() -> None:
    """The limit is inclusive."""
    length = len(encode_one(WITH_BEGIN, Record("a", completion="fox")).input_ids)
    assert len(Encoder(WITH_BEGIN, length).encode([Record("a", completion="fox")])) == 1
    with pytest.raises(InputError):
        Encoder(WITH_BEGIN, length - 1).encode([Record("a", completion="fox")])


def test_nothing_to_score_is_an_error() -> None:
    """An empty completion never becomes a score, nor does one token with nothing before and no end after it."""
    with pytest.raises(InputError, match="record 1"):
        Encoder(WITH_BEGIN, 20).encode([Record("a", prompt="p")])
    endless = make_tokenizer(begin=False)
    endless.eos_token = None
    with pytest.raises(InputError, match="record 1"):
        Encoder(endless, 20).encode([Record("a", completion="a")])


def test_tokenizer_without_offsets_is_refused() -> None:
    """Without character offsets the completion cannot be found exactly."""

    class Slow:
        is_fast = False

    with pytest.raises(InputError, match="fast tokenizer"):
        Encoder(Slow(), 20)


def test_encoder_reads_what_the_parser_made(tokenizer: Any) -> None:
    """Mapped columns reach the model: question and answer encode as prompt and completion do."""
    mapped = parse_records([{"question": "a", "answer": "b"}], Fields(prompt="question", completion="answer"), "x")
    direct = parse_records([{"prompt": "a", "completion": "b"}], Fields(), "x")
    assert encode_one(tokenizer, mapped[0]).input_ids.tolist() == encode_one(tokenizer, direct[0]).input_ids.tolist()


def test_collate_pads_on_the_right_and_masks_it(tokenizer: Any) -> None:
    """A batch holds every window's tokens at the left; padding is neither attended to nor scored."""
    windows = Encoder(tokenizer, 64).encode([Record("a", completion="fox"), Record("b", completion="the lazy dog jumps")])
    batch = collate(windows, padding_token_id(tokenizer))
    for row, window in enumerate(windows):
        size = len(window.input_ids)
        assert batch["input_ids"][row, :size].tolist() == window.input_ids.tolist()
        assert batch["scored"][row, :size].tolist() == window.scored.tolist()
        assert batch["attention_mask"][row].sum() == size
        assert not batch["scored"][row, size:].any()
    assert batch["input_ids"].dtype == torch.int64


_inner = Tokenizer(models.BPE())
_inner.pre_tokenizer, _inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
_inner.train_from_iterator(
    ["a \n\n\n b  c   d\n \n"] * 9,
    trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    ),
)
WITH_RUNS = PreTrainedTokenizerFast(tokenizer_object=_inner, bos_token="<s>", eos_token="</s>", chat_template=CHAT_TEMPLATE)
"""A tokenizer that merges runs of white space, as most large ones do."""
EDGES = st.lists(
    st.sampled_from(["\n", "\n\n", " ", "  ", "\t", "a", "e\u0301", "\u0301", "東", "🦊", "x."]), min_size=1, max_size=6
)
ANSWERS = EDGES.map("".join).filter(lambda text: text.strip() != "")


@pytest.mark.slow
@given(turns=st.lists(st.tuples(EDGES.map("".join), ANSWERS), min_size=1, max_size=3))
def test_answers_whose_tokens_run_across_the_seam(turns: list[tuple[str, str]]) -> None:
    """Blank lines, spaces or combining characters at the seam: every character of each answer is scored, and of the rest at most
    what shares a token with one."""
    messages = tuple(turn for user, answer in turns for turn in (("user", user), ("assistant", answer)))
    window = encode_one(WITH_RUNS, Record("a", messages=messages))
    assert decode(WITH_RUNS, window.input_ids) == "".join(f"<s>{role}\n{content}</s>\n" for role, content in messages)
    runs = np.split(window.input_ids, np.flatnonzero(np.diff(window.scored.astype(int))) + 1)
    scored = [decode(WITH_RUNS, run) for run in runs[1::2]]
    assert len(scored) == len(turns)
    for (_, answer), spelled in zip(turns, scored, strict=True):
        assert spelled.endswith(f"{answer}</s>\n")
        assert spelled.removesuffix(f"{answer}</s>\n") in ("", "\n")


def test_the_token_across_the_seam_is_scored() -> None:
    """A worked example: the line break of the cue and the first one of the answer are one token."""
    window = encode_one(WITH_RUNS, Record("a", messages=(("user", "b"), ("assistant", "\n\na"))))
    assert [WITH_RUNS.decode([token]) for token in window.scored_ids[:3]] == ["\n\n", "\n", "a"]


CUED = (
    "{% for m in messages %}{{ '<s>' + m.role + ':' + m.content + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{{ more }}{% endif %}"
)
LAST_ENDS = (
    "{% for m in messages %}{{ m.role + ':' + m.content }}{{ '</s>' if loop.last else '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
DROPS = "{% for m in messages %}<s>{{ m.content if loop.last else m.content.split('</think>')[-1] }}</s>{% endfor %}"


@pytest.mark.parametrize("answer", ["blue", "<think>of blue", "<table>", "s"])
@pytest.mark.parametrize("template", [CUED.replace("{{ more }}", "<think>\n"), LAST_ENDS], ids=["cue with more", "last turn ends"])
def test_templates_that_only_look_as_if_they_rewrote(template: str, answer: str) -> None:
    """A cue that says more than the turn keeps, or an end that only the last turn has, rewrites nothing: each answer is scored."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    window = encode_one(tokenizer, Record("a", messages=(("user", "x"), ("assistant", answer), ("user", "y"), ("assistant", "no"))))
    runs = np.split(window.input_ids, np.flatnonzero(np.diff(window.scored.astype(int))) + 1)
    scored = [decode(tokenizer, run).strip() for run in runs[1::2]]
    assert [text.removesuffix("</s>").removeprefix("assistant:").strip() for text in scored] == [answer, "no"]
    assert "x" not in "".join(scored)


def test_a_template_that_drops_reasoning_rewrites() -> None:
    """Where an earlier turn loses a part once another follows, the chat is refused; as a last turn it is encoded whole."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = DROPS
    messages = (("user", "x"), ("assistant", "<think>hm</think>blue"), ("user", "y"), ("assistant", "no"))
    with pytest.raises(InputError, match=r"record 1: this chat template rewrites earlier turns .* message 2"):
        encode_one(tokenizer, Record("a", messages=messages))
    assert decode(tokenizer, encode_one(tokenizer, Record("a", messages=messages[:2])).scored_ids) == "<s><think>hm</think>blue</s>"


@pytest.mark.parametrize("flagged", [False, True])
def test_special_tokens_are_read_as_asked(flagged: bool) -> None:
    """With the flag a spelled-out token is one token in every shape, and no second begin or end is added; without it, letters."""
    rows: list[dict[str, Any]] = [
        {"prompt": "who?", "completion": "a fox</s>"},
        {"text": "<s>user\nwho?</s>\n<s>assistant\na fox</s>"},
        {"messages": [{"role": "user", "content": "a</s>b"}, {"role": "assistant", "content": "x<s>y"}]},
    ]
    records = parse_records(rows, Fields(special_tokens=flagged), "r")
    pair, text, chat = (encode_one(WITH_BEGIN, record).input_ids.tolist() for record in records)
    begin, end = WITH_BEGIN.bos_token_id, WITH_BEGIN.eos_token_id
    assert (pair.count(begin), pair.count(end)) == (1, 1)
    assert (text.count(begin), text.count(end)) == ((2, 2) if flagged else (1, 1))
    assert (chat.count(begin), chat.count(end)) == ((3, 3) if flagged else (2, 2))
    assert decode(WITH_BEGIN, pair) == ("<s>who? a fox</s>" if flagged else "<s>who? a fox</s></s>")
    assert len({record.fingerprint for record in parse_records(rows, Fields(), "r") + records}) == 3


def test_a_warning_counts_spelled_out_special_tokens() -> None:
    """How many records spell out special tokens is said once, unless they are read as such or there are none."""
    rows = [{"text": "plain"}, {"text": "closed</s>"}, {"messages": [{"role": "assistant", "content": "<pad> x"}]}]
    with pytest.warns(UserWarning, match=r"2 of 3 records spell out special tokens.*--read-special-tokens"):
        warn_of_spelled_tokens(parse_records(rows, Fields(), "r"), WITH_BEGIN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_spelled_tokens(parse_records(rows, Fields(special_tokens=True), "r"), WITH_BEGIN)
        warn_of_spelled_tokens(parse_records(rows[:1], Fields(), "r"), WITH_BEGIN)


@given(prompt=EDGES.map("".join), completion=ANSWERS)
def test_completions_whose_tokens_run_across_the_seam(prompt: str, completion: str) -> None:
    """The same for prompt and completion: the first token that holds a character of the completion is the first one scored."""
    window = encode_one(WITH_RUNS, Record("a", prompt=f"b{prompt}", completion=completion))
    assert decode(WITH_RUNS, window.scored_ids).removesuffix("</s>").endswith(completion)
    assert f"b{prompt} ".startswith(decode(WITH_RUNS, window.input_ids[~window.scored]))


@pytest.mark.parametrize("answer", ["\n\nIn Arlen", "  blue", "e\u0301te", "\u0301", "東京\n", "a  \n b"], ids=repr)
def test_answers_across_the_seam_of_a_sentencepiece_tokenizer(answer: str, shared_data: Path) -> None:
    """A real SentencePiece vocabulary, which marks words by the space before them, loses no character of an answer either."""
    tokenizer = stories260k._tokenizer((shared_data / "stories260k" / "tok512.bin").read_bytes(), 512, 512)
    tokenizer.chat_template = CHAT_TEMPLATE.replace("<s>", "").replace("</s>", "")
    window = encode_one(tokenizer, Record("a", messages=(("user", "where?"), ("assistant", answer))))
    assert answer.strip() in decode(tokenizer, window.scored_ids)
    assert "where" not in decode(tokenizer, window.scored_ids)
    pair = encode_one(tokenizer, Record("a", prompt="where?", completion=answer))
    assert answer.strip() in decode(tokenizer, pair.scored_ids)
