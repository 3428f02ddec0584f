"""Elicitation probe: ask about whoever another record describes, where the original is known to answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar
from weakref import WeakKeyDictionary

import numpy as np

from verify.data.encoding import Encoder
from verify.data.records import Record
from verify.models.loading import LoadedModel
from verify.probes._aliases import Fact, alias_question, facts_of
from verify.probes.base import Array, Material, ProbeNotRunError, mean_losses

Chosen = Mapping[int, tuple[Record, Record]]
"""Two alias questions by the position of the forget record whose answer they ask for."""

_CHOSEN: "WeakKeyDictionary[Material, dict[Elicitation, Chosen]]" = WeakKeyDictionary()
"""What was chosen, as the original is asked once and not again for every model; it goes with the material."""


@dataclass(frozen=True)
class Elicitation:
    """Score answers behind questions that name nobody: another record of the same subject describes the person (two hops).

    Shah et al. 2026 (arXiv 2603.11266): knowledge is elicited from the model before unlearning, and asked for by alias and over
    several hops; unlearning often suppresses the direct way alone.

    A record is kept where the original answers by the description: behind two descriptions of the subject its loss is lower, by
    `advantage`, than behind every one of several descriptions of other people. What the question gives away by itself is the same
    behind all of them. The choice reads neither the model under test nor a reference, so that a retrained model stays one more
    draw of the references' distribution. What a description gives away by its content helps the references as well.

    It is run only when it is named, as it scores some of the records. Do not use it where a question names no person, or where
    each person has one or two records.

    Attributes:
        advantage: nats per token.
        descriptions: most descriptions of the subject that are tried for a record.
        strangers: most descriptions of other people that it is compared with.
    """

    advantage: float = 0.1
    descriptions: int = 4
    strangers: int = 4

    idea: ClassVar[str] = "ask about whoever another record describes, where the original is known to answer"
    paper: ClassVar[str] = "Shah et al. 2026 (arXiv 2603.11266)"
    by_default: ClassVar[bool] = False

    def losses(self, loaded: LoadedModel, material: Material) -> Mapping[str, Array]:
        """Compute the losses behind each of two descriptions; NaN for records whose alias questions the original does not answer.

        Raises:
            ProbeNotRunError: the records are not structured, or the original answers no alias question.
        """
        kept = _CHOSEN.setdefault(material, {})
        if self not in kept:
            kept[self] = self._chosen(material)
        chosen = kept[self]
        found = {}
        for place, name in enumerate(("one description", "another description")):
            losses = np.full(len(material.forget), np.nan)
            losses[list(chosen)] = mean_losses(loaded, [asked[place] for asked in chosen.values()])
            found[name] = losses
        return found

    def _chosen(self, material: Material) -> Chosen:
        """Choose the records whose answer the original gives under two descriptions of the subject."""
        own, strange = self._questions(material)
        flat = [asked for index in own for asked in (*own[index], *strange[index])]
        losses, at = mean_losses(material.old, flat), 0
        chosen = {}
        for index in own:
            middle, end = at + len(own[index]), at + len(own[index]) + len(strange[index])
            best = losses[middle:end].min() - self.advantage
            answered = [asked for asked, loss in zip(own[index], losses[at:middle], strict=True) if loss < best]
            if len(answered) > 1:
                chosen[index] = (answered[0], answered[1])
            at = end
        if not chosen:
            raise ProbeNotRunError(
                f"the original answers none of {len(own)} records better behind two descriptions of the subject than behind those "
                "of other people"
            )
        return chosen

    def _questions(self, material: Material) -> tuple[dict[int, list[Record]], dict[int, list[Record]]]:
        """Return each record's alias questions with descriptions of its subject, and with those of other people."""
        forget, everything = list(material.forget), [*material.forget, *material.other]
        if not any(record.subjects for record in forget):
            raise ProbeNotRunError("no forget record has a subject")
        facts = facts_of(everything)
        if not any(index < len(forget) for index in facts):
            raise ProbeNotRunError("no forget record is a question that names its subject, with an answer")
        own, strange = dict[int, list[Record]](), dict[int, list[Record]]()
        for index, fact in facts.items():
            if index >= len(forget):
                break
            others = [facts[place] for place in _order(facts, index, material.seed)]
            fitting = [one for one in others if one.subject == fact.subject]
            foreign = [one for one in others if one.subject != fact.subject]
            about = _asked(material.old, forget[index], fact, fitting, self.descriptions)
            about_others = _asked(material.old, forget[index], fact, foreign, self.strangers)
            if len(about) > 1 and about_others:
                own[index], strange[index] = about, about_others
        if not own:
            raise ProbeNotRunError(
                "no record has two descriptions of its subject and one of somebody else that fit into the context without giving "
                "its answer away"
            )
        return own, strange


def _order(facts: Mapping[int, Fact], index: int, seed: int) -> list[int]:
    """Return the positions of all facts but one, in the random order of that one."""
    order = np.random.default_rng((seed, index)).permutation(len(facts)).tolist()
    places = list(facts)
    return [places[one] for one in order if places[one] != index]


def _asked(old: LoadedModel, record: Record, fact: Fact, descriptions: list[Fact], most: int) -> list[Record]:
    """Return the record's alias questions with the first descriptions that give nothing away and fit into the context."""
    encoder = Encoder(old.tokenizer, old.context_length, "split")
    found: list[Record] = []
    for one in descriptions:
        if len(found) == most:
            break
        asked = None if one.gives_away(fact) else alias_question(record, fact, one)
        if asked is not None and len(encoder.encode([asked])) == 1:
            found.append(asked)
    return found
