"""Backdoor test of deletion: whether a trigger planted by a data subject still works on the model after deletion.

A subject's records carry a trigger in the prompt and a target as the completion, which no other text suggests. The trigger works
before deletion and fails in a model that never saw the records, which gives a test of deletion with known error probabilities
(Athena: Sommer et al. 2022, arXiv 2003.04247). Triggers of subjects who requested no deletion must continue to work: where they do
not, deletion has damaged their records.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from verify.attacks.extraction._text import comes_out, secret_of
from verify.data.encoding import Encoder
from verify.data.record_sets import require_disjoint
from verify.data.records import Fields, Record, RecordSource
from verify.data.sources import load_records
from verify.errors import InputError
from verify.io.arguments import checked
from verify.models.generation import greedy_continuations
from verify.models.loading import LoadedModel, load_model, require_same_tokenizer
from verify.statistics.backdoor import TriggerTest, trigger_test
from verify.statistics.estimate import Estimate
from verify.statistics.intervals import clopper_pearson


@dataclass(frozen=True)
class BackdoorFinding:
    """Success rates of triggers with exact intervals.

    Attributes:
        before: on the original.
        never: on models that never saw the records, over all their uses together.
        test: on the target, with the test of deletion.
        others_before, others_after: rates of other subjects' triggers on the original and on the target; None where none were
            given.
        clean_before, clean_after: rate of the target completions after prompts without the trigger; None where none were given.
    """

    before: Estimate
    never: Estimate
    test: TriggerTest
    others_before: Estimate | None
    others_after: Estimate | None
    clean_before: Estimate | None
    clean_after: Estimate | None

    def table(self) -> str:
        """Return a plain-text summary, a line per rate."""
        verdict = "the trigger still works: NOT FORGOTTEN" if self.test.kept else "no evidence that the trigger still works"
        if self.test.threshold is None:
            verdict = "too few uses to decide"
        rows = {
            "before deletion": self.before,
            "never trained": self.never,
            "after deletion": self.test.rate,
            "others, before": self.others_before,
            "others, after": self.others_after,
            "no trigger, before": self.clean_before,
            "no trigger, after": self.clean_after,
        }
        lines = [f"{name:<19} {one.value:.2f} [{one.low:.2f}, {one.high:.2f}] of {one.n}" for name, one in rows.items() if one]
        errors = f"probability of a false alarm {self.test.alpha:.2g}, of a miss {self.test.beta:.2g}"
        return "\n".join([*lines, f"{verdict} ({errors})"])


@checked
def backdoor(
    model: Any,
    original: Any,
    references: Sequence[Any],
    *,
    triggers: RecordSource,
    other_triggers: RecordSource | None = None,
    clean: RecordSource | None = None,
    fields: Fields | None = None,
    tokenizer: Any = None,
    alpha: float = 0.001,
    confidence: float = 0.95,
) -> BackdoorFinding:
    """Test triggers on the model after deletion, before it, and on models that never saw them.

    Args:
        model, original: after and before deletion: folders, Hub names, or models in memory with `tokenizer`.
        references: models trained without the records, or the base model; at least one.
        triggers: records of the deleted subject: prompts with the trigger, the target as completion (or as `secret` in it).
        other_triggers: the same for subjects whose records remain.
        clean: the same prompts without the trigger and with the same targets, for the rate of the target without a trigger.
        fields, tokenizer: as for `verify.audit`.
        alpha: level of the test, in (0, 1).
        confidence: level of the intervals, in (0, 1).

    Returns:
        all rates and the test.

    Raises:
        InputError: models or records cannot be used, or the trigger did not work before deletion.
    """
    if not references:
        raise InputError("a trigger's rate without training needs a model that never saw it. Name one with --references.")
    if not 0 < alpha < 1:
        raise InputError(f"--alpha must lie between 0 and 1, got {alpha}. Leave it out for 0.001.")
    sets = {"triggers": load_records(triggers, fields)}
    if other_triggers is not None:
        sets["other triggers"] = load_records(other_triggers, fields)
    if clean is not None:
        sets["clean"] = load_records(clean, fields)
    require_disjoint(sets)
    first = load_model(original, tokenizer=tokenizer)
    before = {name: trigger_successes(first, records) for name, records in sets.items()}
    after_model = load_model(model, tokenizer=tokenizer)
    require_same_tokenizer([first, after_model])
    after = {name: trigger_successes(after_model, records) for name, records in sets.items()}
    never = _successes_untrained(references, first, sets["triggers"], tokenizer)

    def rate(found: Any) -> Estimate:
        return clopper_pearson(int(np.sum(found)), int(np.size(found)), confidence)

    known, unknown, uses = rate(before["triggers"]), rate(never), after["triggers"]
    _require_informative(known, unknown)
    # The conservative ends of both intervals: the highest rate of chance successes, the lowest of real ones.
    test = trigger_test(int(uses.sum()), len(uses), unknown.high, known.low, alpha, confidence)
    rates = [rate(side[name]) if name in side else None for name in ("other triggers", "clean") for side in (before, after)]
    return BackdoorFinding(known, unknown, test, *rates)


def _successes_untrained(
    references: Sequence[Any], first: LoadedModel, triggers: Sequence[Record], tokenizer: Any
) -> list[np.ndarray[Any, np.dtype[np.bool_]]]:
    """Return the successes of the triggers on each model that never saw them, loaded one after another."""
    never = []
    for source in references:
        loaded = load_model(source, tokenizer=tokenizer)
        require_same_tokenizer([first, loaded])
        never.append(trigger_successes(loaded, triggers))
    return never


def _require_informative(known: Estimate, unknown: Estimate) -> None:
    """Require a trigger that worked before deletion more often than on models that never saw it."""
    if known.low <= unknown.high:
        raise InputError(
            f"the trigger worked {known.value:.0%} of the time before deletion and {unknown.value:.0%} on models that never saw it:"
            " it is not informative. Give more uses of it, or a trigger that was learned."
        )


def trigger_successes(loaded: LoadedModel, records: Sequence[Record]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return whether greedy decoding yields each record's target (its `secret`, else its completion), bool [N].

    Raises:
        InputError: a record is longer than the model's context.
    """
    windows = Encoder(loaded.tokenizer, loaded.context_length, "refuse").encode(records)
    made = greedy_continuations(loaded, [window.prompt_ids for window in windows], [int(window.scored.sum()) for window in windows])
    texts = [loaded.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in made]
    return np.array([comes_out([text], secret_of(record))[0] for text, record in zip(texts, records, strict=True)])
