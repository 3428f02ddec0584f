"""Chat templates of others: given up in bounded time, bounded in size, and no later step is interrupted."""

import threading
import time

import pytest
from tiny_models import make_tokenizer

from verify.data import chat_templates
from verify.data.chat_templates import ChatTemplate
from verify.errors import InputError
from verify.io.time_limit import TimeLimitError, time_limit

ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
TURNS = [{"role": "user", "content": "Hello"}]


def template(text: str) -> ChatTemplate:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = text
    return ChatTemplate(tokenizer, {}, "row 3", ["Hello"])


def test_an_endless_template_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a message that names the record, in the main thread and in another; a template that ends is rendered as before."""
    monkeypatch.setattr(chat_templates, "LONGEST_SECONDS", 0.3)
    found: list[BaseException] = []

    def render() -> None:
        try:
            template(ENDLESS).render(TURNS, cue=True)
        except InputError as error:
            found.append(error)

    started = time.monotonic()
    render()
    thread = threading.Thread(target=render)
    thread.start()
    thread.join(timeout=20)
    assert time.monotonic() - started < 20
    assert ["row 3: the chat template was given up after 0.3 seconds" in str(error) for error in found] == [True, True]
    assert template("{{ messages[0]['content'] }}").render(TURNS, cue=True) == "Hello"


def test_an_oversized_rendering_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text of more characters than any chat has is not encoded."""
    monkeypatch.setattr(chat_templates, "LARGEST_TEXT", 1000)
    with pytest.raises(InputError, match="row 3: the chat template made a text of more than 1000 characters"):
        template("{% for i in range(1001) %}x{% endfor %}").render(TURNS, cue=True)


def test_a_limit_ends_with_its_block() -> None:
    """What runs in time is never interrupted, nor is what comes after a block that ended just in time."""
    for _ in range(3):
        with time_limit(0.1):
            pass
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        sum(range(100))
    with pytest.raises(TimeLimitError), time_limit(0.05):
        sum(number for _ in iter(int, 1) for number in range(100))
