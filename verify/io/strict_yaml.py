"""Reading of YAML files that people write: every scalar is text, and a name that is given twice is refused.

YAML's own types would turn `1e-5` into a word and `no` into a truth value, and its parsers keep the last of two equal names.
"""

from pathlib import Path
from typing import Any

from verify.errors import InputError


def read_yaml(path: Path, *, purpose: str, form: str) -> Any:
    """Read a YAML file whose scalars are texts.

    Args:
        path: the file.
        purpose: what to give instead of a file that cannot be read, for the error.
        form: what to write instead of what is not YAML, for the error.

    Raises:
        InputError: the file cannot be read, is not YAML, or names a key twice.
    """
    import yaml

    class UniqueKeys(yaml.BaseLoader):
        """A loader that reads every scalar as text and refuses a name that is given twice."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            names = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise InputError(f"{path} gives {twice} twice. Keep one of them.")
            found: dict[Any, Any] = super().construct_mapping(node, deep)
            return found

    try:
        return yaml.load(path.read_text(encoding="utf-8"), UniqueKeys)  # noqa: S506 - it constructs nothing but texts
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}). {purpose}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" (line {mark.line + 1})"
        raise InputError(f"{path} is not YAML{where}. {form}") from None
    except RecursionError:
        raise InputError(f"{path} is nested too deeply. {form}") from None
