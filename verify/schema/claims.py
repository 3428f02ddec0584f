"""Claims of an audit in addition to the record claim: canaries, held-out controls, people, and the model without its adapter."""

from typing import Literal

from pydantic import Field

from verify.io.documents import Frozen
from verify.schema.parts import Digest, RecordHash, Share, Value, VerdictWord


class CanaryBatch(Frozen):
    """Counts of one deletion's guesses about its own canaries."""

    commitment: Digest
    guesses: int = Field(ge=1)
    correct: int = Field(ge=0)


class ProcedureClaim(Frozen):
    """Tier A: a test of the deletion procedure by randomly assigned canaries, without retraining.

    Attributes:
        commitment: digest that fixed the canaries and their assignments before training.
        pairs, guesses, correct: m pairs, r guesses about those with the largest score differences, v of them correct.
        accuracy: v / r with its exact interval; perfect deletion gives one half.
        remembered_p, inverted_p: exact p-values in both directions under perfect deletion.
        epsilon: lower bound at `significance` on the epsilon of (epsilon, delta)-privacy, the larger of both directions, nats.
        against_retraining: half of it, the bound by the definition "as if retrained".
        limit: epsilon*, the largest epsilon that counts as deleted, decided beforehand.
        calibrated_by: how many canary-free models were subtracted.
        original_accuracy: the same guesses on the model before deletion, after the fact: what the test can see at all.
        batches: this deletion's counts after those of earlier audits.
        log_e_value: natural logarithm of the e-value over all batches; an alarm at log(1 / alpha).
        verdict, reason: this claim's own word, and why.
    """

    commitment: Digest
    pairs: int = Field(ge=1)
    guesses: int = Field(ge=1)
    correct: int = Field(ge=0)
    accuracy: Value
    remembered_p: Share
    inverted_p: Share
    epsilon: float = Field(ge=0)
    against_retraining: float = Field(ge=0)
    delta: Share
    significance: Share
    limit: float = Field(gt=0)
    calibrated_by: int = Field(ge=0)
    original_accuracy: Value
    batches: tuple[CanaryBatch, ...]
    log_e_value: float
    verdict: VerdictWord
    reason: str


class ConformalFinding(Frozen):
    """A record (or a person) that differs from the never-trained controls."""

    record: RecordHash
    direction: Literal["remembered", "over-forgotten"]
    adjusted_p: Share


class HeldOutClaim(Frozen):
    """Tier C: forget records against controls that were held out at random at data collection, without retraining.

    Attributes:
        records, controls: K and N.
        statistic: what was compared.
        accused: records that a Benjamini-Hochberg test over conformal p-values rejects.
        original_accused: number rejected in the model before unlearning; with none, the test has no power here.
        smallest_p: the smallest p-value that this number of controls can give.
        blind_p: label-permutation p-value of the blind baseline (texts only); below 0.01 the controls are not exchangeable.
        still_in: DUCI, the share of the set that is still in the model, where the original's rates allow it.
        record_power: probability of detecting one record's residual of one standard deviation.
        verdict, reason: this claim's own verdict, and why.
    """

    records: int = Field(ge=1)
    controls: int = Field(ge=1)
    statistic: str
    accused: tuple[ConformalFinding, ...]
    original_accused: int = Field(ge=0)
    smallest_p: Share
    blind_p: Share
    still_in: Value | None
    record_power: Share
    verdict: VerdictWord
    reason: str


class UserLevelClaim(Frozen):
    """User level: texts of the data subjects that no model was trained on, against those of other people.

    Attributes:
        subjects, controls: number of people on each side.
        texts: fresh texts of the forget set's subjects.
        statistic: what was averaged per person.
        auc, original_auc: forget subjects against others, under the target and under the original.
        p_value, original_p: p-values of the same comparison by a rank-sum test over people; these decide.
        blind_p: label-permutation p-value of the blind baseline between fresh and holdout texts; below 0.01, or where it was not
            computed, nothing is judged.
        accused: people that a Benjamini-Hochberg test over conformal p-values rejects, as keyed hashes.
        verdict, reason: this claim's own word, and why.
    """

    subjects: int = Field(ge=1)
    controls: int = Field(ge=1)
    texts: int = Field(ge=1)
    statistic: str
    auc: Value
    original_auc: Value
    p_value: Share
    original_p: Share
    blind_p: Share | None
    accused: tuple[ConformalFinding, ...]
    verdict: VerdictWord
    reason: str


class WithoutAdapter(Frozen):
    """The audited model with its adapter switched off, on the forget set: what deleting one file would bring back.

    Attributes:
        state: "original" where every record has the loss of the model before unlearning; "remembers" where records were found to
            be remembered beyond the margin; "knows no more" where the residual was shown to be below the margin; else "open".
        loss, with_adapter, original, references: mean losses over the forget set, nats per token; None without references.
        residual: residual fraction without the adapter, against at least two references; None where it is undefined.
        reason: what that means, in plain sentences.
    """

    state: Literal["original", "remembers", "knows no more", "open"]
    loss: float
    with_adapter: float
    original: float
    references: float | None
    residual: Value | None
    reason: str
