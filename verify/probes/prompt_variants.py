"""Prompt-variant probe: the same completion behind reworded prompts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from verify.data.records import Record
from verify.models.loading import LoadedModel
from verify.probes.base import Array, Material, mean_losses


@dataclass(frozen=True)
class PromptVariants:
    """Score completions behind other prompts: with an instruction, after solved examples, in capitals, without any prompt.

    Patil et al. 2023 (arXiv 2309.17410), section 5. A method that unlearns the answer to one wording may keep it for others. The
    variants are fixed rules, not paraphrases by a model, so that they are the same in every audit.

    Attributes:
        shots: number of other records before the prompt in the few-shot variant.
    """

    shots: int = 2

    idea: ClassVar[str] = "ask in other words: instruction, solved examples, capitals, no prompt"
    paper: ClassVar[str] = "Patil et al. 2023 (arXiv 2309.17410)"

    def losses(self, loaded: LoadedModel, material: Material) -> Mapping[str, Array]:
        """Compute the losses for each wording."""
        # The same examples for every model and record.
        order = np.random.default_rng(material.seed).permutation(len(material.other))[: self.shots]
        examples = "\n\n".join(f"{material.other[index].prompt} {material.other[index].scored_text}".strip() for index in order)
        wordings = {
            "instruction": lambda prompt: f"Answer precisely and completely. {prompt}",
            "few-shot": lambda prompt: f"{examples}\n\n{prompt}",
            "capitals": lambda prompt: prompt.upper(),
            "no prompt": lambda _: "",
        }
        return {
            name: mean_losses(loaded, [_reworded(record, wording) for record in material.forget])
            for name, wording in wordings.items()
        }


def _reworded(record: Record, wording: object) -> Record:
    """Return the record with another prompt, or with another first user turn in a chat."""
    assert callable(wording)
    if record.messages:
        asked = [turn for turn, (role, _) in enumerate(record.messages) if role == "user"]
        turns = tuple(
            # A chat template may refuse an empty turn.
            (role, wording(content) or "?") if asked and turn == asked[0] else (role, content)
            for turn, (role, content) in enumerate(record.messages)
        )
        return replace(record, messages=turns, secret=None)
    return replace(record, prompt=wording(record.prompt), secret=None)
