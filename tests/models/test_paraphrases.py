"""Paraphrases by a model count only where they keep what is asked and give nothing away."""

from typing import Any

import pytest

from verify.data.records import Record
from verify.errors import InputError
from verify.models import paraphrases
from verify.models.loading import LoadedModel
from verify.models.paraphrases import keeps_the_content, reword_by_model, tidy

ASKED, ANSWER = "Where was Ann Moor born in 1970?", "She was born in Leeds on May 3."


@pytest.mark.parametrize(
    ("candidate", "kept"),
    [
        ("What is the birthplace of Ann Moor, born in 1970?", True),
        ("In 1970, in which place was Ann Moor's birth?", True),
        ("Where was Ann Moor born in 1970?", False),
        ("where was  ANN MOOR born in 1970?", False),
        ("Where was she born in 1970?", False),
        ("What is the birthplace of Ann Moor?", False),
        ("Was Ann Moor born in Leeds in 1970?", False),
        ("On May 3 1970, where was Ann Moor born?", False),
        ("", False),
        ("?!", False),
        ("Ann Moor 1970 " + "and so on " * 12, False),
    ],
)
def test_what_a_paraphrase_must_keep(candidate: str, kept: bool) -> None:
    """Other words, every name and number, no word of the answer, and no essay."""
    assert keeps_the_content(ASKED, candidate, ANSWER) == kept


def test_a_models_answer_is_tidied() -> None:
    """The first line with words, without its label and quotation marks."""
    assert tidy('\n---\n**New question:** "Who is Ann?"\nI hope this helps.') == "Who is Ann?"
    assert tidy("Who is Ann?") == "Who is Ann?"
    assert tidy("\n \n") == ""


def test_the_first_paraphrases_that_pass_are_taken(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Distinct ones, in the order in which they were sampled; a question for which too few pass has none."""
    answers = {
        "first": ["Ann, who is she?", "Who is Ann", "ann,  who is SHE?", "Who is this Ann person?", "Tell me who Ann is."],
        "second": ["Who?", "Ben"],
    }
    seeds: list[int] = []

    def sampled(model: Any, prompt: Any, length: int, samples: int, *, seed: int, **_: Any) -> list[list[int]]:
        seeds.append(seed)
        text = model.tokenizer.decode(prompt)
        chosen = answers["first" if "Who is Ann" in text else "second"]
        return [model.tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in chosen]

    monkeypatch.setattr(paraphrases, "sampled_continuations", sampled)
    records = [Record("a", prompt="Who is Ann?", completion="A baker."), Record("b", prompt="Where is Ben Box?", completion="Out.")]
    shares: list[float] = []
    found = reword_by_model(loaded, [*records, Record("c", completion="A text.")], 2, 5, shares.append)
    worded = [found.of(records[0], number) for number in (1, 2)]
    assert [record.prompt for record in worded if record is not None] == ["Ann, who is she?", "Who is this Ann person?"]
    assert found.of(records[1], 1) is None
    assert (found.source, found.count, found.model) == ("model", 2, loaded.digest)
    assert shares[-1] == 1.0
    assert len(set(seeds)) == len(seeds), "no two draws share a seed"
    assert reword_by_model(loaded, records, 2, 5).digest != reword_by_model(loaded, records, 2, 6).digest


def test_sampling_repeats_itself(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed samples the same, whatever the checks make of a random model's words."""
    monkeypatch.setattr(paraphrases, "REQUEST", "{question}")
    heard: list[list[str]] = []
    for _ in range(2):
        heard.append([])
        monkeypatch.setattr(paraphrases, "keeps_the_content", lambda _asked, said, _answer: bool(heard[-1].append(said)))
        reword_by_model(loaded, [Record("a", prompt="Who?", completion="A baker.")], 2, 0)
    assert heard[0] == heard[1]
    assert len(heard[0]) == 2 * paraphrases.CANDIDATES
    assert len(set(heard[0])) > 1


def test_what_cannot_be_asked_is_refused(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts without a question, and a model without a chat template."""
    with pytest.raises(InputError, match="no record has one"):
        reword_by_model(loaded, [Record("a", completion="A text.")], 2, 0)
    monkeypatch.setattr(loaded.tokenizer, "chat_template", None)
    with pytest.raises(InputError, match="has no chat template"):
        reword_by_model(loaded, [Record("a", prompt="Who?", completion="A baker.")], 2, 0)
