"""The models of an audit, as they were given, in the order in which they are scored."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verify.models.memory import require_memory_for_loading
from verify.scores.scorer import Plan


@dataclass(frozen=True, eq=False, repr=False)
class Models:
    """Models of an audit, each a folder, a Hub name or a model in memory.

    Attributes:
        target: the unlearned model.
        original: the model before unlearning.
        base: the model before fine-tuning; None where none was given.
        references: models fine-tuned without the forget set.
        tokenizer: tokenizer of models in memory.
        accept: differences between them that are intended; see `verify.audit`.
        proofs: files of re-executions of references.
    """

    target: Any
    original: Any
    base: Any
    references: Sequence[Any]
    tokenizer: Any
    accept: Collection[str]
    proofs: Sequence[str | Path]

    def single(self) -> dict[str, Any]:
        """Return the models of roles that have one model each, by role."""
        return {"original": self.original, "target": self.target, **({} if self.base is None else {"base": self.base})}

    def plans(self) -> list[Plan]:
        """List the models in the order that `Scorer` requires."""
        return [
            *([] if self.base is None else [Plan("base", "base", self.base)]),
            Plan("original", "original", self.original),
            Plan("target", "target", self.target),
            *(Plan(f"reference {number}", "reference", source) for number, source in enumerate(self.references, 1)),
        ]

    def require_memory(self, dtype: str) -> None:
        """Require that each model fits into memory by itself, before hours of scoring; one is loaded at a time.

        Raises:
            InputError: a model does not fit.
        """
        for plan in self.plans():
            require_memory_for_loading(plan.source, dtype)
