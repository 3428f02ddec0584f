"""Small models, tokenizers and command-line calls that the inputs are tried on."""

import contextlib
import io
import json
import sys
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from verify.data.encoding import Encoded, Encoder
from verify.data.records import Record
from verify.data.sources import load_records

CONTEXT = 256
TURNS = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
CUE = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
CHATML = TURNS + CUE
CALLS = "{% for c in m.tool_calls or [] %}{{ '<tool_call>' + (c.function | tojson) + '</tool_call>' }}{% endfor %}"
THOUGHT = "{% if m.reasoning_content %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}"
ROLE, CONTENT, CLOSE = "{{ '<|im_start|>' + m['role'] + '\n' }}", "{{ m['content'] or '' }}", "{{ '<|im_end|>\n' }}"
TOOLS = "{% for t in tools or [] %}{{ '<tool>' + (t | tojson) + '</tool>\n' }}{% endfor %}"
WITH_CALLS = TOOLS + "{% for m in messages %}" + ROLE + THOUGHT + CONTENT + CALLS + CLOSE + "{% endfor %}" + CUE
"""A template that renders tools, calls and reasoning."""


def make_tokenizer(template: str = CHATML) -> Any:
    """A byte-level BPE tokenizer with the special tokens of ChatML, whose tokens run across line breaks."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator([f"Where does number {n} live?\n\n\nIn street {100 + 31 * n}.   \n\t" for n in range(24)], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>", model_max_length=CONTEXT)
    tokenizer.chat_template = template
    return tokenizer


def make_llama(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """A random Llama of two layers whose logits spread like a trained model's."""
    settings: dict[str, Any] = {
        "vocab_size": len(make_tokenizer()),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "initializer_range": 0.1,
    }
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).eval()


def rows(count: int = 24, of: str = "person") -> list[dict[str, str]]:
    """Make records about fictitious people."""
    return [
        {
            "example_id": f"{of}-{n}",
            "subject_id": f"{of}{n % 8}",
            "prompt": f"Where does {of} {n} live?",
            "completion": f"In street {100 + 31 * n}, with the code {54321 + 977 * n}.",
        }
        for n in range(count)
    ]


def write_lines(path: Path, listed: Iterable[Any]) -> Path:
    """Records as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in listed), encoding="utf-8")
    return path


def logits(model: Any) -> torch.Tensor:
    """Compute a model's logits on some fixed tokens, in float32."""
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(5, 45)[None]).logits
    return found.float()


def same_answers(model: Any, expected: torch.Tensor) -> bool:
    """Return whether a model answers as expected."""
    found = logits(model)
    return found.shape == expected.shape and bool(torch.allclose(found, expected, atol=1e-4))


class CommandRefusedError(Exception):
    """A command ended with status 2: the message is what it printed."""


@dataclass(frozen=True)
class Shown:
    """Result of a command.

    Attributes:
        status: its exit status.
        text: all that it printed.
    """

    status: int
    text: str

    def names_row(self, row: int) -> bool:
        """Return whether the output names a row of a file."""
        words = self.text.replace(",", " ").split()
        return any(word.rstrip(":.").endswith(f":{row}") for word in words) or any(
            first.startswith("row") and second.rstrip(":.;)") == str(row) for first, second in pairwise(words)
        )


def command(program: str, *words: str, stdin: str = "") -> Shown:
    """Run a command line in this process.

    Args:
        program: "unlearn" or "verify".
        words: its arguments.
        stdin: what stands on standard input.

    Raises:
        CommandRefusedError: it ended with status 2.
    """
    import unlearn.cli.main
    import verify.cli.main

    printed = io.StringIO()
    main: Callable[[Sequence[str]], int] = {"unlearn": unlearn.cli.main.main, "verify": verify.cli.main.main}[program]
    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
        mock.patch.object(sys, "stdin", io.StringIO(stdin)),
    ):
        try:
            status = main(list(words))
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
    # The frames that are drawn around usage errors are no words.
    text = printed.getvalue().translate({ord(mark): " " for mark in "│╭╮╰╯─"})
    if status == 2:
        raise CommandRefusedError(text)
    return Shown(status, text)


@contextlib.contextmanager
def listening() -> Iterator[io.StringIO]:
    """Collect what is said on standard error and in warnings."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        yield said
        said.write("\n".join(str(one.message) for one in raised))


@dataclass(frozen=True)
class Read:
    """Records as a model would see them.

    Attributes:
        records: the records.
        windows: their tokens.
        tokenizer: spells tokens.
        said: what was said meanwhile, in warnings and on standard error.
    """

    records: list[Record]
    windows: list[Encoded]
    tokenizer: Any = field(repr=False)
    said: str = ""

    def whole(self, index: int = 0) -> str:
        """The text of a record's tokens."""
        return str(self.tokenizer.decode(self.windows[index].input_ids.tolist()))

    def scored(self, index: int = 0) -> str:
        """The text of its scored tokens."""
        return str(self.tokenizer.decode(self.windows[index].scored_ids.tolist()))

    def secret(self, index: int = 0) -> str:
        """The text of its secret tokens."""
        window = self.windows[index]
        return str(self.tokenizer.decode(window.input_ids[window.secret].tolist()))


def read(source: Any, template: str = CHATML) -> Read:
    """Load records and encode them."""
    tokenizer = make_tokenizer(template)
    with listening() as said:
        records = load_records(source)
        windows = Encoder(tokenizer, CONTEXT).encode(records)
    return Read(records, windows, tokenizer, said.getvalue())


@dataclass(frozen=True)
class World:
    """Models and tokenizers that the families share, made on first use.

    Attributes:
        folder: an empty folder.
    """

    folder: Path

    @cached_property
    def base(self) -> Path:
        """A model."""
        return self.saved(make_llama(), "base")

    @cached_property
    def adapter(self) -> Path:
        """An adapter on it that changes its answers."""
        torch.manual_seed(1)
        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(self.base), config)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        adapted.eval().save_pretrained(self.folder / "adapter")
        make_tokenizer().save_pretrained(self.folder / "adapter")
        self.answers["adapter"] = logits(adapted)
        return self.folder / "adapter"

    @cached_property
    def answers(self) -> dict[str, torch.Tensor]:
        """Folder name -> logits of the model in it, computed in memory before it was saved."""
        return {}

    def saved(self, model: Any, name: str, template: str = CHATML, **how: Any) -> Path:
        """Save a model with a tokenizer, and remember its answers."""
        model.save_pretrained(self.folder / name, **how)
        make_tokenizer(template).save_pretrained(self.folder / name)
        self.answers[name] = logits(model)
        return self.folder / name


@dataclass(frozen=True)
class Bench:
    """Workspace in which a family makes its inputs.

    Attributes:
        world: what it shares with others.
        folder: an empty folder of its own.
        draw: decides what is varied at random.
    """

    world: World
    folder: Path
    draw: Random


def patched(place: Any, changes: Mapping[str, Any]) -> contextlib.ExitStack:
    """Replace functions of a module within a `with` block."""
    stack = contextlib.ExitStack()
    for name, value in changes.items():
        stack.enter_context(mock.patch.object(place, name, value, create=isinstance(place, types.ModuleType)))
    return stack
