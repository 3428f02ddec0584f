"""Chat templates of tokenizers: rendering, with errors that name the record without repeating its content.

A template is a program by the tokenizer's author. It runs in the sandbox of `transformers`, in a process of its own with bounded
time and memory (`verify.data.template_process`). It can refuse a chat (`raise_exception`), fail on unexpected input, or silently
ignore a field.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from verify.data.template_process import (
    MEMORY,
    TemplateFailedError,
    TemplateMemoryError,
    TemplateSizeError,
    template_process,
)
from verify.errors import InputError, RunError
from verify.io.time_limit import TimeLimitError, time_limit

REFERENCES = ("id", "tool_call_id")
"""Fields that only connect an answer with a call, so that a template may leave them out."""
LONGEST_MESSAGE = 300
LONGEST_SECONDS = 10.0
"""Time that a template may take for one chat; those in use take less than a millisecond."""
LARGEST_TEXT = 1 << 25
"""Largest number of characters of a rendered chat; a book has about a million."""
REMEDY = "Correct the record, use a tokenizer with a template that accepts it, or give prompt and completion instead."
NO_SYSTEM = (
    "It does not know the system role. Put the system text in front of the first user's turn, or use a tokenizer whose template "
    "knows that role."
)

Turn = dict[str, Any]


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's chat template, applied to one record.

    Attributes:
        tokenizer: a `transformers` tokenizer with a chat template.
        arguments: the record's further arguments of the template besides its messages.
        where: the record's name in error messages.
        texts: all texts of the record, which no error message may repeat.
    """

    tokenizer: Any
    arguments: dict[str, Any]
    where: str
    texts: Sequence[str]

    def render(self, turns: Sequence[Turn], cue: bool, arguments: dict[str, Any] | None = None) -> str:
        """Render a chat.

        A content of null (a turn that only calls tools) is passed on unchanged; if the template fails on it, or renders it as
        "None", it is passed as an empty text.

        Args:
            turns: the messages.
            cue: whether to end with the template's cue for the assistant.
            arguments: in place of the record's own.

        Raises:
            InputError: the template refuses the chat or fails; the message includes the template's.
        """
        arguments = self.arguments if arguments is None else arguments
        filled = [turn | {"content": ""} if turn["content"] is None else turn for turn in turns]
        if filled == list(turns):
            return self._apply(filled, cue, arguments)
        try:
            text = self._apply(list(turns), cue, arguments)
        except InputError:
            return self._apply(filled, cue, arguments)
        try:
            plain = self._apply(filled, cue, arguments)
        except InputError:
            return text
        return plain if text.count("None") > plain.count("None") else text

    def require_rendered(self, turns: Sequence[Turn], whole: str) -> None:
        """Require that every field besides role and content affects the rendered chat.

        Args:
            turns: the messages.
            whole: their rendering.

        Raises:
            InputError: the rendering is the same without one of the fields, or without the tools or documents.
        """
        for index, turn in enumerate(turns):
            references = (*REFERENCES, "name") if turn["role"] in ("tool", "function") else REFERENCES
            for name in turn.keys() - {"role", "content", *references}:
                if self._same([*turns[:index], _without(turn, name), *turns[index + 1 :]], self.arguments, whole):
                    raise self._not_rendered(f"the field {name!r} of message {index + 1}")
        for name in self.arguments.keys() & {"tools", "documents"}:
            if self._same(turns, _without(self.arguments, name), whole):
                raise self._not_rendered(f"the column {name!r}")

    def _not_rendered(self, what: str) -> InputError:
        return InputError(
            f"{self.where}: the chat template does not render {what}, so the model would never see it. Remove it from the data, or "
            "use a tokenizer with a template that renders it."
        )

    def _same(self, turns: Sequence[Turn], arguments: dict[str, Any], whole: str) -> bool:
        try:
            return self.render(turns, False, arguments) == whole
        except InputError:
            return False  # the template requires the field

    def _apply(self, turns: list[Turn], cue: bool, arguments: dict[str, Any]) -> str:
        try:
            text = render_template(self.tokenizer, turns, cue, **arguments)
        except (TimeLimitError, TemplateMemoryError) as error:
            timed = isinstance(error, TimeLimitError)
            after = (
                f"after {LONGEST_SECONDS:g} seconds; it may never end" if timed else f"as it needed more than {MEMORY >> 20} MiB"
            )
            raise InputError(
                f"{self.where}: the chat template was given up {after}. Use a tokenizer with another template, and do not trust "
                "this one."
            ) from None
        except TemplateSizeError:
            raise self._too_large() from None
        except RunError:
            raise
        except Exception as error:  # noqa: BLE001 - a template is foreign code and can raise anything
            said = self._said(error)
            remedy = NO_SYSTEM if self._knows_no_system(turns, cue, arguments) else REMEDY
            raise InputError(f"{self.where}: the chat template does not accept this chat{said}. {remedy}") from None
        if not isinstance(text, str):
            raise InputError(f"{self.where}: the chat template gave {type(text).__name__} instead of text. {REMEDY}")
        if len(text) > LARGEST_TEXT:
            raise self._too_large()
        return text

    def _too_large(self) -> InputError:
        return InputError(f"{self.where}: the chat template made a text of more than {LARGEST_TEXT} characters. {REMEDY}")

    def _knows_no_system(self, turns: list[Turn], cue: bool, arguments: dict[str, Any]) -> bool:
        """Return whether a refused chat is accepted without its system turns."""
        others = [turn for turn in turns if turn["role"] != "system"]
        if len(others) == len(turns):
            return False
        try:
            render_template(self.tokenizer, others, cue, **arguments)
        except Exception:  # noqa: BLE001 - as above
            return False
        return True

    def _said(self, error: Exception) -> str:
        """Return the template's error message without the record's words, except those that the template contains itself."""
        own = set(re.findall(r"\w+", str(self.tokenizer.chat_template)))
        foreign = {word for text in self.texts for word in re.findall(r"\w+", text)} - own
        words = " ".join(str(error).split())
        said = re.sub(r"\w+", lambda found: "..." if found[0] in foreign else found[0], words)[:LONGEST_MESSAGE]
        kind = error.kind if isinstance(error, TemplateFailedError) else type(error).__name__
        return f" ({kind}: {said})" if said else f" ({kind})"


def render_template(tokenizer: Any, turns: Sequence[Turn], cue: bool, **arguments: Any) -> Any:
    """Apply a tokenizer's chat template within `LONGEST_SECONDS` and the memory of `template_process`.

    A tokenizer with a method of its own, which is not a template but code of an installed library, is called in this process, in
    bounded time alone.

    Raises:
        TimeLimitError, TemplateMemoryError, TemplateSizeError: it took more. Whatever else the template raises is passed on.
    """
    if _has_templates_only(tokenizer):
        special = tokenizer.special_tokens_map
        return template_process().render(
            tokenizer.chat_template, special, turns, cue, arguments, seconds=LONGEST_SECONDS, largest=LARGEST_TEXT
        )
    with time_limit(LONGEST_SECONDS):
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=cue, **arguments)


def _has_templates_only(tokenizer: Any) -> bool:
    """Return whether a tokenizer renders chats as the base class does."""
    from transformers import PreTrainedTokenizerBase

    names = ("apply_chat_template", "get_chat_template")
    return all(getattr(type(tokenizer), name, None) is getattr(PreTrainedTokenizerBase, name) for name in names)


def _without(fields: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key != name}
