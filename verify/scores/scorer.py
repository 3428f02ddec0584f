"""Score models one after the other on every set, keeping only numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from verify.attacks.base import MODEL_ITSELF, Attack, Need, Observation
from verify.data.canaries import Canaries
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.data.subjects import subject_groups
from verify.errors import InputError
from verify.models.configuration import entries_of
from verify.models.loading import LoadedModel, load_model, require_same_tokenizer
from verify.schema.attack_results import NotRun
from verify.schema.inputs import AuditedModel
from verify.schema.parts import ModelRole, SetRole
from verify.schema.settings import Settings
from verify.scores.adapter_off import digest_below, without_adapter
from verify.scores.cache import ScoreCache
from verify.scores.channels import Channels
from verify.scores.configurations import Configurations
from verify.scores.hidden_states import HiddenStates
from verify.scores.observe import measure
from verify.scores.table import WITHOUT_ADAPTER, ScoreBlock

ATTACKED: tuple[SetRole, ...] = ("forget", "holdout")
"""Sets that attacks run on. Retain records are trained data and measure utility; canaries and fresh texts have their own claims."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A model to score. The base comes first, because the reference attack subtracts its scores.

    Attributes:
        label: its name in the score table.
        role: base, original, target or reference.
        source: a folder or a loaded model.
    """

    label: str
    role: ModelRole
    source: Any


class Scorer:
    """Scores models one after the other and keeps only numbers.

    Attributes:
        blocks: scores so far, by model label and set.
        models: descriptions of the models so far, in order.
        base: observations of the model before fine-tuning, reduced to what attacks need of it.
        kept: those of every other model, for attacks that compare models.
        device: device of the model scored last.
    """

    def __init__(
        self,
        sets: Mapping[SetRole, Sequence[Record]],
        attacks: Mapping[str, Attack],
        settings: Settings,
        tokenizer: Any,
        cache_dir: Path | None,
        key: RecordKey,
        canaries: Canaries | None = None,
        *,
        same_weights: bool = False,
        channels: Channels | None = None,
        other_configuration: bool = False,
        states: HiddenStates | None = None,
    ) -> None:
        """Set up the scoring of an audit's models; arguments as for `verify.audit`.

        Args:
            sets, attacks, settings, tokenizer, cache_dir, key, canaries: as there.
            same_weights: whether a reference may have the weights of another model.
            other_configuration: whether a model may have another configuration than the original's.
            channels: measures the other ways of asking; None for none.
            states: collects hidden states; None for none.
        """
        self.sets, self.attacks, self.settings, self.tokenizer = dict(sets), attacks, settings, tokenizer
        self.cache_dir, self.key, self.canaries = cache_dir, key, canaries
        self.blocks: dict[tuple[str, SetRole], ScoreBlock] = {}
        self.models: list[AuditedModel] = []
        self.base: dict[SetRole, Observation] = {}
        self.kept: dict[str, dict[SetRole, Observation]] = {}
        self.device = "cpu"
        self.accept_same_weights, self.same_weights = same_weights, dict[str, str]()
        self.channels = channels
        self.configurations = Configurations(other_configuration)
        self.states = states
        self._first: LoadedModel | None = None
        self._base_made: tuple[str, Any] | None = None  # digest of the base's weights, and its configuration
        self._named: dict[SetRole, tuple[tuple[str, ...], tuple[str | None, ...]]] = {}

    def score(self, plan: Plan, progress: Callable[[float], None]) -> None:
        """Load one model, score it on every set, and free it.

        Args:
            plan: the model.
            progress: called with the share of this model's work that is done, in [0, 1].

        Raises:
            InputError: another tokenizer than the first model's, another configuration than the original's, a reference given
                twice, or a record that cannot be encoded.
        """
        loaded = load_model(plan.source, tokenizer=self.tokenizer, dtype=self.settings.dtype)
        if self._first is not None:
            require_same_tokenizer([self._first, loaded])
        self._require_new_reference(plan, loaded)
        self.configurations.add(plan.label, plan.role, loaded)
        self._list(plan, loaded)
        if self.canaries is not None and "canary" not in self.sets:
            # The canaries' texts depend on the tokenizer, which is known only now.
            self.sets["canary"] = self.canaries.records(loaded.tokenizer)
        # A set counts once for its pass and once for its attacks, a channel for the passes that it takes.
        count = len(self.sets)
        total = 2 * count + (0 if self.channels is None else self.channels.units)
        observations = self._measure(loaded, lambda done: progress(done / total))
        cache = ScoreCache(self.cache_dir, loaded, self.key)
        for done, (role, observation) in enumerate(observations.items(), 1):
            self.blocks[plan.label, role] = self._block(plan, observation, role, cache)
            progress((count + done) / total)
        if self.states is not None and plan.role != "base":
            self.states.measure(loaded, plan.label)
        self._measure_channels(loaded, plan.label, lambda done: progress((2 * count + done) / total))
        if plan.role == "target":
            self._score_without_adapter(loaded)
        self._keep(plan, observations)
        # Only names and digests: the weights must be freed before the next model is loaded.
        self._first = self._first or replace(loaded, model=None, tokenizer=None)

    def _list(self, plan: Plan, loaded: LoadedModel) -> None:
        """Describe a model for the evidence."""
        parameter = next(loaded.model.parameters())
        self.device = str(parameter.device)
        if plan.role == "base":
            self._base_made = loaded.digest, _made(loaded)
        self.models.append(
            AuditedModel(
                label=plan.label,
                role=plan.role,
                name=loaded.name,
                weights=loaded.digest,
                tokenizer=loaded.tokenizer_digest,
                dtype=str(parameter.dtype).removeprefix("torch."),
                file=loaded.file_digest,
                configuration=loaded.configuration,
            )
        )

    def _measure_channels(self, loaded: LoadedModel, label: str, done: Callable[[int], None]) -> None:
        """Add the losses of a model that is asked in other ways to its blocks."""
        asked = {} if self.channels is None else self.channels.measure(loaded, label, done)
        for role, losses in asked.items():
            if losses:
                self.blocks[label, role] = replace(self.blocks[label, role], channels=losses)

    def _keep(self, plan: Plan, observations: Mapping[SetRole, Observation]) -> None:
        """Keep what attacks that compare models read of this one."""
        compared: Need = "reference model" if plan.role == "base" else "retrained references"
        kept = _linked({role: self._reduced(observations[role], compared) for role in ATTACKED if role in observations})
        if plan.role == "base":
            self.base = kept
        else:
            self.kept[plan.label] = kept

    def _score_without_adapter(self, target: LoadedModel) -> None:
        """Score forget set and controls with the target's adapter switched off, which is what deleting its file leaves."""
        alone = without_adapter(target)
        if alone is None:
            return
        # Where the base was scored as itself, its losses are known; without one no weights need hashing.
        known = self._base_made is not None and self._base_made == (digest_below(target.model), _made(target))
        with alone as off:
            for role in ATTACKED:
                if role in self.sets:
                    observation = self.base[role] if known else self._observed(off, self.sets[role])
                    block = self.blocks["target", role]
                    self.blocks[WITHOUT_ADAPTER, role] = replace(block, loss=-observation.table.means, scores={}, channels={})

    def _observed(self, loaded: LoadedModel, records: Sequence[Record]) -> Observation:
        """Run one pass over records, or read it from the cache."""
        return measure(loaded, records, cache_dir=self.cache_dir, key=self.key, overflow=self.settings.overflow)

    def _require_new_reference(self, plan: Plan, loaded: LoadedModel) -> None:
        """Refuse a reference with another model's weights, which would make retrainings look more alike than they are.

        Raises:
            InputError: its weights are those of a model scored before, and that is not accepted.
        """
        same = [model.label for model in self.models if model.weights == loaded.digest]
        if plan.role != "reference" or not same:
            return
        self.same_weights[plan.label] = same[0]
        # One training run counted twice would leave no spread to judge by, so it is refused even where this is accepted.
        if not self.accept_same_weights or any(label.startswith("reference") for label in same):
            raise InputError(
                f"{plan.label} ({loaded.name}) has the same weights as {same[0]}. Each reference must be a training run of its "
                "own: without the forget set, and with another seed."
            )

    def _measure(self, loaded: LoadedModel, done: Callable[[int], None]) -> dict[SetRole, Observation]:
        """Run one pass over every set, and link forget set and controls, which attacks read together."""
        observations: dict[SetRole, Observation] = {}
        for number, (role, records) in enumerate(self.sets.items(), 1):
            observations[role] = self._observed(loaded, records)
            done(number)
        return _linked(observations)

    def _reduced(self, observation: Observation, compared: Need) -> Observation:
        """Return what the attacks that compare with this model read of it: the records' means, or the tokens, kept on disk."""
        tokens = any({compared, "reference tokens"} <= attack.needs for attack in self.attacks.values())
        table = observation.table.on_disk() if tokens else observation.table.without_tokens()
        return Observation(observation.records, table)

    def _block(self, plan: Plan, observation: Observation, role: SetRole, cache: ScoreCache) -> ScoreBlock:
        """Run the attacks that need this model alone, and collect the block's numbers under keyed hashes."""
        scores = {}
        if role in ATTACKED:
            for name, attack in self.attacks.items():
                # Extraction from the base model is the rate by chance to compare with; it cannot know membership.
                pointless = plan.role == "base" and attack.family != "extraction"
                if pointless or self._lacks(attack) is not None or "retrained references" in attack.needs:
                    continue
                run = partial(attack.score, observation, [self.base[role]] if "reference model" in attack.needs else [])
                read = (observation, observation.controls, observation.members)
                scores[name] = cache.get(name, attack, read, run) if attack.needs & MODEL_ITSELF else run()
        records, subjects = self._names(role)
        return ScoreBlock(
            records=records,
            subjects=subjects,
            tokens=observation.table.lengths,
            loss=-observation.table.means,
            scores=scores,
            included=self.canaries.included() if role == "canary" and self.canaries is not None else None,
        )

    def _names(self, role: SetRole) -> tuple[tuple[str, ...], tuple[str | None, ...]]:
        """Return keyed hashes of a set's records and subjects, which are the same objects in the blocks of all models."""
        if role not in self._named:
            owners = subject_groups(self.sets[role], lambda _: "")
            records = tuple(self.key.of(record.fingerprint) for record in self.sets[role])
            self._named[role] = records, tuple(self.key.of(owner, "subject") if owner else None for owner in owners)
        return self._named[role]

    def compare(self) -> None:
        """Run the attacks that compare a model with the retrained references, once all of them are scored.

        Each reference is compared with the others, which shows how an honest retraining scores. Channels that could not be measured
        on every model are dropped.
        """
        if self.channels is not None:
            self.blocks = self.channels.kept(self.blocks)
        waiting = {name: attack for name, attack in self.attacks.items() if "retrained references" in attack.needs}
        references = [model.label for model in self.models if model.role == "reference"]
        for label, observations in self.kept.items():
            others = [self.kept[other] for other in references if other != label]
            for role, observation in observations.items():
                able = {name: attack for name, attack in waiting.items() if self._lacks(attack, len(others)) is None}
                block = self.blocks[label, role]
                scores = {name: attack.score(observation, [other[role] for other in others]) for name, attack in able.items()}
                self.blocks[label, role] = replace(block, scores={**block.scores, **scores})

    def _lacks(self, attack: Attack, references: int | None = None) -> str | None:
        """Return what an attack needs and this audit lacks, with how to give it; None if it can run."""
        if len(self.sets["forget"]) == 1:
            return "needs two records: one score has no interval; this record is judged by its loss"
        if "reference model" in attack.needs and not self.base:
            return "needs the model before fine-tuning; give it with --base DIR"
        if "controls" in attack.needs and "holdout" not in self.sets:
            return "needs never-trained records; give them with --holdout FILE"
        needed = attack.references if "retrained references" in attack.needs else 0
        if references is not None and references < needed:
            return f"needs {needed} retrained references; name them with --references"
        return None

    def not_run(self) -> tuple[NotRun, ...]:
        """Return the requested attacks that lack what they need."""
        references = sum(model.role == "reference" for model in self.models)
        lacking = {name: self._lacks(attack, references) for name, attack in self.attacks.items()}
        return tuple(NotRun(attack=name, reason=reason) for name, reason in lacking.items() if reason is not None)


def _linked(observations: dict[SetRole, Observation]) -> dict[SetRole, Observation]:
    """Link forget set and controls, which attacks read together."""
    if "holdout" not in observations:
        return observations
    forget, controls = observations["forget"], observations["holdout"]
    observations["forget"] = replace(forget, controls=controls)
    observations["holdout"] = replace(controls, controls=controls, members=forget)
    return observations


def _made(loaded: LoadedModel) -> tuple[Any, ...]:
    """Return what the numbers of a model without its adapters depend on besides its weights and the records."""
    return str(next(loaded.model.parameters()).dtype), loaded.tokenizer_digest, loaded.context_length, entries_of(loaded.model)
