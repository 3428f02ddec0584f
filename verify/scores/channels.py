"""Channels: other ways of asking a model about the records than their exact text, measured alike on every model.

A model can be trained to give the losses of a retraining on the very texts that an audit reads, and still know what they say. So
the records are also asked for in other words, behind an instruction, after solved examples, without their prompts, from every
earlier layer, with rounded weights, and after a short training on other forget subjects. Each way gives one mean loss per forget
record and per never-trained control; the controls show what the treatment itself does to a model.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.data.rewordings import Rewordings, question
from verify.data.subjects import subject_groups
from verify.errors import InputError, RunError
from verify.models.inner_layers import layers_below_the_last
from verify.models.loading import LoadedModel
from verify.models.quantized import is_quantized
from verify.probes.base import Material, ProbeNotRunError, mean_losses
from verify.probes.logit_lens import layer_losses
from verify.probes.prompt_variants import Wording, after_examples, instructed, reworded, without_prompt
from verify.probes.quantization import Quantization, quantized
from verify.probes.relearning import across_subjects, relearning_rate, subject_halves
from verify.schema.attack_results import ChannelNotRun
from verify.schema.parts import SetRole
from verify.schema.settings import STANDARD_CHANNELS, Settings
from verify.scores.cache import SealedNumbers
from verify.scores.observe import model_name
from verify.scores.table import WITHOUT_ADAPTER, ScoreBlock

Array = NDArray[np.float64]
Measured = dict[str, Array]
"""Mean losses by channel, nats per token, of the forget records and then the controls [K + N]."""

VERSION = "channels/1"
"""Part of every cache entry: a channel that is computed differently gets another version."""
BITS = {"int8": 8, "int4": 4}
ALL = "all but the exact text"
"""Name under which channels are listed as not run where none of them can be."""
WORDED_SHARE = 0.8
"""Smallest share of a set's records that must have rewordings; a model fails to reword some."""
UNITS = {"layers": 2, "int8": 1, "int4": 1, "relearned": 6}
"""Cost of a group on one model, in passes over the records; any other group is one pass for each wording."""


class Channels:
    """Measures the channels of one audit on one model after the other.

    Attributes:
        records: the forget records and then the controls [K + N].
        wordings: channel -> the records in these words; None for a record that has none [K + N].
        not_run: channel or group of channels -> why it was not measured.
        failed_on: channel or group of channels -> label of the model on which it failed, where it was tried.
    """

    def __init__(
        self,
        sets: Mapping[SetRole, Sequence[Record]],
        settings: Settings,
        key: RecordKey,
        cache_dir: Path | None,
        *,
        references: int,
        rewordings: Rewordings | None = None,
        learning_rate: float | None = None,
        within: Collection[str] | None = None,
    ) -> None:
        """Find out which channels can be measured.

        Args:
            sets: the audit's records; channels need controls ("holdout"), solved examples need "retain".
            settings: which channels, and the seed.
            key: names the entries of the cache, and seals it.
            cache_dir: folder of the cache; None to keep none.
            references: number of retrained references.
            rewordings: rewordings of the forget records and controls, if there are any.
            learning_rate: peak rate of the original's fine-tuning, where known.
            within: the channels that a level table has numbers on, by which the audit is judged; None by references.
        """
        self.settings, self.key, self.cache_dir = settings, key, cache_dir
        self.forget, self.controls = list(sets["forget"]), list(sets.get("holdout", ()))
        self.records = [*self.forget, *self.controls]
        self.rate = relearning_rate(settings.relearning_rate, learning_rate)
        self.wordings: dict[str, list[Record | None]] = {}
        self.not_run: dict[str, str] = {}
        self.failed_on: dict[str, str] = {}
        # By rule 1, under which older registrations were made, the verdict speaks of the exact texts alone.
        asked = ("exact",) if settings.rule == 1 else settings.channels or STANDARD_CHANNELS
        groups = [name for name in asked if name != "exact"]
        lacking = _lacking(len(self.controls), references if within is None else 1)
        if groups and lacking is not None:
            self.not_run[ALL] = lacking
            groups = []
        for group in dict.fromkeys(groups):
            if within is not None and not _has(within, group):
                self.not_run[group] = "the level table has no numbers on it"
            else:
                self._prepare(group, sets.get("retain", ()), rewordings)
        self.treatments = [group for group in UNITS if group in groups and group not in self.not_run]

    def _prepare(self, group: str, retain: Sequence[Record], rewordings: Rewordings | None) -> None:
        """Word the records for a group of channels, or list it as not run."""
        match group:
            case "rewordings":
                if rewordings is None:
                    self.not_run[group] = "needs the records in other words; give them with --rewordings FILE"
                elif (few := self._too_few(rewordings)) is not None:
                    self.not_run[group] = few
                else:
                    for number in range(1, rewordings.count + 1):
                        self.wordings[f"rewording {number}"] = [rewordings.of(record, number) for record in self.records]
            case "instruction":
                self._word(group, instructed)
            case "few-shot":
                others = self._of_other_subjects(retain)
                if others:
                    self._word(group, after_examples(others, self.settings.seed))
                else:
                    self.not_run[group] = "needs retained records of other subjects as examples; give them with --retain FILE"
            case "no-prompt":
                self._word("no prompt", without_prompt, [bool(question(record).strip()) for record in self.records])
            case "relearned" if subject_halves(self.forget, self.settings.seed) is None:
                self.not_run[group] = "needs forget records of at least two subjects: it trains on half of them"

    def _word(self, channel: str, wording: Wording, able: Sequence[bool] | None = None) -> None:
        """Add a wording of all records, or of those that are able."""
        able = able or [True] * len(self.records)
        if any(able[: len(self.forget)]) and any(able[len(self.forget) :]):
            made = [reworded(record, wording) if can else None for record, can in zip(self.records, able, strict=True)]
            self.wordings[channel] = made
        else:
            self.not_run[channel] = "the records are plain texts, which have no prompt"

    def _too_few(self, rewordings: Rewordings) -> str | None:
        """Say that too few records have rewordings; None where enough have."""
        for role, records in (("forget records", self.forget), ("controls", self.controls)):
            worded = rewordings.worded(records)
            if worded < WORDED_SHARE * len(records):
                return f"only {worded} of {len(records)} {role} were put into other words; give them with --rewordings FILE"
        return None

    def _of_other_subjects(self, retain: Sequence[Record]) -> list[Record]:
        """Return the retained records about nobody whom the forget records and the controls are about."""
        groups = subject_groups([*self.records, *retain])
        own = set(groups[: len(self.records)])
        return [record for record, group in zip(retain, groups[len(self.records) :], strict=True) if group not in own]

    @property
    def units(self) -> int:
        """What measuring one model costs, in passes over the records."""
        return len(self.wordings) + sum(UNITS[group] for group in self.treatments)

    def measure(self, loaded: LoadedModel, label: str, progress: Callable[[int], None] = lambda _: None) -> dict[SetRole, Measured]:
        """Measure every channel on one model; its weights are bit-identical afterwards.

        A channel that cannot be measured on a model compares nothing, so it is not tried on the models that follow.

        Args:
            loaded: the model.
            label: its name in the score table.
            progress: called with the number of units that are done.

        Returns:
            mean losses in nats per token by set and channel; NaN for a record that is not scored on a channel.
        """
        path = None if self.cache_dir is None else self.cache_dir / f"{model_name(loaded)}.channels"
        cache = SealedNumbers(path, self.key)
        runs: dict[str, Callable[[], Measured]] = {
            channel: partial(self._worded, loaded, cache, channel) for channel in self.wordings if channel not in self.not_run
        }
        runs |= {group: partial(self._treated, loaded, cache, group) for group in self.treatments if group not in self.not_run}
        found, done = Measured(), 0
        for name, run in runs.items():
            try:
                found |= run()
            except torch.OutOfMemoryError:
                self.not_run[name], self.failed_on[name] = f"{label}: the device has too little memory", label
            except (ProbeNotRunError, InputError, RunError) as error:
                self.not_run[name], self.failed_on[name] = f"{label}: {error}", label
            done += UNITS.get(name, 1)
            progress(done)
        count = len(self.forget)
        return {
            "forget": {name: values[:count] for name, values in found.items()},
            "holdout": {name: values[count:] for name, values in found.items()},
        }

    def _worded(self, loaded: LoadedModel, cache: SealedNumbers, channel: str) -> Measured:
        """Measure a channel of other words, in one pass."""
        made = self.wordings[channel]
        entry = self._entry(loaded, channel, [None if record is None else record.reading for record in made])
        values = cache.find(entry)
        if values is None:
            values = np.full(len(made), np.nan)
            able = [index for index, record in enumerate(made) if record is not None]
            values[able] = mean_losses(loaded, [record for record in made if record is not None])
            cache.keep({entry: values})
        return {channel: values}

    def _treated(self, loaded: LoadedModel, cache: SealedNumbers, group: str) -> Measured:
        """Measure the channels of a treatment of the model, all layers in one pass."""
        names = [f"layer {layer}" for layer in layers_below_the_last(loaded.model)] if group == "layers" else [group]
        readings = [record.reading for record in self.records]
        parameters = self._parameters(group)
        entries = {name: self._entry(loaded, f"{name} {parameters}", readings) for name in names}
        found = {name: values for name, entry in entries.items() if (values := cache.find(entry)) is not None}
        if not names or len(found) < len(names):
            found = self._treat(loaded, group)
            cache.keep({entries[name]: values for name, values in found.items()})
        return found

    def _treat(self, loaded: LoadedModel, group: str) -> Measured:
        if group == "layers":
            return layer_losses(loaded, self.records)
        if group == "relearned":
            material = Material(self.forget, (), loaded, self.settings.seed)
            return {group: np.concatenate(across_subjects(loaded, material, self.controls, learning_rate=self.rate))}
        if is_quantized(loaded.model):
            raise ProbeNotRunError("its weights are quantized already")
        bits = BITS[group]
        with quantized(loaded.model, bits, Quantization.group if bits <= 4 else None):
            return {group: mean_losses(loaded, self.records)}

    def _parameters(self, group: str) -> str:
        """Return what a treatment depends on besides the model and the texts, as text."""
        if group != "relearned":
            return ""
        subjects = ["\x00".join(record.subjects) for record in self.forget]
        return "\x00".join([f"{self.rate!r} {self.settings.seed} {len(self.forget)}", *subjects])

    def _entry(self, loaded: LoadedModel, channel: str, readings: Sequence[str | None]) -> str:
        """Compute the keyed hash that names a channel's numbers for these texts, in order."""
        content = f"{VERSION}\x00{channel}\x00{loaded.context_length}\x00" + "\x00".join(str(reading) for reading in readings)
        return self.key.of(hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest(), "channel")

    def kept(self, blocks: Mapping[tuple[str, SetRole], ScoreBlock]) -> dict[tuple[str, SetRole], ScoreBlock]:
        """Return the blocks with those channels alone that every model has, and list the others as not run."""
        asked = {
            label: block.channels.keys() for (label, role), block in blocks.items() if role == "forget" and label != WITHOUT_ADAPTER
        }
        everywhere = set.intersection(*map(set, asked.values())) if asked else set()
        for name in dict.fromkeys(name for names in asked.values() for name in names):
            if name not in everywhere and name not in self.not_run and not (name.startswith("layer ") and "layers" in self.not_run):
                lacking = next(label for label, names in asked.items() if name not in names)
                self.not_run[name] = f"{lacking} was not asked in this way: it has another number of layers"
                self.failed_on[name] = lacking
        return {
            place: replace(block, channels={name: values for name, values in block.channels.items() if name in everywhere})
            for place, block in blocks.items()
        }

    def listed(self) -> tuple[ChannelNotRun, ...]:
        """Return what was wanted and not measured, as the evidence lists it."""
        return tuple(ChannelNotRun(channel=name, reason=why, model=self.failed_on.get(name)) for name, why in self.not_run.items())


def _has(channels: Collection[str], group: str) -> bool:
    """Return whether any channel belongs to a group."""
    first = {"rewordings": "rewording ", "layers": "layer ", "no-prompt": "no prompt"}.get(group, group)
    return any(name == first or (first.endswith(" ") and name.startswith(first)) for name in channels)


def _lacking(controls: int, references: int) -> str | None:
    """Return what channels need and this audit lacks, with how to give it; None if they can be measured."""
    if not controls:
        return "needs never-trained records to compare with; give them with --holdout FILE"
    if not references:
        return "needs retrained references to compare with; name them with --references"
    return None
