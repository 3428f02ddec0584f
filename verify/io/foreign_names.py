"""Arguments of `transformers`, `trl`, `peft`, OpenUnlearning and `datasets`, and their counterparts in this project.

One table for Python and the command line: a Python call with a foreign name raises an error that says what to write instead, and
the command lines accept the name where it means the same. A name without a counterpart has advice, so that none is silently
ignored.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

Library = Literal["TrainingArguments", "older TrainingArguments", "from_pretrained", "Trainer", "example scripts", "trl", "peft"]

OMIT = ""
"""Marks a value that asks for the default behaviour, so that the argument is left out."""
FLAGS = {"output_dir": "output", "forget_set": "forget", "retain_set": "retain", "holdout_set": "holdout"}
"""Arguments of functions that have another name as command-line flags."""


@dataclass(frozen=True)
class ForeignName:
    """An argument of another library and its counterpart in this project.

    Attributes:
        name: the foreign name.
        library: its library, or the function or class of `transformers` that takes it.
        ours: the counterpart: `dtype` of the functions, `TrainingOptions.batch_size`, `Fields.text`; "" without one.
        values: our values by the lower-case text of theirs; `OMIT` for one that is the default behaviour.
        same: whether a value that is not in `values` has the same meaning here.
        advice: what to do without a counterpart.
    """

    name: str
    library: Library
    ours: str = ""
    values: Mapping[str, str] = field(default_factory=dict)
    same: Callable[[str], bool] = lambda _: False
    advice: str = ""

    @property
    def argument(self) -> str:
        """Name of our argument without its class; "" without a counterpart."""
        return self.ours.rpartition(".")[2]

    @property
    def owner(self) -> str:
        """Class of our argument: "TrainingOptions", "Fields", or "" for an argument of the functions."""
        return self.ours.rpartition(".")[0]

    @property
    def flag(self) -> str:
        """Our command-line flag; "" without a counterpart."""
        if not self.ours:
            return ""
        name = FLAGS.get(self.argument, self.argument) + ("_field" if self.owner == "Fields" else "")
        return "--" + name.replace("_", "-")

    def translate(self, value: str) -> str | None:
        """Return our value for one of theirs: `OMIT` to leave the argument out, None without a counterpart."""
        plain = value.strip().lower()
        if plain in self.values:
            return self.values[plain]
        return value if self.ours and self.same(value) else None


def _any(_: str) -> bool:
    return True


def _share(value: str) -> bool:
    """Return whether a warm-up is given as a share of the steps, as `transformers` reads numbers below 1."""
    try:
        return 0 <= float(value) < 1
    except ValueError:
        return False


def _same(library: Library, ours: str, names: str) -> list[ForeignName]:
    """Return entries for names of which every value has the same meaning as our argument's."""
    return [ForeignName(name, library, ours, same=_any) for name in names.split()]


def _none(library: Library, advice: str, names: str, omit: str = "false none") -> list[ForeignName]:
    """Return entries for names without a counterpart; values in `omit` are the behaviour here and are accepted."""
    values = dict.fromkeys(omit.split(), OMIT)
    return [ForeignName(name, library, values=values, advice=advice) for name in names.split()]


_ARGUMENTS: Library = "TrainingArguments"
_OLDER: Library = "older TrainingArguments"
_DTYPES = {f"torch.{name}": name for name in ("float32", "bfloat16", "float16")} | {
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "float": "float32",
    "half": "float16",
}
_YES_NO = {"true": "true", "false": OMIT}
_NO_WARMUP = "The warm-up is a share of all steps here: give warmup_ratio (--warmup-ratio), warm-up steps divided by all steps."
_OPTIMIZERS = "The optimizer is adamw or sophia."
_NO_EVALUATION = "Nothing is evaluated during training. Audit the result with verify-unlearning audit, or verify.audit(...)."
_BEST_STEP = "Give forget(..., selection=Selection()) to keep the best step; the command line does so for every objective."
_NO_UPLOAD = "Nothing is ever uploaded. Push the output folder yourself."
_LAUNCH = "Start the same command under torchrun or accelerate launch; unlearn launch-config fsdp2 writes a configuration."
_NO_FLOAT16 = "Steps in float16 are not supported. Use bf16=True (--bf16), or load the weights with dtype='float16'."
_NOT_OFFERED = "There is no such setting. Leave it out."
_LOADER = "Records are few and are read into memory once. Leave it out."
_RESUME = "Run the same command again with the same output folder: it resumes from its last checkpoint."
_BACK_TO = "A model is placed on the GPU if there is one. Set CUDA_VISIBLE_DEVICES to choose another, or empty for the CPU."
_CONTEXT = "The model's own context length applies. For longer records: TrainingOptions(overflow='split'), or --overflow split."
_NEVER_CODE = "Code of a model's repository is never run. Convert the model with transformers first."
_LORA_SHAPE = "An adapter is configured by lora_rank, lora_alpha, lora_dropout and lora_targets only. Leave it out."
_HUB = "Download the version you want and give its folder; name a data set on the Hub as owner/name:split."
_ADAPTER = "Write TrainingOptions(lora=True, lora_rank=..., lora_targets='all-linear'), or --lora --lora-rank N."

_TRAINING: tuple[ForeignName, ...] = (
    *_same(_ARGUMENTS, "TrainingOptions.batch_size", "per_device_train_batch_size"),
    *_same(_OLDER, "TrainingOptions.batch_size", "per_gpu_train_batch_size"),
    *_same(_ARGUMENTS, "TrainingOptions.epochs", "num_train_epochs"),
    *_same(_ARGUMENTS, "TrainingOptions.gradient_accumulation", "gradient_accumulation_steps"),
    *_same(_ARGUMENTS, "TrainingOptions.scheduler", "lr_scheduler_type"),
    *_same(_ARGUMENTS, "TrainingOptions.keep_checkpoints", "save_total_limit"),
    *_same(_ARGUMENTS, "TrainingOptions.gradient_checkpointing", "activation_checkpointing"),
    *_same(_ARGUMENTS, "output_dir", "output_dir"),
    ForeignName("max_steps", _ARGUMENTS, "TrainingOptions.max_steps", {"-1": OMIT}, _any),
    ForeignName("warmup_steps", _ARGUMENTS, "TrainingOptions.warmup_ratio", same=_share, advice=_NO_WARMUP),
    ForeignName(
        "optim",
        _ARGUMENTS,
        "TrainingOptions.optimizer",
        dict.fromkeys(("adamw", "adamw_torch", "adamw_torch_fused", "adamw_hf"), "adamw"),
        advice=_OPTIMIZERS,
    ),
    ForeignName(
        "save_strategy",
        _ARGUMENTS,
        "TrainingOptions.save_steps",
        {"no": "0", "steps": OMIT},
        advice="Checkpoints are written every save_steps steps.",
    ),
    *_none(_ARGUMENTS, "The loss is reported every logging_steps steps.", "logging_strategy", "steps"),
    *_none(_ARGUMENTS, _NO_FLOAT16, "fp16 fp16_full_eval"),
    *_none(_OLDER, _NO_FLOAT16, "fp16_backend fp16_opt_level half_precision_backend", "auto"),
    *_none(
        _ARGUMENTS,
        _NO_EVALUATION,
        "eval_strategy eval_steps eval_delay per_device_eval_batch_size prediction_loss_only eval_on_start "
        "eval_do_concat_batches eval_use_gather_object eval_accumulation_steps include_for_metrics batch_eval_metrics "
        "bf16_full_eval do_eval do_predict",
        "no false none",
    ),
    *_none(_OLDER, _NO_EVALUATION, "evaluation_strategy per_gpu_eval_batch_size include_inputs_for_metrics", "no false none"),
    *_none(_ARGUMENTS, _BEST_STEP, "load_best_model_at_end metric_for_best_model greater_is_better"),
    *_none(
        _ARGUMENTS,
        _NO_UPLOAD,
        "push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision trackio_space_id "
        "trackio_bucket_id trackio_static_space_id",
    ),
    *_none(
        _ARGUMENTS,
        _LAUNCH,
        "fsdp fsdp_config deepspeed parallelism_config accelerator_config ddp_find_unused_parameters ddp_bucket_cap_mb "
        "ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout local_rank",
        "false none -1",
    ),
    *_none(
        _ARGUMENTS,
        _LOADER,
        "dataloader_drop_last dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers "
        "dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order train_sampling_strategy "
        "length_column_name label_names",
        "false none 0 random",
    ),
    *_none(_OLDER, _LOADER, "group_by_length dispatch_batches split_batches"),
    *_none(_ARGUMENTS, "Choose the columns with fields=Fields(...).", "remove_unused_columns", "true false"),
    *_none(_ARGUMENTS, _RESUME, "resume_from_checkpoint restore_callback_states_from_checkpoint", "true false none"),
    *_none(_OLDER, "The output must be a new folder. Remove the old one first, or name another.", "overwrite_output_dir"),
    *_none(_ARGUMENTS, _BACK_TO, "use_cpu"),
    *_none(_OLDER, _BACK_TO, "no_cuda use_mps_device"),
    *_none(_ARGUMENTS, "One seed determines all random draws: give seed.", "data_seed full_determinism"),
    *_none(_ARGUMENTS, "Use unlearn train, or unlearn.finetune(...).", "do_train", "true"),
    *_none(
        _ARGUMENTS,
        _NOT_OFFERED,
        "lr_scheduler_kwargs optim_args optim_target_modules adam_beta1 adam_beta2 adam_epsilon average_tokens_across_devices "
        "label_smoothing_factor tf32 activation_checkpointing_kwargs gradient_checkpointing_kwargs torch_compile "
        "torch_compile_backend torch_compile_mode use_liger_kernel liger_kernel_config use_cache neftune_noise_alpha "
        "torch_empty_cache_steps auto_find_batch_size logging_first_step log_on_each_node logging_nan_inf_filter "
        "include_num_input_tokens_seen log_level log_level_replica disable_tqdm run_name project save_only_model "
        "save_on_each_node ignore_data_skip enable_jit_checkpoint debug skip_memory_metrics",
    ),
    *_none(_OLDER, _NOT_OFFERED, "logging_dir save_safetensors jit_mode_eval torchdynamo ray_scope"),
)
_LOADING: tuple[ForeignName, ...] = (
    *_same("from_pretrained", "model", "pretrained_model_name_or_path"),
    *_same("trl", "model", "model_name_or_path"),
    ForeignName("torch_dtype", "from_pretrained", "dtype", _DTYPES, _any),
    ForeignName("dtype", "from_pretrained", "dtype", _DTYPES, _any),
    ForeignName("load_in_4bit", "from_pretrained", "quantize", {"true": "4bit", "false": OMIT}),
    ForeignName("load_in_8bit", "from_pretrained", "quantize", {"true": "8bit", "false": OMIT}),
    *_none("from_pretrained", "Write quantize='4bit' or quantize='8bit' (--quantize 4bit).", "quantization_config"),
    *_none("trl", "Write quantize='4bit' (--quantize 4bit): NF4 with nested constants.", "bnb_4bit_quant_type", "nf4"),
    *_none("trl", "Write quantize='4bit' (--quantize 4bit): NF4 with nested constants.", "use_bnb_nested_quant", "true"),
    *_none("from_pretrained", _BACK_TO, "device_map max_memory"),
    *_none("from_pretrained", _NEVER_CODE, "trust_remote_code"),
    *_none("from_pretrained", _HUB, "revision cache_dir local_files_only force_download"),
    *_none("from_pretrained", "Log in once with hf auth login, or set HF_TOKEN.", "token"),
    *_none("trl", _HUB, "model_revision"),
    *_none("from_pretrained", _NOT_OFFERED, "attn_implementation low_cpu_mem_usage use_safetensors", "true false none"),
    *_same("Trainer", "tokenizer", "processing_class"),
    *_same("example scripts", "tokenizer", "tokenizer_name tokenizer_name_or_path"),
    *_same("Trainer", "options", "args"),
    *_none("Trainer", _NO_EVALUATION, "eval_dataset compute_metrics compute_loss_func"),
    *_none("Trainer", "The program batches the records. Leave it out.", "data_collator"),
    *_none("Trainer", _OPTIMIZERS, "optimizers optimizer_cls_and_kwargs"),
)
_DATA: tuple[ForeignName, ...] = (
    *_same("Trainer", "data", "train_dataset"),
    *_same("example scripts", "data", "train_file dataset dataset_path"),
    *_same("trl", "data", "dataset_name"),
    *_same("trl", "Fields.text", "dataset_text_field"),
    *_none("trl", _HUB, "dataset_config dataset_train_split dataset_streaming"),
    *_none("example scripts", _HUB, "dataset_config_name split data_files"),
    *_none("example scripts", _NO_EVALUATION, "validation_file"),
    *_none("trl", _CONTEXT, "max_length max_seq_length"),
    *_none("example scripts", _CONTEXT, "block_size model_max_length"),
    *_none("trl", "Records are never packed together. Leave it out.", "packing eval_packing packing_strategy padding_free"),
    *_none(
        "trl",
        "Training always covers the completions, the assistant's turns, or all of a plain text.",
        "completion_only_loss assistant_only_loss",
        "true none",
    ),
    *_same("example scripts", "forget_set", "forget_data forget_dataset forget_file"),
    *_same("example scripts", "retain_set", "retain_data retain_dataset retain_file"),
    *_same("example scripts", "holdout_set", "holdout_data holdout_dataset holdout_file"),
)
_LORA: tuple[ForeignName, ...] = (
    ForeignName("use_peft", "trl", "TrainingOptions.lora", _YES_NO),
    *_same("trl", "TrainingOptions.lora_rank", "lora_r"),
    *_same("peft", "TrainingOptions.lora_rank", "r"),
    *_same("peft", "TrainingOptions.lora_targets", "target_modules"),
    *_same("trl", "TrainingOptions.lora_targets", "lora_target_modules"),
    *_none("trl", _ADAPTER, "peft_config"),
    *_none("peft", _LORA_SHAPE, "task_type", "causal_lm none"),
    *_none("peft", _LORA_SHAPE, "bias", "none"),
    *_none(
        "peft",
        _LORA_SHAPE,
        "modules_to_save use_rslora use_dora init_lora_weights layers_to_transform layers_pattern rank_pattern alpha_pattern "
        "exclude_modules fan_in_fan_out",
    ),
    *_none("trl", _LORA_SHAPE, "lora_modules_to_save"),
    *_none("trl", _LORA_SHAPE, "lora_task_type", "causal_lm none"),
)

TABLE: tuple[ForeignName, ...] = (*_TRAINING, *_LOADING, *_DATA, *_LORA)
"""All foreign names; those with the same name and meaning here are not in it."""

METHODS = {
    "ga": "gradient_ascent",
    "gradascent": "gradient_ascent",
    "gd": "grad_diff",
    "gradientdifference": "grad_diff",
    "kl": "grad_ascent_kl",
    "klmin": "grad_ascent_kl",
    "taskarithmetic": "task_vector",
    "retraining": "retrain",
}
"""Other names of methods (OpenUnlearning's, and those of papers), in lower case without separators."""
COMMANDS = {
    "finetune": "unlearn train",
    "sft": "unlearn train",
    "unlearn": "unlearn forget METHOD",
    "eval": "verify-unlearning audit",
    "evaluate": "verify-unlearning audit",
    "audit": "verify-unlearning audit",
    "forget": "unlearn forget METHOD",
    "train": "unlearn train",
}
"""Commands by the names of other programs, and by the name without its program."""


@cache
def _by_name() -> Mapping[str, ForeignName]:
    return {entry.name: entry for entry in TABLE}


def foreign_name(name: str) -> ForeignName | None:
    """Return the table's entry for a name, with dashes or underscores; None for an unknown name."""
    return _by_name().get(name.replace("-", "_"))


def plain(name: str) -> str:
    """Return a name in lower case without separators: "Grad-Diff" becomes "graddiff"."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name closest to `name`, ignoring case and separators; None if none is close."""
    by_plain = {plain(one): one for one in known}
    near = difflib.get_close_matches(plain(name), by_plain, n=1, cutoff=0.7)
    return by_plain[near[0]] if near else None


def markdown_table() -> str:
    """Return the table of docs/coming-from-transformers.md: names with a counterpart, then those without, grouped by advice."""
    lines = ["| there | here, in Python | here, on the command line | values |", "| --- | --- | --- | --- |"]
    for entry in sorted((one for one in TABLE if one.ours), key=lambda one: (one.ours, one.name)):
        python = f"`{entry.owner}({entry.argument}=...)`" if entry.owner else f"`{entry.argument}=...`"
        values = ", ".join(f"{theirs}: {ours or 'leave out'}" for theirs, ours in entry.values.items())
        lines.append(f"| `{entry.name}` | {python} | `{entry.flag}` | {' '.join((values, entry.advice)).strip()} |")
    lines += ["", "| there, without a counterpart | instead |", "| --- | --- |"]
    by_advice: dict[str, list[str]] = {}
    for entry in TABLE:
        if not entry.ours:
            by_advice.setdefault(entry.advice, []).append(f"`{entry.name}`")
    return "\n".join([*lines, *(f"| {', '.join(names)} | {advice} |" for advice, names in by_advice.items())])
