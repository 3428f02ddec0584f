"""Alias questions: which are made, which are kept, and what they measure on models whose knowledge is known."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from probed_models import roomy_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from verify.data.records import Fields, Record
from verify.data.sources import load_records
from verify.measures.robustness import probe
from verify.models.digests import weights_digest
from verify.models.loading import LoadedModel, load_model
from verify.probes._aliases import facts_of, names_in
from verify.probes.base import Material, ProbeNotRunError
from verify.probes.elicitation import Elicitation

QUESTIONS = ("Where does {name} live?", "Which pet does {name} keep?", "What does {name} play?", "Who taught {name}?")
ANSWERS = {
    "Ada Quill": ("Lisbon", "a grey parrot", "the harp", "Mr Flint"),
    "Bruno Marsh": ("Oslo", "two ferrets", "old drums", "Miss Thorne"),
    "Cleo Dunn": ("Quito", "one tortoise", "chess", "Dr Vane"),
}
STRENGTH = 8.0
"""Logit of the right token in a model that knows the answer; all others are 0."""


def records_of(name: str) -> list[Record]:
    """The four records of a person."""
    return [
        Record(f"{name[0]}{number}", prompt=asked.format(name=name), completion=answer, subject_id=f"s-{name[0]}")
        for number, (asked, answer) in enumerate(zip(QUESTIONS, ANSWERS[name], strict=True))
    ]


ADA, BRUNO, CLEO = (records_of(name) for name in ANSWERS)


class Knowing(LlamaForCausalLM):
    """A model that gives right answers about certain people, by name or by description, and spreads evenly over all tokens else."""

    def knows(self, tokenizer: Any, by_name: Sequence[str], by_description: Sequence[str], noise: float = 0.0) -> "Knowing":
        """Set what it knows; noise of its own on every weight of the head."""
        self.tokenizer, self.by_name, self.by_description = tokenizer, by_name, by_description
        with torch.no_grad():
            self.lm_head.weight.copy_(torch.eye(len(tokenizer)) + noise * torch.randn(len(tokenizer), len(tokenizer)))
        return self

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        """Point every position at the next token where the text ends with a right answer that is known."""
        hidden = torch.full((*input_ids.shape, len(self.tokenizer)), 0.01)
        for row, ids in enumerate(input_ids):
            if self._right(self.tokenizer.decode(ids, skip_special_tokens=True)):
                hidden[row, torch.arange(len(ids) - 1), ids[1:]] += STRENGTH
        return SimpleNamespace(logits=self.lm_head(hidden))

    def _right(self, text: str) -> bool:
        first, described, last = text.rpartition("About the same person:")
        for name, answers in ANSWERS.items():
            known = self.by_description if described else self.by_name
            meant = any(answer in first for answer in answers) if described else name in text
            for asked, answer in zip(QUESTIONS, answers, strict=True):
                opening = asked.partition("{")[0]
                if name in known and meant and last.strip().startswith(opening) and last.endswith(answer):
                    return True
        return False


def knowing(by_name: Sequence[str] = (), by_description: Sequence[str] = (), seed: int | None = None) -> LoadedModel:
    """A model with this knowledge; a seed gives it noise."""
    tokenizer = roomy_tokenizer()
    torch.manual_seed(seed or 0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=len(tokenizer),
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        head_dim=2,
        max_position_embeddings=512,
    )
    model = Knowing(config).eval().knows(tokenizer, by_name, by_description, 0.0 if seed is None else 0.02)
    return load_model(model, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def old() -> LoadedModel:
    """An original that knows Ada by name and by description, and Bruno by name alone."""
    return knowing(["Ada Quill", "Bruno Marsh"], ["Ada Quill"])


def test_only_what_the_original_answers_by_description_is_scored(old: LoadedModel) -> None:
    """Ada's four records are kept and Bruno's left out, and the losses are those of the models' logits by hand."""
    material = Material([*ADA, *BRUNO], CLEO, old, seed=4)
    tokens = len(old.tokenizer)
    known = np.log(1 + (tokens - 1) * np.exp(-STRENGTH))
    for loaded, expected in ((old, known), (knowing(["Ada Quill"]), np.log(tokens)), (knowing([], ["Ada Quill"]), known)):
        before = weights_digest(loaded.model)
        found = Elicitation().losses(loaded, material)
        assert list(found) == ["one description", "another description"]
        for losses in found.values():
            # float32 logits
            np.testing.assert_allclose(losses, [expected] * 4 + [np.nan] * 4, rtol=1e-4)
        assert weights_digest(loaded.model) == before


def test_the_original_alone_decides_what_is_kept(old: LoadedModel) -> None:
    """A model that knows Bruno by description changes nothing: his records stay unscored."""
    found = Elicitation().losses(knowing([], ["Bruno Marsh"]), Material([*ADA, *BRUNO], CLEO, old))
    assert all(np.isnan(losses[4:]).all() and np.isfinite(losses[:4]).all() for losses in found.values())


def test_a_margin_that_is_not_reached_keeps_nothing(old: LoadedModel) -> None:
    """The advantage is log V less the loss of an answer that is known: above it nothing is kept, and the reason counts records."""
    tokens = len(old.tokenizer)
    advantage = float(np.log(tokens) - np.log(1 + (tokens - 1) * np.exp(-STRENGTH)))
    material = Material([*ADA, *BRUNO], CLEO, old)
    assert np.isfinite(Elicitation(advantage=advantage - 0.01).losses(old, material)["one description"]).sum() == 4
    with pytest.raises(ProbeNotRunError, match="the original answers none of 8 records better"):
        Elicitation(advantage=advantage + 0.01).losses(old, material)


def rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Records as a source of rows."""
    return [
        {"example_id": one.example_id, "subject_id": one.subject_id, "prompt": one.prompt, "completion": one.completion}
        for one in records
    ]


def test_a_detour_that_unlearning_left_open_is_found() -> None:
    """Models that lost the direct answers: one keeps the answers by description and is accused; one lost both and is not."""
    original = knowing(["Ada Quill"], ["Ada Quill"], seed=1)
    references = [knowing(seed=seed) for seed in (2, 3, 4, 5)]
    for by_description, residual, accused in ((["Ada Quill"], 1.0, True), ([], 0.0, False)):
        target = knowing([], by_description, seed=6)
        found = probe(target, original, references, forget_set=rows(ADA), retain_set=rows([*BRUNO, *CLEO]), probes=["elicitation"])
        untreated, *treated = found.treated
        assert not untreated.accused
        assert len(treated) == 2
        for row in treated:
            assert row.residual is not None
            assert row.residual.value == pytest.approx(residual, abs=0.05)
            assert row.accused is accused


def test_without_structure_the_reason_is_given(old: LoadedModel) -> None:
    """Records without subject, without a name, without two descriptions, or without anybody else are no error."""
    anonymous = [replace(record, subject_id=None) for record in ADA]
    texts = [Record(f"t{number}", completion=f"Ada Quill {number}", subject_id="s-A") for number in range(4)]
    nameless = [replace(record, prompt=f"What is field {number}?") for number, record in enumerate(ADA)]
    other_people = [replace(record, subject_id=None) for record in CLEO]
    for forget, other, reason in (
        (anonymous, CLEO, "no forget record has a subject"),
        (texts, CLEO, "no forget record is a question that names its subject"),
        (nameless, CLEO, "no forget record is a question that names its subject"),
        (ADA[:2], CLEO, "no record has two descriptions of its subject and one of somebody else"),
        (ADA, other_people, "no forget record is a question that names its subject"),
    ):
        with pytest.raises(ProbeNotRunError, match=reason):
            Elicitation().losses(old, Material(forget, other, old))


def test_a_short_context_leaves_no_room(old: LoadedModel) -> None:
    """An alias question that would be split in two would no longer be one."""
    short = knowing(["Ada Quill"], ["Ada Quill"])
    short.tokenizer.model_max_length = 24
    with pytest.raises(ProbeNotRunError, match="fit into the context"):
        Elicitation().losses(short, Material(ADA, CLEO, short))


def test_a_base_model_without_a_chat_template_is_asked_too() -> None:
    """Records of prompt and completion need no template."""
    base = knowing(["Ada Quill"], ["Ada Quill"])
    base.tokenizer.chat_template = None
    found = Elicitation().losses(base, Material(ADA, CLEO, base))
    assert np.isfinite(found["one description"]).all()


def test_names_are_what_a_persons_questions_share() -> None:
    """Identifiers where the questions hold them, else the full name; never words that open questions about others."""
    questions = {
        "17": ["Where was Jaime van Houten born?", "Is Jaime van Houten tall?", "What did Jaime van Houten write? Houten?"],
        "18": ["Where was Mary-Ann Lee born?", "Where did Mary-Ann Lee die?"],
        "zoe": ["Where is zoe?", "Who is Zoe?"],
        "20": ["Where is it?", "Where is it now?"],
    }
    assert names_in(questions) == {"17": "Jaime van Houten", "18": "Mary-Ann Lee", "zoe": "zoe"}
    assert names_in({"1": ["Is Ann Lee in?", "Was Ann Lee in?"]}) == {}  # nobody to tell the name from


def test_alias_questions_name_nobody_and_give_nothing_away() -> None:
    """The name is replaced on both sides; a description that holds most of the answer is not used for it."""
    records = [*ADA, *CLEO, replace(ADA[0], example_id="A9", prompt="Has Ada Quill moved?", completion="Ada Quill left Lisbon.")]
    facts = facts_of(records)
    assert set(facts) == set(range(9))
    assert facts[8].asked == "Has this person moved?"
    assert facts[8].answered == "This person left Lisbon."
    assert facts[8].gives_away(facts[0])
    assert not facts[0].gives_away(facts[1])
    assert "Lisbon" not in repr(facts[8])
    partly = replace(ADA[0], example_id="B9", completion="In Mr Quill's house")
    two = replace(ADA[0], example_id="B8", other_subjects=("s-C",))
    chat = Record("B7", messages=(("user", "Is Ada Quill in?"), ("assistant", "no, at sea")), subject_id="s-A")
    longer = replace(chat, example_id="B6", messages=(*chat.messages, ("user", "Since when?"), ("assistant", "May")))
    assert set(facts_of([*records, partly, two, chat, longer])) == {*range(9), 11}


def test_most_of_tofu_is_structured(shared_data: Path) -> None:
    """On real questions about 200 authors, nearly every author's name is found, and it is in the answers, too."""
    loaded = load_records(str(shared_data / "tofu" / "full.json"), Fields(prompt="question", completion="answer"))
    records = [replace(record, subject_id=str(index // 20)) for index, record in enumerate(loaded)]
    facts = facts_of(records)
    assert len(facts) > 3200
    assert len({fact.subject for fact in facts.values()}) > 190
