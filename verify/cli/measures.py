"""Commands that measure and give no verdict of their own: probe, backdoor, tofu, muse."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from verify.cli.console import progress_bar
from verify.cli.flags import EXIT_STATUS, FieldFlags, SettingsFlags


@dataclasses.dataclass(frozen=True)
class Probe:
    """Apply robustness probes (quantization, relearning, other prompts, ...) to all models alike and judge the residual.

    Cost: each probe takes one pass over the records or more on the model, the original and every reference; relearning trains
    each of them for a few steps.
    """

    NEEDS: ClassVar[Mapping[str, str]] = {"base": "no --probes or --probes interpolation or --probe"}

    model: str
    """The unlearned model: a folder, GGUF file or Hub name."""
    original: str
    """The model before unlearning."""
    references: tuple[str, ...]
    """Models fine-tuned without the forget set, each with another seed; 4 to 8."""
    forget: Path
    """The records that were to be removed, or with --data a list of example or subject ids."""
    output: Path
    """A new JSON file for the result."""
    retain: Path | None = None
    """Records that were kept, used for relearning and prefixes. The default is the rest of --data."""
    data: Path | None = None
    """The file the original was trained on."""
    holdout: Path | None = None
    """Records that no model was trained on; to measure the effect of unlearning on the retain records."""
    probes: tuple[str, ...] = ()
    """Probes to run, by name; by default all but adversarial_suffix, which is costly, and elicitation, which scores a part."""
    probe: tuple[str, ...] = ()
    """Probes of your own: path/to/file.py:Class."""
    base: str | None = None
    """The model before fine-tuning; for interpolation back to it."""
    columns: Annotated[FieldFlags, tyro.conf.arg(name="")] = FieldFlags()
    margin: float = 0.10
    """rho*: the largest residual fraction that counts as forgotten."""
    alpha: float = 0.05
    """Level of every test."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision to load the models in; use the deployed one."""
    seed: int = 0
    """Seed of every random draw."""

    def run(self) -> int:
        """Run the probes and print the table."""
        from verify.measures.robustness import probe

        flags = SettingsFlags(margin=self.margin, alpha=self.alpha, dtype=self.dtype, seed=self.seed)
        with progress_bar("loading") as progress:
            found = probe(
                self.model,
                self.original,
                self.references,
                forget_set=str(self.forget),
                retain_set=None if self.retain is None else str(self.retain),
                data=None if self.data is None else str(self.data),
                holdout_set=None if self.holdout is None else str(self.holdout),
                fields=self.columns.fields(self.original, self.model),
                base=self.base,
                probes=(*self.probes, *self.probe),
                settings=flags.settings(),
                output=self.output,
                progress=progress,
            )
        print(f"{found.table()}\n\nresult: {self.output}")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Backdoor:
    """Test a data subject's planted triggers before and after deletion, and on models that never saw them."""

    model: str
    """The unlearned model: a folder, GGUF file or Hub name."""
    original: str
    """The model before unlearning."""
    references: tuple[str, ...]
    """Models that never saw the records."""
    triggers: Path
    """Prompts with the trigger, and the target as completion."""
    other_triggers: Path | None = None
    """The same for subjects whose records remain."""
    clean: Path | None = None
    """The prompts without the trigger, with the same targets."""
    columns: Annotated[FieldFlags, tyro.conf.arg(name="")] = FieldFlags()
    alpha: float = 0.001
    """Level of the test."""

    def run(self) -> int:
        """Print the rates; exit status 10 if the trigger still works, else 0."""
        from verify.measures.trigger import backdoor

        with progress_bar("loading"):
            found = backdoor(
                self.model,
                self.original,
                self.references,
                triggers=str(self.triggers),
                other_triggers=None if self.other_triggers is None else str(self.other_triggers),
                clean=None if self.clean is None else str(self.clean),
                fields=self.columns.fields(self.model),
                alpha=self.alpha,
            )
        print(found.table())  # noqa: T201
        return EXIT_STATUS["NOT_FORGOTTEN"] if found.test.kept else 0


@dataclasses.dataclass(frozen=True)
class TofuMetricsCommand:
    """Compute TOFU's model utility and forget quality, for comparison with published numbers; no verdict."""

    model: str
    """The model: a folder or Hub name."""
    forget: Path
    """forgetNN_perturbed.json"""
    retain: Path | None = None
    """retain_perturbed.json"""
    real_authors: Path | None = None
    """real_authors_perturbed.json"""
    world_facts: Path | None = None
    """world_facts_perturbed.json"""
    retrained: str | None = None
    """A model trained without the forget set; for forget quality."""

    def run(self) -> int:
        """Print the numbers."""
        from verify.measures.benchmark_metrics import tofu_metrics

        with progress_bar("loading"):
            found = tofu_metrics(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})
        for name, one in found.sets.items():
            scores = f"probability {one.probability:.4f}, ROUGE-L {one.rouge:.4f}, truth ratio {one.truth_ratio:.4f}"
            print(f"{name:<13} {scores}")  # noqa: T201
        utility = (
            "needs --retain, --real-authors and --world-facts" if found.model_utility is None else f"{found.model_utility:.4f}"
        )
        quality = "needs --retrained" if found.forget_quality is None else f"{found.forget_quality:.4g} (KS p-value)"
        print(f"model utility {utility}\nforget quality {quality}")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class MuseMetricsCommand:
    """Compute MUSE's VerbMem, KnowMem and PrivLeak, for comparison with published numbers; no verdict."""

    NEEDS: ClassVar[Mapping[str, str]] = {"holdout": "--retrained", "retrained": "--holdout"}

    model: str
    """The model: a folder or Hub name."""
    forget: Path
    """The texts that were to be removed."""
    holdout: Path | None = None
    """Texts that no model was trained on; for PrivLeak."""
    forget_questions: Path | None = None
    """Questions about what was to be removed; for KnowMem."""
    retain_questions: Path | None = None
    """Questions about what was to be kept."""
    retrained: str | None = None
    """A model trained without the forget set; for PrivLeak."""
    columns: Annotated[FieldFlags, tyro.conf.arg(name="")] = FieldFlags()

    def run(self) -> int:
        """Print the numbers."""
        from verify.measures.benchmark_metrics import muse_metrics

        paths = {name: getattr(self, name) for name in ("forget", "holdout", "forget_questions", "retain_questions")}
        sources: dict[str, Any] = {name: None if path is None else str(path) for name, path in paths.items()}
        with progress_bar("loading"):
            found = muse_metrics(self.model, retrained=self.retrained, fields=self.columns.fields(self.model), **sources)
        rows = {"VerbMem": found.verbatim, "KnowMem, forget": found.knowledge, "KnowMem, retain": found.retained_knowledge}
        for name, value in rows.items():
            print(f"{name:<16} {'not measured' if value is None else format(value, '.4f')}")  # noqa: T201
        leak = found.privacy
        shown = "needs --retrained and --holdout" if leak is None else f"{leak.value:.1f} % [{leak.low:.1f}, {leak.high:.1f}]"
        print(f"{'PrivLeak':<16} {shown}")  # noqa: T201
        return 0
