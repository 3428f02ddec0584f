"""What one cell of the matrix holds: a row's model of one seed, under all three threats, with its price."""

from pathlib import Path

from verify.errors import InputError
from verify.io.documents import Frozen
from verify.io.files import read_json, write_text
from verify.schema.parts import Value, VerdictWord


class Membership(Frozen):
    """One membership attack: area under the ROC, and true-positive rates at the false-positive rates that the controls carry."""

    attack: str
    auc: Value
    tpr: dict[str, Value]


class Counts(Frozen):
    """Calls of one attack at a threshold that other controls set."""

    attack: str
    fpr: float
    true_positives: int
    false_negatives: int
    false_positives: int
    true_negatives: int


class Triggers(Frozen):
    """Backdoors: uses of the deleted planter's triggers, of the staying planter's, and prompts without any.

    Attributes:
        gone, stays: success rates; by_kind splits the first.
        false: how often a target comes without its trigger.
        never: the deleted triggers on models that never saw them.
        kept: whether Athena's test denies deletion; None where the trigger never worked, or the uses are too few to tell.
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
        row, seed: which.
        epsilon, delta: of differential privacy, else None.
        verdict: of the audit against the references that all cells share.
        alike: whether those references were trained as this model was, apart from the deletion; only then is the verdict about
            deletion alone.
        residual: the residual fraction, where it is defined.
        membership: every attack.
        verbatim, strength: shares of a forget record that come out; log_probability: mean log p_z, nats.
        utility: retain utility over that of the references; unseen: token probability on never-trained records.
        counts: for the bound of differential privacy.
        seconds, memory: wall-clock time of making the model, and the most memory it took beyond what was there, MiB.
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
    counts: tuple[Counts, ...]
    seconds: float
    memory: float

    def attack(self, name: str) -> Membership:
        """One membership attack.

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
    read_json(folder / "cell.json")  # says what is wrong with the file, where something is
    try:
        return Cell.model_validate_json((folder / "cell.json").read_bytes())
    except ValueError:
        raise InputError(f"{folder / 'cell.json'} is of another version. Remove the folder: the cell is made again.") from None


def span(values: list[Value]) -> Value:
    """Several seeds as one number: their mean, with the smallest lower and the largest upper limit.

    The same records are under every seed, so the intervals do not average; their hull promises no more than each of them.
    """
    return Value(
        value=sum(value.value for value in values) / len(values),
        low=min(value.low for value in values),
        high=max(value.high for value in values),
        n=values[0].n,
        level=values[0].level,
    )
