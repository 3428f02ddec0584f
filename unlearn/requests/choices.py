"""What an operator chooses for a plan: its inputs and options, the settings of its audit, and the column names of its files."""

from dataclasses import dataclass, field

from unlearn.requests.plan_inputs import PlanInputs
from verify.data.records import Fields
from verify.schema.settings import Settings


@dataclass(frozen=True)
class Choices(PlanInputs):
    """Everything that the operator chose for a plan.

    Attributes:
        settings: settings of the audit.
        fields: column names of the training files.
    """

    settings: Settings = field(default_factory=Settings)
    fields: Fields = field(default_factory=Fields)
