"""Results of one cell of the matrix: one row's model of one seed under all three threats, with its cost."""

from pathlib import Path

from pydantic import Field

from verify.errors import InputError
from verify.io.documents import Frozen
from verify.io.files import read_json, write_text
from verify.schema.parts import Value, VerdictWord


class Membership(Frozen):
    """One membership attack: area under the ROC curve, and true-positive rates at false-positive rates measured on controls."""

    attack: str
    auc: Value
    tpr: dict[str, Value]


class Counts(Frozen):
    """Calls of one attack at a threshold set on other controls."""

    attack: str
    fpr: float
    true_positives: int
    false_negatives: int
    false_positives: int
    true_negatives: int


class Triggers(Frozen):
    """Backdoors: success of the deleted planter's triggers, of the kept planter's, and prompts without any.

    Attributes:
        gone, stays: success rates of the deleted and of the kept planter's triggers; `by_kind` splits the first.
        false: rate at which a target is produced without its trigger.
        never: success rate of the deleted triggers on models that never saw them.
        kept: whether Athena's test rejects deletion; None where the trigger never worked, or there are too few uses to decide.
    """

    gone: Value
    by_kind: dict[str, Value]
    stays: Value
    false: Value
    never: Value
    kept: bool | None


class Cell(Frozen):
    """One row's model of one seed.

    Attributes:
        row, seed: identify the cell.
        epsilon, delta: of differential privacy, else None.
        verdict: verdict of the audit, against the references shared by all cells.
        alike: whether those references were trained like this model, apart from the deletion; only then is the verdict on
            deletion alone.
        rule: rule of the verdict (`verify.Settings`).
        residual: the residual fraction, where it is defined.
        membership: all membership attacks.
        verbatim, strength: shares of a forget record that are extracted; log_probability: mean log p_z, nats.
        utility: retain utility relative to the references; unseen: token probability on never-trained records.
        base_utility: retain utility of the base model before any fine-tuning, relative to the references.
        general: by kind of text, the token probability on passages that have nothing to do with the records, relative to a
            pretrained base model; empty for a base from scratch.
        counts: calls for the bound of differential privacy.
        tokens: tokens that making the model took, as a share of a retraining's; for a deletion, without training the original.
        seconds, memory: wall-clock time of making the model, None where other work on the machine makes it incomparable, and its
            peak memory above the start, MiB.

    What has a default is missing in files of earlier versions.
    """

    row: str
    seed: int
    epsilon: float | None
    delta: float | None
    verdict: VerdictWord
    alike: bool
    residual: Value | None
    membership: tuple[Membership, ...]
    verbatim: Value
    strength: Value
    log_probability: Value
    triggers: Triggers
    utility: Value
    unseen: Value
    base_utility: Value | None = None
    general: dict[str, Value] = Field(default_factory=dict)
    counts: tuple[Counts, ...]
    tokens: float | None = None
    rule: int | None = None
    seconds: float | None
    memory: float

    def attack(self, name: str) -> Membership:
        """Return one membership attack.

        Raises:
            KeyError: it was not run.
        """
        for found in self.membership:
            if found.attack == name:
                return found
        raise KeyError(name)


def save_cell(cell: Cell, folder: Path) -> None:
    """Write `cell.json`."""
    write_text(folder / "cell.json", cell.model_dump_json(indent=1) + "\n")


def load_cell(folder: Path) -> Cell:
    """Read `cell.json`.

    Raises:
        InputError: it is missing, or of another version.
    """
    read_json(folder / "cell.json")  # raises a precise error for a damaged file
    try:
        return Cell.model_validate_json((folder / "cell.json").read_bytes())
    except ValueError:
        raise InputError(f"{folder / 'cell.json'} is of another version. Remove the folder, and the cell is made again.") from None


def span(values: list[Value]) -> Value:
    """Combine several seeds into their mean, with the smallest lower and the largest upper limit.

    All seeds share their records, so averaging would not shrink the intervals; their hull is no narrower than each of them.
    """
    return Value(
        value=sum(value.value for value in values) / len(values),
        low=min(value.low for value in values),
        high=max(value.high for value in values),
        n=values[0].n,
        level=values[0].level,
    )
