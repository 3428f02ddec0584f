"""Settings of a matrix run: data, model, training, and the strengths of each defence.

`ci` is for the checks alone, `small` for two cores, `large` for a GPU. Options were tuned on the respective model: the smallest one
whose original memorizes its records (membership AUC near 1). The world `smollm2`, the demo's people on a pretrained model, has
settings of its own: `few` is for two cores, `small` for a GPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from unlearn.experiments.demo import MODEL_CONFIG
from unlearn.experiments.llm_demo import ADAPTER, CHANNELS
from unlearn.training.options import TrainingOptions
from verify.errors import InputError
from verify.schema.settings import ChannelGroup

World = Literal["people", "tofu", "smollm2"]
"""Data and base model: people or TOFU's authors on a model from scratch, or people on SmolLM2 in its chat template."""
Tuning = Literal["full", "lora"]
LORA: dict[str, Any] = {"lora": True, "lora_rank": 16, "lora_alpha": 32}
LEVEL = TrainingOptions(batch_size=2)
"""Options for `level`, whose learning rate is a share of the fine-tuning's."""
OTHERS = TrainingOptions(learning_rate=3e-3, batch_size=16)
"""Options for approximate methods that do not read the fine-tuning's."""


@dataclass(frozen=True)
class Setting:
    """Everything that a run's numbers depend on, apart from data set, tuning and seeds.

    Attributes:
        name: its name on the command line.
        subjects, forgotten, records_per_subject: numbers of trained people, of deleted ones, and of records per person; TOFU's
            authors always have 20 records.
        controls: never-trained records for the audits; as many more are for the methods, if the data have them.
        poisoned, uses: records that teach each trigger, and unseen prompts that test it.
        base_records: records that the base model is trained on; 0 for a pretrained one.
        model: configuration of the base model; None for a pretrained one, whose records are chats in its template, and whose text
            in general is measured too.
        base_options, options: training of the base and of every fine-tuned model.
        lora_rate: peak learning rate of an adapter.
        short_epochs: epochs of the runs on a poisoned base, where memorization is not complete.
        privacy_backdoor: training options of the poisoning; `epochs` counts passes over the targets.
        seeds, references: their numbers.
        epsilons: of differential privacy, in decreasing order.
        delta: of differential privacy.
        dp_options: options of DP-SGD that override `options`; it computes in float32.
        clients, rounds: of the federation; local epochs are the epochs of `options` divided by the rounds.
        approximate: the approximate method, by its command-line name.
        parameters: parameters of methods that do not run with their defaults, by method.
        approximate_options: training options of the approximate method, except its epochs.
        approximate_epochs: its strengths, one row each.
        further: further methods of unlearning, one row each, with their training options.
        shards: shards of the model that `sisa` unlearns from; 0 for none, and no such rows.
        control_epochs: epochs of the control that is fine-tuned on retain data alone.
        attacks: attacks of the audits.
        channels: ways of asking in the audits; None for all.
    """

    name: str
    subjects: int
    forgotten: int
    records_per_subject: int
    controls: int
    poisoned: int
    uses: int
    base_records: int
    model: Mapping[str, Any] | None
    base_options: TrainingOptions
    options: TrainingOptions
    lora_rate: float
    short_epochs: float
    privacy_backdoor: TrainingOptions
    seeds: int
    references: int = 4
    epsilons: tuple[float, ...] = (50.0, 8.0, 1.0)
    delta: float = 1e-5
    dp_options: Mapping[str, Any] = field(default_factory=lambda: {"batch_size": 64, "epochs": 10})
    clients: int = 8
    rounds: int = 12
    approximate: str = "level"
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"npo": {"alpha": 3.0}})
    approximate_options: TrainingOptions = field(default_factory=lambda: LEVEL)
    approximate_epochs: tuple[int, ...] = (6, 12, 24)
    further: Mapping[str, TrainingOptions] = field(default_factory=dict)
    shards: int = 0
    control_epochs: int = 3
    attacks: tuple[str, ...] = (
        "loss",
        "reference",
        "min_k_plus_plus",
        "rmia",
        "verbatim",
        "extraction_strength",
        "extraction_probability",
    )
    channels: tuple[ChannelGroup, ...] | None = None

    @property
    def pretrained(self) -> bool:
        """Whether the base model is a pretrained one."""
        return self.model is None

    def tuned(self, tuning: Tuning, seed: int) -> TrainingOptions:
        """Return the options of a fine-tuning of all weights or of an adapter."""
        options = replace(self.options, seed=seed)
        return options if tuning == "full" else replace(options, learning_rate=self.lora_rate, **LORA)


def _llama(width: int, layers: int, context: int, heads: int = 4) -> dict[str, Any]:
    """Configure the demo's model in another size."""
    size = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers, "max_position_embeddings": context}
    return {**MODEL_CONFIG, **size, "num_attention_heads": heads, "num_key_value_heads": heads}


_BASE = TrainingOptions(
    learning_rate=5e-3,
    epochs=1,
    batch_size=32,
    scheduler="linear",
    warmup_ratio=0.05,
    weight_decay=0.1,
    overflow="split",
    logging_steps=100,
)
_FINE = replace(_BASE, learning_rate=6e-3, epochs=20, batch_size=16, warmup_ratio=0.1)

SMALL = Setting(
    name="small",
    subjects=100,
    forgotten=20,
    records_per_subject=4,
    controls=320,
    poisoned=16,
    uses=40,
    base_records=12_000,
    model=_llama(64, 2, 128),
    base_options=_BASE,
    options=_FINE,
    lora_rate=6e-3,
    short_epochs=3,
    privacy_backdoor=TrainingOptions(learning_rate=2e-3, epochs=8, batch_size=16),
    seeds=3,
)
CI = replace(
    SMALL,
    name="ci",
    subjects=40,
    forgotten=12,
    controls=60,
    poisoned=14,
    uses=20,
    base_records=2500,
    references=3,
    seeds=1,
    privacy_backdoor=TrainingOptions(learning_rate=2e-3, epochs=20, batch_size=16),
    epsilons=(8.0,),
    approximate_epochs=(12,),
    rounds=6,
    clients=4,
)
LARGE = replace(
    SMALL,
    name="large",
    subjects=200,
    forgotten=40,
    controls=400,
    poisoned=24,
    uses=100,
    base_records=100_000,
    model=_llama(512, 8, 256, heads=8),
    base_options=replace(_BASE, learning_rate=1e-3, batch_size=64, bf16=True),
    options=replace(_FINE, learning_rate=5e-4, batch_size=32, bf16=True),
    lora_rate=2e-3,
    dp_options={"batch_size": 32, "gradient_accumulation": 8, "bf16": False},
    privacy_backdoor=TrainingOptions(learning_rate=2e-4, epochs=2, batch_size=32),
    seeds=5,
    references=8,
    approximate_options=replace(LEVEL, batch_size=8),
)
SETTINGS: dict[str, Setting] = {"ci": CI, "small": SMALL, "large": LARGE}

SMOLLM2 = replace(
    SMALL,
    subjects=120,
    controls=160,
    base_records=0,
    model=None,
    options=replace(ADAPTER, learning_rate=1e-4, epochs=12, batch_size=16),
    lora_rate=2e-3,
    dp_options={"learning_rate": 1e-3, "batch_size": 48, "gradient_accumulation": 5, "epochs": 24, "bf16": False},
    rounds=6,
    approximate_options=replace(LEVEL, batch_size=4),
    approximate_epochs=(11,),
    further={"npo": TrainingOptions(learning_rate=5e-4, epochs=6, batch_size=8), "rollback": TrainingOptions()},
    shards=2,
    channels=CHANNELS,
)
"""For a GPU, where the rows are made side by side: on one processor core, each of its 408 steps takes 4 s."""
SMOLLM2_CI = replace(
    SMOLLM2,
    name="ci",
    subjects=8,
    forgotten=3,
    records_per_subject=2,
    controls=6,
    poisoned=2,
    uses=3,
    options=replace(SMOLLM2.options, epochs=1),
    seeds=1,
    references=2,
    epsilons=(8.0,),
    dp_options={"batch_size": 8, "epochs": 1, "bf16": False},
    clients=3,
    rounds=1,
    approximate_epochs=(1,),
    further={"npo": TrainingOptions(epochs=1, batch_size=8), "rollback": TrainingOptions()},
    control_epochs=1,
)
"""Nothing is learned here; it runs every part."""
SMOLLM2_FEW = replace(
    SMOLLM2,
    name="few",
    subjects=20,
    forgotten=5,
    controls=40,
    poisoned=6,
    uses=16,
    options=replace(SMOLLM2.options, epochs=8, batch_size=8),
    seeds=1,
    references=3,
    epsilons=(50.0, 8.0),
    dp_options={"learning_rate": 5e-4, "batch_size": 26, "epochs": 8, "bf16": False},
    clients=4,
    rounds=4,
)
"""Few people, for two processor cores; much of the time goes to differential privacy and the federation, which compute in float32.
The private rate is a quarter of the others': on so few records the noise of a step is far larger than its gradient, and every step
of Adam is as long as its rate."""
PRETRAINED: dict[str, Setting] = {"ci": SMOLLM2_CI, "few": SMOLLM2_FEW, "small": SMOLLM2}


def setting_for(name: str, world: World, approximate: str | None = None) -> Setting:
    """Return the setting of a name, adapted to the world.

    TOFU's authors have five times as many records, so there are fewer authors, and their longer answers take more passes to
    memorize.

    Args:
        name: its name on the command line.
        world: data and base model.
        approximate: approximate method to use instead of the setting's.

    Raises:
        InputError: the world has no such setting.
    """
    settings = PRETRAINED if world == "smollm2" else SETTINGS
    if name not in settings:
        raise InputError(f"there is no setting called {name} for {world}. Use any of: {', '.join(settings)}.")
    chosen = settings[name]
    if approximate is not None:
        options = chosen.approximate_options if approximate == chosen.approximate else OTHERS
        chosen = replace(chosen, approximate=approximate, approximate_options=options)
    if world != "tofu":
        return chosen
    # The remaining authors are few, so the base model takes three passes over them.
    base = replace(chosen.base_options, epochs=3)
    fewer = {"subjects": chosen.subjects // 8, "forgotten": chosen.forgotten // 5, "records_per_subject": 20}
    return replace(chosen, base_options=base, options=replace(chosen.options, epochs=24), **fewer)
