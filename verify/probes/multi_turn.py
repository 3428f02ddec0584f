"""Multi-turn probe: ask after another question, and ask again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from verify.data.rewordings import question
from verify.models.loading import LoadedModel
from verify.probes._turns import losses_after
from verify.probes.base import Array, Material, ProbeNotRunError

REFUSAL = "I do not know."


@dataclass(frozen=True)
class MultiTurn:
    """Score the answers after a turn about another record, and after a refusal of the same question, in the chat template.

    Pan and Wang 2026 (arXiv 2603.00823): what looks forgotten in a single turn often returns in the course of a conversation.

    Do not use it for models without a chat template: their conversation would be a text that they were never trained on.
    """

    idea: ClassVar[str] = "ask after another turn, and ask again"
    paper: ClassVar[str] = "Pan and Wang 2026 (arXiv 2603.00823)"

    def losses(self, loaded: LoadedModel, material: Material) -> Mapping[str, Array]:
        """Compute the losses after each kind of conversation.

        Raises:
            ProbeNotRunError: there is no chat template, it refuses the chat, or records are plain texts or too long.
        """
        asking = [record for record in material.other if question(record).strip()]
        if not asking:
            raise ProbeNotRunError("the other records are plain texts, so that there is no other question to ask first")
        # The same for every model and record.
        other = asking[int(np.random.default_rng(material.seed).integers(len(asking)))]
        first = (("user", question(other)), ("assistant", other.scored_text))
        return {
            "after another turn": losses_after(loaded, material.forget, lambda _: first),
            "asked again": losses_after(loaded, material.forget, lambda asked: (("user", asked), ("assistant", REFUSAL))),
        }
