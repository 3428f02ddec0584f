"""Validity gates: conditions under which a claim can be judged. A failed gate names the claim and the reason.

Without these gates a destroyed model looks forgetful, an undetectable original looks forgotten, and a difference between two
kinds of text looks like membership.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from verify.schema.attack_results import ChannelNotRun
from verify.schema.judged_by import TABLE_RULES
from verify.schema.parts import Gate, Value, VerdictWord
from verify.schema.settings import Settings
from verify.statistics.controls import NOISE_LIMIT, Controls, NoiseRatio
from verify.statistics.estimate import Estimate
from verify.statistics.intervals import clopper_pearson
from verify.statistics.panel import ReferencePanel, reference_panel
from verify.statistics.residual import ResidualVerdict, residual_verdict
from verify.statistics.subjects import subject_numbers

Array = NDArray[np.float64]

BLIND_LIMIT = 0.60
"""Upper confidence limit of the blind baseline's AUC below which controls from another source still count as controls."""

PLANTED_DETECTION = 0.95
PLANTED_SUBJECT_DETECTION = 0.80
"""Probability with which one subject wholly kept must be found for a certificate to be given."""

INCOMPARABLE = 2.0
"""Retain utility relative to the references' beyond which an honest model could be accused for having been trained on more."""

MIN_REFERENCES = 3
"""With two, a reference cannot be judged by the others, and the per-record test has no tail to fit."""

CONTROLS_PER_RATE = 3
"""A rate of f needs at least 3/f controls: with fewer, zero false positives would be compatible with a rate above f."""


def references_gate(count: int) -> Gate:
    """Check that there are enough retrained references to estimate how far honest retrainings differ."""
    advice = "Train more without the forget set, each with a different --seed, and give them with --references."
    reason = {
        0: f"No retrained reference was given, so what a model that never saw the records would score is unknown. {advice}",
        1: f"Only one retrained reference was given; how far honest retrainings differ cannot be estimated from one. {advice}",
        2: f"Two references show a spread but cannot be used to check the rule; at best the verdict is INCONCLUSIVE. {advice}",
    }.get(count, f"{count} retrained references were given.")
    return Gate(
        name="retrained references",
        claims=("record",),
        passed=count >= MIN_REFERENCES,
        blocks="NOT_TESTABLE" if count < 2 else "INCONCLUSIVE",
        reason=reason,
    )


def positive_control_gate(original: ResidualVerdict) -> Gate:
    """Check that the same rule detects the records in the original, the model that was trained on them."""
    accused = int(original.record_test.accused.sum())
    found = original.accused and original.mean_gap > 0
    reason = (
        f"The same rule {'detects' if found else 'does not detect'} the forget set in the model before unlearning "
        f"(mean gap {original.mean_gap:.3f} nats per token, {accused} of {original.records} records beyond the margin)."
    )
    if not found:
        reason += " What was never memorized cannot be shown to be forgotten."
    return Gate(name="positive control", claims=("record",), passed=found, blocks="NOT_TESTABLE", reason=reason)


def planted_gate(original: Array, references: Array, settings: Settings) -> Gate:
    """Check that the rule would detect a model that kept a share of the records.

    A reference takes the place of the target, with the original's losses planted in `planted_share` of its records; the other
    references judge it. Repeated for `planted_draws` random draws.
    """
    if len(references) < MIN_REFERENCES:
        return _not_evaluated("planted records", "INCONCLUSIVE", "This check needs at least three references.")
    rng = np.random.default_rng(settings.seed)
    panels = _others(references)
    records = references.shape[1]
    planted = max(1, round(settings.planted_share * records))
    hits = 0
    for draw in range(settings.planted_draws):
        held_out = draw % len(references)
        target = references[held_out].copy()
        chosen = rng.permutation(records)[:planted]
        target[chosen] = original[chosen]
        hits += residual_verdict(original, target, panels[held_out], settings.margin, settings.alpha).accused
    rate = clopper_pearson(hits, settings.planted_draws, settings.confidence)
    return Gate(
        name="planted records",
        claims=("record",),
        passed=rate.value >= PLANTED_DETECTION,
        blocks="INCONCLUSIVE",
        reason=(
            f"With {planted} of {records} records planted back into a reference, the rule found them in {hits} of "
            f"{settings.planted_draws} draws (at least {PLANTED_DETECTION:.0%} are required)."
        ),
        value=Value.of(rate),
    )


def planted_subject_gate(rule: "SecondRule", settings: Settings) -> Gate:
    """Check that the rule would find one subject of whom everything was kept, however many others were forgotten.

    The stand-in for an honest target is a reference whose distance from the references' mean is stretched to that of an independent
    retraining, by sqrt((R + 1) / (R - 1)); the original's losses are planted in one subject drawn at random. Repeated
    for `planted_draws` random draws. All R references judge it: judged by the R - 1 others, as rule 1 does it, three references
    never find a subject, and four find too few where the audit itself finds nearly all.
    """
    count = len(rule.references)
    if count < MIN_REFERENCES:
        return _not_evaluated("planted subject", "INCONCLUSIVE", "This check needs at least three references.")
    rng = np.random.default_rng(settings.seed)
    mean, numbers = rule.references.mean(axis=0), subject_numbers(rule.subjects)
    independent = mean + (rule.references - mean) * np.sqrt((count + 1) / (count - 1))
    hits = 0
    for draw in range(settings.planted_draws):
        chosen = numbers == rng.integers(numbers.max() + 1)
        hits += rule.judge(np.where(chosen, rule.original, independent[draw % count]), settings).accused
    rate = clopper_pearson(hits, settings.planted_draws, settings.confidence)
    subjects = int(numbers.max()) + 1
    return planted_subject_by(rate, f"planted into a reference was found, among {subjects} subject{'s' * (subjects > 1)}")


def planted_subject_by(rate: Estimate, found: str) -> Gate:
    """Compare the rate at which a planted subject was found with the required one.

    Args:
        rate: share of the draws in which it was found.
        found: what was counted, as the end of "the rate at which one ...".
    """
    return Gate(
        name="planted subject",
        claims=("record",),
        passed=rate.value >= PLANTED_SUBJECT_DETECTION,
        blocks="INCONCLUSIVE",
        reason=(
            f"One subject of whom everything was kept would have been found with probability {rate.value:.2f} "
            f"[{rate.low:.2f}, {rate.high:.2f}]: the rate at which one {found} (at least {PLANTED_SUBJECT_DETECTION:.2f} is "
            "required)."
        ),
        value=Value.of(rate),
    )


def trained_alike_gate(noise: NoiseRatio | None) -> Gate:
    """Check on controls that the target is no noisier than the references, from which its noise is taken."""
    name = "noise of the target"
    if noise is None:
        reason = "The target's noise was not checked: that needs at least two references and controls about three subjects."
        return _not_evaluated(name, "nothing", reason)
    reason = (
        f"On {noise.controls} never-trained controls the variance of the target's noise is {noise.ratio:.2f} times that of the "
        f"references (at most {NOISE_LIMIT:g} is allowed, chance aside); the tests per record and per subject allow for it."
    )
    if not noise.trained_alike:
        reason += " The target was not trained as the references were: by other options, in other precision or order?"
    return Gate(name=name, claims=("record",), passed=noise.trained_alike, blocks="INCONCLUSIVE", reason=reason)


@dataclass(frozen=True, eq=False)
class SecondRule:
    """What rule 2 judges a target by: losses of original and references, whom the records are about, and controls.

    Attributes:
        original: [K] and references: [R, K], nats per token on the forget set.
        subjects: whom each record is about [K].
        texts: equal for records of equal text [K].
        control_references: controls under each reference [R, N], None without controls.
        control_subjects: whom the controls are about [N].
        share: the share of alpha that accusations use.
    """

    original: Array
    references: Array
    subjects: Sequence[str]
    texts: Sequence[int]
    control_references: Array | None = None
    control_subjects: Sequence[str] = ()
    share: float = 1.0

    @cached_property
    def panel(self) -> ReferencePanel:
        """The references' statistics."""
        return reference_panel(self.references, self.subjects, self.texts)

    def judge(
        self,
        target: Array,
        settings: Settings,
        controls: Array | None = None,
        margin: float | None = None,
        alpha: float | None = None,
    ) -> ResidualVerdict:
        """Judge a target by its losses on the forget set and, where there are controls, on these."""
        own = None
        if controls is not None and self.control_references is not None:
            own = Controls(controls, self.control_references, self.control_subjects)
        level = settings.alpha if alpha is None else alpha
        return residual_verdict(self.original, target, self.panel, margin or settings.margin, level, self.share, own)

    def others(self) -> list["SecondRule"]:
        """Return, for each reference, the rule with all others."""
        return [
            replace(
                self,
                references=np.delete(self.references, held_out, axis=0),
                control_references=None
                if self.control_references is None
                else np.delete(self.control_references, held_out, axis=0),
            )
            for held_out in range(len(self.references))
        ]


def negative_control_gate(original: Array, references: Array, settings: Settings, rule: SecondRule | None = None) -> Gate:
    """Check that the rule accuses no honest retraining: each reference is judged by the others, at level alpha / R.

    Args:
        original, references: losses on the forget set, nats per token [K] and [R, K].
        settings: rule, margin and level.
        rule: rule 2; None for rule 1.
    """
    if len(references) < MIN_REFERENCES:
        return _not_evaluated("negative control", "INCONCLUSIVE", "This check needs at least three references.")
    count = len(references)
    level = settings.alpha / count
    if rule is None:
        verdicts = [
            residual_verdict(original, references[held_out], panel, settings.margin, level)
            for held_out, panel in enumerate(_others(references))
        ]
    else:
        known = [None] * count if rule.control_references is None else list(rule.control_references)
        verdicts = [
            others.judge(references[held_out], settings, known[held_out], alpha=level)
            for held_out, others in enumerate(rule.others())
        ]
    accused = [number for number, verdict in enumerate(verdicts, 1) if verdict.accused]
    reason = f"Judged against the others, {len(accused)} of {count} references are accused (at level alpha / {count} each)."
    if accused:
        reason += f" Reference {', '.join(map(str, accused))} differs from the rest: was it trained on the same records?"
    return Gate(name="negative control", claims=("record",), passed=not accused, blocks="NOT_TESTABLE", reason=reason)


def all_of_alpha_gate(verdict: VerdictWord) -> Gate:
    """Check that what is not accused where accusations use a share of alpha would be certified without that account, too.

    Otherwise whoever plans for enough audits is certified with what would have been accused, or asked in fewer ways, or has it
    accepted as merely undecided.

    Args:
        verdict: verdict on the same scores, judged as if no other audit used the controls.
    """
    passed = verdict == "EQUIVALENT_WITHIN"
    reason = "Judged at all of alpha, as if no other audit used the same controls, the model is "
    reason += "certified as well." if passed else f"{verdict}: no accusation at this level, but no certificate, either."
    return Gate(name="all of alpha", claims=("record",), passed=passed, blocks="INCONCLUSIVE", reason=reason)


def unasked_gates(not_run: Sequence[ChannelNotRun]) -> tuple[Gate, ...]:
    """Check that no way of asking failed on the target alone: a model can be made to fail where it would be found.

    Models are asked in order, the original before the target, so what fails on the target did not fail on the original.

    Returns:
        one failed gate, or none where nothing failed on the target.
    """
    failed = [entry.channel for entry in not_run if entry.model == "target"]
    if not failed:
        return ()
    reason = (
        f"The target could not be asked in ways that worked on the model before unlearning: {', '.join(failed)}. What cannot be "
        "asked cannot be certified."
    )
    return (Gate(name="asked in every way", claims=("record",), passed=False, blocks="INCONCLUSIVE", reason=reason),)


def utility_gate(ratio: Value | None, yardstick: str, settings: Settings, ceiling: float | None = None) -> Gate:
    """Check the model's retain-set utility on both sides.

    A destroyed model looks perfectly forgetful. References that know the retain set less well than the model were not trained on it
    as the model was: beyond the ceiling they certify nothing, and beyond `INCOMPARABLE` they accuse of nothing either. Between the
    two an accusation stands, or whoever trains on the retain set a little longer could not be accused any more.

    Args:
        ratio: utility relative to the yardstick's; None without a retain set.
        yardstick: whose, in words.
        settings: the largest accepted loss.
        ceiling: the largest ratio for a certificate; None for no limit.
    """
    if ratio is None:
        return _not_evaluated("utility", "INCONCLUSIVE", "No retain set was given, so it is unknown. Give one with --retain FILE.")
    above = ceiling is not None and ratio.value > ceiling
    beyond = above and ratio.value > INCOMPARABLE
    limits = f"at least {1 - settings.utility_tolerance:.2f} is required"
    if above:
        limit = f"{INCOMPARABLE:.2f}" if beyond else f"{ceiling:.2f} for a certificate"
        limits += f", and at most {limit}: the references were not trained on these records as the model was"
    return Gate(
        name="utility",
        claims=("record", "process", "attack"),
        passed=ratio.value >= 1 - settings.utility_tolerance and not above,
        blocks="INCONCLUSIVE" if above and not beyond else "NOT_TESTABLE",
        reason=(
            f"On the retain set the model has {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] times the token "
            f"probability of {yardstick}; {limits}."
        ),
        value=ratio,
    )


def blind_baseline_gate(value: Value | None, controls: int, rule: int = 2) -> Gate:
    """Check that a text classifier cannot separate controls from forget records; concerns attacks on controls, never Tier B.

    By rules 3 and 4 the record claim rests on controls, for which it has a check of its own.
    """
    claim = "The record claim does not rest on controls." if rule not in TABLE_RULES else "The record claim has a check of its own."
    if value is None:
        one_person = (
            "All records of the forget set or of the holdout set belong to one person, or no two texts share a word, so whether "
            "the sets are distinguishable by words alone could not be tested. A membership attack's AUC on these controls is no "
            f"evidence by itself. {claim}"
        )
        reason = one_person if controls else "No holdout set was given."
        return _not_evaluated("blind baseline", "nothing", reason, claims=("attack",))
    passed = value.high < BLIND_LIMIT
    return Gate(
        name="blind baseline",
        claims=("attack",),
        passed=passed,
        blocks="nothing",
        reason=(
            f"A text classifier that uses no model separates forget records from controls with AUC {value.value:.3f} "
            f"[{value.low:.3f}, {value.high:.3f}]; the upper limit must stay below {BLIND_LIMIT:.2f}"
            + (". " if passed else ", so a membership attack's AUC on these controls is no evidence by itself. ")
            + claim
        ),
        value=value,
    )


def controls_gate(controls: int, rates: Sequence[float]) -> Gate:
    """Check that there are enough controls for the requested false-positive rates."""
    if not controls:
        return _not_evaluated("enough controls", "nothing", "No holdout set was given.", claims=("attack",))
    short = [rate for rate in rates if controls < CONTROLS_PER_RATE / rate]
    needed = ", ".join(f"a false-positive rate of {rate:g} needs {int(np.ceil(CONTROLS_PER_RATE / rate))}" for rate in rates)
    return Gate(
        name="enough controls",
        claims=("attack",),
        passed=not short,
        blocks="nothing",
        reason=f"{controls} never-trained controls were given; {needed}."
        + (f" No claim is made at {', '.join(f'{rate:g}' for rate in short)}." if short else ""),
    )


def resolvable_rates(controls: int, rates: Sequence[float]) -> list[float]:
    """Return the false-positive rates that this number of controls can resolve."""
    return [rate for rate in rates if controls >= CONTROLS_PER_RATE / rate]


def _others(references: Array) -> list[ReferencePanel]:
    """Return, for each reference, the panel of all others."""
    return [reference_panel(np.delete(references, held_out, axis=0)) for held_out in range(len(references))]


def _not_evaluated(name: str, blocks: str, reason: str, claims: tuple[str, ...] = ("record",)) -> Gate:
    return Gate.model_validate({"name": name, "claims": claims, "passed": None, "blocks": blocks, "reason": reason})
