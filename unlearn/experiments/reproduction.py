"""Reproduction of a result from its manifest, and comparison of the weights.

The manifest of a result that was made from files holds everything needed to repeat it (`unlearn.training.inputs`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn.training.inputs import environment
from unlearn.training.options import GradientOptions, Selection, TrainingOptions
from verify.data.records import Fields
from verify.errors import InputError
from verify.io.files import file_digest, verify_manifest
from verify.models.loading import load_model


@dataclass(frozen=True)
class Reproduction:
    """Comparison of a reproduced run with the original.

    Attributes:
        identical: whether the weights are equal bit by bit.
        largest_difference: largest difference of a weight, as a share of the largest weight of its tensor.
        within: whether that is at most the tolerance.
        changed: entries of the environment that differ.
    """

    identical: bool
    largest_difference: float
    within: bool
    changed: tuple[str, ...]


def reproduce(result: str | Path, output_dir: str | Path, tolerance: float = 1e-4) -> Reproduction:
    """Reproduce a result from its manifest and compare the weights.

    Args:
        result: a folder that `forget` or `finetune` wrote.
        output_dir: a new folder for the second result.
        tolerance: permitted difference of a weight, as a share of the largest weight of its tensor.

    Raises:
        InputError: the result was made from objects in memory or in shards, or an input is missing or has changed.
    """
    about = verify_manifest(result, "model")["about"]
    made_from = about.get("inputs")
    if not made_from and "shards" in about and "method" not in about:
        raise InputError(
            f"{result} was trained in shards, and its manifest does not name the training file. Train again with --shards "
            f"{about['shards']} --slices {about['slices']} --combine {about['combine']} on the same file, and compare the weights."
        )
    if not made_from:
        raise InputError(
            f"{result} was made from models or records in memory, so its manifest cannot reproduce it. Run the same code again."
        )
    for name, digest in made_from["digests"].items():
        path = made_from["sets"][name]
        if not Path(path).is_file() or file_digest(path) != digest:
            raise InputError(f"the {name} set ({path}) is missing or has changed since. Restore the file to reproduce the result.")
    for name, digest in made_from.get("model_files", {}).items():
        path = made_from["models"][name]
        if not Path(path).is_file() or file_digest(path) != digest:
            raise InputError(f"the file {path} is missing or has changed since. Restore the file to reproduce the result.")
    options, fields = TrainingOptions(**about["options"]), Fields(**made_from["fields"])
    _run_again(about, made_from, options, fields, output_dir)
    first, second = load_model(result), load_model(output_dir)
    others = second.model.state_dict()
    largest = max(
        (float((value.float() - others[name].float()).abs().max() / value.float().abs().max().clamp_min(1e-12)))
        for name, value in first.model.state_dict().items()
    )
    now = environment()
    changed = tuple(name for name in now if now[name] != about.get("environment", {}).get(name))
    return Reproduction(first.digest == second.digest, largest, largest <= tolerance, changed)


def _repeatable(about: Mapping[str, Any]) -> Any:
    """Return the defence that the result was trained under, or None.

    Raises:
        InputError: its noise was drawn with a seed that was not stored.
    """
    from unlearn.defenses import DifferentialPrivacy, defense_of

    defense = defense_of(about)
    if isinstance(defense, DifferentialPrivacy) and defense.noise_seed is None:
        raise InputError(
            "a differentially private training does not store its noise, so it cannot be reproduced. Use --noise-seed for research."
        )
    return defense


def _run_again(
    about: Mapping[str, Any], made_from: Mapping[str, Any], options: TrainingOptions, fields: Fields, output_dir: str | Path
) -> None:
    """Run the fine-tuning or unlearning that a manifest describes."""
    models, sets, dtype = made_from["models"], made_from["sets"], made_from["dtype"]
    if "method" not in about:
        from unlearn.finetuning import finetune

        if about.get("canary_pairs"):
            raise InputError(
                "a training with canaries draws new canary assignments, so it cannot be reproduced. Train without --canaries."
            )
        finetune(
            models["model"],
            sets["data"],
            output_dir=output_dir,
            fields=fields,
            tokenizer=models.get("tokenizer"),
            options=options,
            dtype=dtype,
            defense=_repeatable(about),
            quantize=made_from.get("quantize"),
            holdout_share=about.get("holdout_share"),
        )
        return
    from unlearn.forgetting import forget
    from unlearn.methods import method_classes

    kind = method_classes().get(about["method"])
    if kind is None:
        raise InputError(f"{about['method']} is not a method of this version. Run its command again by hand.")
    parameters = {name: tuple(value) if isinstance(value, list) else value for name, value in about["parameters"].items()}
    forget(
        models["model"],
        kind(**parameters),
        **{f"{name}_set": sets.get(name) for name in ("forget", "retain", "holdout")},
        data=sets.get("data"),
        base=models.get("base"),
        output_dir=output_dir,
        fields=fields,
        options=options,
        selection=Selection(**about["selection"]) if about.get("selection") else None,
        gradients=GradientOptions(**about["gradients"]) if about.get("gradients") else None,
        dtype=dtype,
        quantize=made_from.get("quantize"),
    )
