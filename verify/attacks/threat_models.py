"""Threat models of all attacks, derived from the attack classes.

An attack that fails is evidence only against attackers with no more access than it had. The reader of a verdict must therefore
know what each attack had access to, and which attacks were not run.
"""

from collections.abc import Mapping

from verify.schema.threat_model import ThreatModel

SEES: Mapping[str, str] = {
    "one pass": "the record, and the probability that the model gives to each of its tokens",
    "reference model": "the model before fine-tuning",
    "retrained references": "models trained alike without the records",
    "reference tokens": "the probability that each of these other models gives to each of its tokens",
    "controls": "records that the model was never trained on",
    "generation": "text that the model writes in answer to the record's prompt",
    "own passes": "the probabilities that the model gives to texts of the attacker's choice",
    "activations": "the activations inside the model, so the weights",
    "gradients": "the weights, and gradients with respect to them",
}
"""Attacker access implied by each of an attack's needs."""


def threat_models() -> tuple[ThreatModel, ...]:
    """Return the threat model of every attack of this version, run or not."""
    from verify.attacks import attack_classes

    return tuple(
        ThreatModel(
            attack=name,
            family=kind.family,
            idea=kind.idea,
            source=kind.paper,
            sees=tuple(words for need, words in SEES.items() if need in kind.needs),
            passes=float(kind.cost),
            references=kind.references,
        )
        for name, kind in attack_classes().items()
    )
