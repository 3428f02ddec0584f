"""Program that renders chat templates for another process; run as a script by `verify.data.template_process`, never imported.

A template is a program by whoever made the tokenizer. A single step of it (`9 ** (9 ** 9)`, `"x" * 10 ** 12`) can take years or all
memory, and no exception stops it from within: hence a process of its own, whose memory, files and time the system limits.

Reads pickled requests from standard input, each after its length; writes for each whether it was rendered, a length, and the text,
or the kind and the message of the error. Ends at the end of its input.
"""

import pickle
import resource
import signal
import struct
import sys
from pathlib import Path
from typing import Any

LENGTH = struct.Struct("!Q")
ANSWER = struct.Struct("!?Q")


def main() -> None:
    """Answer requests until there are no more."""
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    class Tokenizer:
        """What rendering reads of a tokenizer: its templates and the names of its special tokens."""

        apply_chat_template = PreTrainedTokenizerBase.apply_chat_template
        get_chat_template = PreTrainedTokenizerBase.get_chat_template

        def __init__(self, chat_template: Any, special_tokens_map: dict[str, Any]) -> None:
            self.chat_template, self.special_tokens_map = chat_template, special_tokens_map

    source, target = sys.stdin.buffer, sys.stdout.buffer
    _limit(LENGTH.unpack(source.read(LENGTH.size))[0])
    target.write(ANSWER.pack(True, 0))
    target.flush()
    while header := source.read(LENGTH.size):
        request = pickle.loads(source.read(LENGTH.unpack(header)[0]))  # noqa: S301 - from the process that started this one
        # By default the alarm ends the process, also within a step that Python cannot interrupt.
        signal.setitimer(signal.ITIMER_REAL, request["seconds"])
        done, content = _rendered(Tokenizer(request["template"], request["special"]), request)
        signal.setitimer(signal.ITIMER_REAL, 0)
        target.write(ANSWER.pack(done, len(content)))
        target.write(content)
        target.flush()


def _rendered(tokenizer: Any, request: dict[str, Any]) -> tuple[bool, bytes]:
    """Return the rendered text, or the name of the error's class and its message."""
    try:
        text = tokenizer.apply_chat_template(
            request["turns"], tokenize=False, add_generation_prompt=request["cue"], **request["arguments"]
        )
        if not isinstance(text, str):
            return False, f"TypeError\nthe template gave {type(text).__name__} instead of text".encode()
        if len(text) > request["largest"]:
            return False, b"OverflowError\n"
        return True, text.encode("utf-8", "surrogatepass")
    except MemoryError:
        return False, b"MemoryError\n"
    except Exception as error:  # noqa: BLE001 - a template is foreign code and can raise anything
        return False, f"{type(error).__name__}\n{str(error)[:10_000]}".encode("utf-8", "surrogatepass")


def _limit(memory: int) -> None:
    """Limit this process: a number of bytes beyond the memory that it has, and no file."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    size = pages * resource.getpagesize() + memory
    for kind, most in ((resource.RLIMIT_AS, size), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        try:
            resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
        except (ValueError, OSError):
            if kind != resource.RLIMIT_AS or sys.platform == "linux":
                raise  # macOS has no limit of the address space that it lets a process set


if __name__ == "__main__":
    main()
