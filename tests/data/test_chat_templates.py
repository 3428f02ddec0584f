"""Chat templates of others: given up in bounded time, bounded in size, and no later step is interrupted."""

import multiprocessing
import resource
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


@pytest.mark.slow
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


MEMORY_EATERS = {
    "repeated": "{{ 'x' * 10**11 }}",
    "padded": "{{ 'x'.ljust(10**11) }}",
    "formatted": "{{ '%100000000000d' % 1 }}",
    "doubled": "{% set n = namespace(s='x' * 1000) %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s|length }}",
    "listed": "{% set n = namespace(l=[0]) %}{% for i in range(60) %}{% set n.l = n.l + n.l %}{% endfor %}{{ n.l|length }}",
    "replaced": "{{ ('x' * 10**6).replace('x', 'y' * 10**6) }}",
}


@pytest.mark.parametrize("name", MEMORY_EATERS)
def test_a_template_that_needs_too_much_memory_is_given_up(name: str) -> None:
    """In its own process, so that this one grows by nothing; the next chat is rendered as before."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="row 3: the chat template was given up as it needed more than 512 MiB"):
        template(MEMORY_EATERS[name]).render(TURNS, cue=True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10
    assert template("{{ messages[0]['content'] }}").render(TURNS, cue=True) == "Hello"


def test_a_single_step_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """No exception can interrupt it, so its process is ended."""
    monkeypatch.setattr(chat_templates, "LONGEST_SECONDS", 0.5)
    with pytest.raises(InputError, match=r"given up after 0\.5 seconds"):
        template("{{ 9 ** (9 ** 9) }}").render(TURNS, cue=True)


@pytest.mark.slow
def test_texts_and_errors_come_back_whole() -> None:
    """Lone surrogates and special tokens as in this process, and what a template says of a chat without the chat's own words."""
    with pytest.raises(InputError, match=r"does not accept this chat \(TemplateError: no ...\)"):
        template("{{ raise_exception('no ' + messages[0]['content']) }}").render(TURNS, cue=True)
    assert template("{{ bos_token }}|{{ '\ud800' }}").render(TURNS, cue=True).endswith("|\ud800")


@pytest.mark.slow
def test_forked_processes_have_renderers_of_their_own() -> None:
    """Two processes that render at once do not read each other's answers."""
    plain = template("{{ messages[0]['content'] }}")
    plain.render(TURNS, cue=True)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map(_rendered_often, ["one", "two"])
    assert found == [["one"] * 20, ["two"] * 20]


def _rendered_often(word: str) -> list[str]:
    plain = template("{{ messages[0]['content'] }}")
    return [plain.render([{"role": "user", "content": word}], cue=True) for _ in range(20)]


def test_an_oversized_rendering_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text of more characters than any chat has is not encoded."""
    monkeypatch.setattr(chat_templates, "LARGEST_TEXT", 1000)
    with pytest.raises(InputError, match="row 3: the chat template made a text of more than 1000 characters"):
        template("{% for i in range(1001) %}x{% endfor %}").render(TURNS, cue=True)


@pytest.mark.slow
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
