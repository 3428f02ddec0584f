"""Prompt-variant probe: the same completion behind reworded prompts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from verify.data.records import Record
from verify.data.rewordings import asked_as, question
from verify.models.loading import LoadedModel
from verify.probes.base import Array, Material, mean_losses

SHOTS = 2
"""Number of solved examples before a prompt."""

Wording = Callable[[str], str]
"""From a prompt to another one."""


@dataclass(frozen=True)
class PromptVariants:
    """Score completions behind other prompts: with an instruction, after solved examples, in capitals, without any prompt.

    Patil et al. 2023 (arXiv 2309.17410), section 5. A method that unlearns the answer to one wording may keep it for others. The
    variants are fixed rules, not paraphrases by a model, so that they are the same in every audit.

    Attributes:
        shots: number of other records before the prompt in the few-shot variant.
    """

    shots: int = SHOTS

    idea: ClassVar[str] = "ask in other words: instruction, solved examples, capitals, no prompt"
    paper: ClassVar[str] = "Patil et al. 2023 (arXiv 2309.17410)"

    def losses(self, loaded: LoadedModel, material: Material) -> Mapping[str, Array]:
        """Compute the losses for each wording."""
        wordings: dict[str, Wording] = {
            "instruction": instructed,
            "few-shot": after_examples(material.other, material.seed, self.shots),
            "capitals": str.upper,
            "no prompt": without_prompt,
        }
        return {
            name: mean_losses(loaded, [reworded(record, wording) for record in material.forget])
            for name, wording in wordings.items()
        }


def instructed(prompt: str) -> str:
    """Put an instruction in front of a prompt."""
    return f"Answer precisely and completely. {prompt}"


def without_prompt(_: str) -> str:
    """Leave the prompt out."""
    return ""


def after_examples(others: Sequence[Record], seed: int, shots: int = SHOTS) -> Wording:
    """Return the wording that puts solved examples in front of a prompt, the same for every model and record.

    Args:
        others: records to draw the examples from.
        seed: seed of the draw.
        shots: number of examples.
    """
    order = np.random.default_rng(seed).permutation(len(others))[:shots]
    examples = "\n\n".join(f"{question(others[index])} {others[index].scored_text}".strip() for index in order)
    return lambda prompt: f"{examples}\n\n{prompt}"


def reworded(record: Record, wording: Wording) -> Record:
    """Return the record behind another prompt, or with another first user's turn in a chat."""
    return asked_as(record, wording(question(record)))
