"""Checks of the arguments of Python calls: names, types and ranges, with errors that say what to write instead.

The decorator `checked` is for a public function or a dataclass. It binds the call, compares every argument with its annotation,
and raises `ArgumentError` where they disagree. Values with only one possible meaning are converted: numpy scalars, enumerations of
text, lists where a tuple is expected. Other annotations (protocols, abstract bases, callables, sources of records) are left to the
function itself.
"""

import abc
import dataclasses
import enum
import functools
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from verify.errors import ArgumentError
from verify.io.foreign_names import OMIT, TABLE, ForeignName, closest, foreign_name

Target = TypeVar("Target", bound=Callable[..., Any])

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
_SHOWN = 40
"""Largest number of characters of a text that a message repeats."""
_HOLDERS = {
    "TrainingOptions": "options",
    "Fields": "fields",
    "Selection": "selection",
    "GradientOptions": "gradients",
    "Settings": "settings",
}
"""The functions' argument for each of these classes."""
_FIELDS: dict[str, frozenset[str]] = {}
"""Argument names of these classes. `verify` does not import `unlearn`, so each class adds itself when it is defined."""
_EMPTY = {"report_to": "none"}
"""Meaning of None or an empty list, for text arguments that have one."""


def checked(target: Target) -> Target:
    """Decorate a function, or a dataclass, so that its arguments are checked before it runs.

    Raises:
        ArgumentError: at a call with an unknown, missing or unsuitable argument.
    """
    if isinstance(target, type):
        guarded = _guarded(target.__init__, target.__name__, target, inspect.signature(target))  # type: ignore[misc]
        target.__init__ = guarded  # type: ignore[misc]
        _FIELDS[target.__name__] = frozenset(inspect.signature(target).parameters)
        return target
    return typing.cast(Target, _guarded(target, target.__name__, target, inspect.signature(target)))


def dtype_name(dtype: Any) -> str:
    """Return the name of a precision given by name or as a `torch.dtype`.

    Raises:
        ArgumentError: it is none of `PRECISIONS`.
    """
    given = str(dtype) if _is_dtype(dtype) else dtype
    entry = foreign_name("dtype")
    if isinstance(given, str) and entry is not None:
        known = entry.translate(given)
        if known in PRECISIONS and (given in PRECISIONS or given.startswith("torch.")):
            return str(known)
        if known in PRECISIONS:
            raise ArgumentError(f"dtype={given!r} is unknown. Write dtype={known!r}.")
    raise ArgumentError(f"dtype={_shown(dtype)} is unknown. Write one of {', '.join(map(repr, PRECISIONS))}.")


def _guarded(function: Callable[..., Any], name: str, annotated: Any, signature: inspect.Signature) -> Callable[..., Any]:
    """Wrap a function in a check of its arguments; `self` of a constructor is not part of the signature."""
    method = isinstance(annotated, type)

    @functools.cache
    def hints() -> Mapping[str, Any]:
        return typing.get_type_hints(annotated)

    @functools.wraps(function)
    def guarded(*args: Any, **given: Any) -> Any:
        bound = _bind(signature, name, args[method:], given)
        for argument, value in bound.arguments.items():
            if argument in hints():
                bound.arguments[argument] = fitted(argument, value, hints()[argument])
        if method:  # the class's own checks come first, as their messages are more specific
            function(args[0], *bound.args, **bound.kwargs)
        for argument, value in bound.arguments.items():
            _require_not_negative(argument, value)
        return None if method else function(*bound.args, **bound.kwargs)

    return guarded


def _require_not_negative(name: str, value: Any) -> None:
    """Refuse negative numbers: no count, weight, rate or seed of this project may be below 0."""
    for one in value if isinstance(value, tuple) else (value,):
        if isinstance(one, (int, float)) and one < 0:
            raise ArgumentError(f"{_flag(name)} must be 0 or more, got {one}.")


def _bind(signature: inspect.Signature, name: str, args: Sequence[Any], given: Mapping[str, Any]) -> inspect.BoundArguments:
    """Bind a call's arguments to their names.

    Raises:
        ArgumentError: an argument is unknown, missing, or given by position where it must be named.
    """
    named = signature.parameters
    if unknown := {key: value for key, value in given.items() if key not in named}:
        raise ArgumentError(" ".join(_unknown(name, key, value, named) for key, value in unknown.items()))
    in_order = [key for key, one in named.items() if one.kind is one.POSITIONAL_OR_KEYWORD]
    if len(args) > len(in_order):
        others = ", ".join(f"{key}=..." for key in named if key not in in_order)
        raise ArgumentError(
            f"{name} takes {len(in_order)} arguments by position ({', '.join(in_order)}), and {len(args)} were given."
            + (f" Name the others: {others}." if others else "")
        )
    taken = {*in_order[: len(args)], *given}
    if missing := [key for key, one in named.items() if one.default is one.empty and key not in taken]:
        raise ArgumentError(f"{name} also needs {' and '.join(f'{key}=...' for key in missing)}.")
    try:
        return signature.bind(*args, **given)
    except TypeError as error:
        raise ArgumentError(f"{name}: {error}.") from None


def _unknown(name: str, key: str, value: Any, named: Mapping[str, Any]) -> str:
    """Return the message for an argument that does not exist, with what to write instead."""
    start = f"{name} has no argument {key}."
    if (entry := foreign_name(key)) is not None:
        return f"{start} {_instead(entry, value, named, name)}"
    if home := next((owner for owner, fields in _FIELDS.items() if owner in _HOLDERS and key in fields), None):
        call = f"{home}({key}={_shown(_joined(value), '...')})"
        return f"{start} Write {_HOLDERS[home]}={call}." if _HOLDERS[home] in named else f"{start} It belongs to {call}."
    ours = {entry.name: entry.argument for entry in TABLE if entry.argument in named}
    near = closest(key, [*named, *ours])
    if near:
        return f"{start} Did you mean {ours.get(near, near)}?"
    return f"{start} It takes {', '.join(named)}."


def _instead(entry: ForeignName, value: Any, named: Mapping[str, Any], name: str) -> str:
    """Return the advice for a foreign name in a call of `name`, which takes `named`."""
    if entry.argument == "options" and "options" in named:
        return _translated("options", value, "TrainingOptions")
    ours = replacement(entry, value)
    if ours is None:
        return entry.advice or f"Its counterpart is {entry.argument}, which has no value like {_shown(value)}."
    if ours == OMIT:
        return "Leave it out: that is the behaviour here."
    if entry.argument in named and entry.owner in ("", name):
        return f"Write {ours}."
    if _HOLDERS.get(entry.owner) in named:
        return f"Write {_HOLDERS[entry.owner]}={entry.owner}({ours})."
    return f"It belongs to {entry.owner}({ours})." if entry.owner else f"Give it to the function itself: {ours}."


def replacement(entry: ForeignName, value: Any) -> str | None:
    """Return the argument to write, such as `batch_size=8`; `OMIT` where none is needed, None without a counterpart."""
    value = _joined(value)
    text = str(value)
    if value is not None and not isinstance(value, (bool, str, numbers.Real)) and not _is_dtype(value):
        return f"{entry.argument}=..." if entry.ours and not entry.values else None
    found = entry.translate(text)
    if found is None or found == OMIT:
        return found
    if isinstance(value, str) and entry.owner != "TrainingOptions" and not entry.values:
        return f"{entry.argument}=..."  # a path or a column need not be repeated
    if found == text:
        return f"{entry.argument}={_shown(value)}"
    literal = {"true": "True", "false": "False"}.get(found, found if _number(found) is not None else repr(found))
    return f"{entry.argument}={literal}"


def _joined(value: Any) -> Any:
    """Convert an enumeration's member to its value and a list of names to one text with commas, the forms of options here."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (list, tuple, set)) and value and all(isinstance(one, str) for one in value):
        return ",".join(sorted(value) if isinstance(value, set) else value)
    return value


def fitted(name: str, value: Any, hint: Any) -> Any:
    """Check a value against its annotation and convert it where only one meaning is possible.

    Args:
        name: the argument's name, for the message.
        value: the given value.
        hint: the resolved annotation.

    Returns:
        the value, converted if necessary; unchanged for annotations that are not checked here.

    Raises:
        ArgumentError: it is of another type; the message says what to write.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return fitted(name, value, inner[0])
    if origin in (typing.Union, types.UnionType):
        return _one_of(name, value, inner)
    if origin is Literal:
        return _literal(name, value, inner)
    if origin is tuple and len(inner) == 2 and inner[1] is Ellipsis:
        return tuple(fitted(name, one, inner[0]) for one in _several(name, value, "({},)"))
    if origin is Sequence:
        return _several(name, value, "[{}]")
    if isinstance(hint, type) and hint in _READERS:
        return _READERS[hint](name, value)
    if (
        isinstance(hint, type)
        and hint.__module__.split(".")[0] in ("unlearn", "verify")
        and not getattr(hint, "_is_protocol", False)
        and abc.ABC not in hint.__bases__
    ):
        return _instance(name, value, hint)
    return value


def _one_of(name: str, value: Any, hints: Sequence[Any]) -> Any:
    """Return the value as converted by the first of several annotations that accepts it."""
    if value is None and types.NoneType in hints:
        return None
    first: ArgumentError | None = None
    for hint in (one for one in hints if one is not types.NoneType):
        try:
            return fitted(name, value, hint)
        except ArgumentError as error:
            first = first or error
    assert first is not None, "a union has members"
    raise first


def _boolean(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    said = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(str(value).strip().lower())
    raise ArgumentError(f"{name} takes True or False, got {_shown(value)}." + ("" if said is None else f" Write {name}={said}."))


def _whole(name: str, value: Any) -> int:
    if _is_number(value, numbers.Integral):
        return value if type(value) is int else int(value)
    number = _number(value)
    instead = f" Write {name}={int(number)}." if number is not None and number.is_integer() else ""
    raise ArgumentError(f"{name} takes a whole number, got {_shown(value)}.{instead}")


def _real(name: str, value: Any) -> float:
    if _is_number(value, numbers.Real):
        if not math.isfinite(value):
            raise ArgumentError(f"{_flag(name)} must be a finite number, got {float(value)}.")
        return value if type(value) in (int, float) else float(value)
    number = None if isinstance(value, bool) else _number(value)
    instead = f" Write {name}={number!r}." if number is not None and math.isfinite(number) else ""
    raise ArgumentError(f"{name} takes a number, got {_shown(value)}.{instead}")


def _is_number(value: Any, kind: type) -> bool:
    """Return whether a value is a number of that kind; truth values are not."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _number(value: Any) -> float | None:
    """Return the number that a text spells, or None."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return str(value.value) if isinstance(value, enum.Enum) else value
    if _is_dtype(value):
        return dtype_name(value)
    joined = _EMPTY.get(name) if not value else _joined(value)
    instead = f" Write {name}={_shown(joined, '...')}." if isinstance(joined, str) else ""
    if name == "report_to" and isinstance(joined, str) and "," in joined:
        instead = " Write report_to='all' for all that are installed, or one name."
    raise ArgumentError(f"{name} takes a text, got {_shown(value)}.{instead}")


def _literal(name: str, value: Any, allowed: Sequence[Any]) -> Any:
    """Return the allowed value that equals the given one, which may be an enumeration's member."""
    plain = value.value if isinstance(value, enum.Enum) else value
    for one in allowed:
        if type(plain) is type(one) and plain == one:
            return one
    near = closest(plain, [one for one in allowed if isinstance(one, str)]) if isinstance(plain, str) else None
    if _is_dtype(value) or name == "dtype":
        return dtype_name(value)
    instead = f" Write {name}={near!r}." if near else ""
    raise ArgumentError(f"{_flag(name)} must be one of {', '.join(map(repr, allowed))}, got {_shown(value)}.{instead}")


def _several(name: str, value: Any, form: str) -> Any:
    """Require a collection; a text is one element, never a collection of letters."""
    if isinstance(value, (str, bytes, Path)) or not isinstance(value, Iterable):
        raise ArgumentError(f"{name} takes several values, got one. Write {name}={form.format(_shown(value, '...'))}.")
    return value


def _instance(name: str, value: Any, kind: type) -> Any:
    """Require an object of one of this project's classes."""
    if isinstance(value, kind):
        return value
    wanted = kind.__name__
    if value is kind:
        raise ArgumentError(f"{name} takes an object, got the class. Write {name}={wanted}().")
    if isinstance(value, Mapping):
        raise ArgumentError(f"{name} takes {wanted}(...), got a dict. Write {name}={wanted}(**{{...}}).")
    raise ArgumentError(f"{name} takes {wanted}(...), got {_kind(value)}. {_translated(name, value, wanted)}".rstrip())


def _translated(name: str, value: Any, wanted: str) -> str:
    """Return the call of this project's class that corresponds to a configuration object of another library."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return f"Write {name}={wanted}(...)."
    ours, left = {}, []
    for field in dataclasses.fields(value):
        given = getattr(value, field.name)
        entry = foreign_name(field.name)
        if given is None or given == field.default or (isinstance(given, enum.Enum) and given.value == field.default):
            continue
        if entry is None:
            if field.name in _FIELDS.get(wanted, ()) and isinstance(given, (bool, int, float, str)):
                ours[field.name] = f"{field.name}={given!r}"
            continue
        found = replacement(entry, given)
        if found and entry.owner == wanted:
            ours[entry.argument] = found
        elif found is None and isinstance(given, (bool, int, float, str)):
            left.append(field.name)
    if type(value).__name__.endswith("LoraConfig") and wanted == "TrainingOptions":
        ours = {"lora": "lora=True", **ours}
    rest = f" Without a counterpart: {', '.join(left)}." if left else ""
    return f"Write {name}={wanted}({', '.join(ours.values())}).{rest}"


_READERS: Mapping[Any, Callable[[str, Any], Any]] = {bool: _boolean, int: _whole, float: _real, str: _text}


def _flag(name: str) -> str:
    """Return an argument's name as a flag, for range errors that may also come from the command line."""
    return f"--{name.replace('_', '-')}"


def _is_dtype(value: Any) -> bool:
    """Return whether a value is a `torch.dtype`, without importing torch."""
    return type(value).__module__ == "torch" and type(value).__name__ == "dtype"


def _kind(value: Any) -> str:
    kind = type(value)
    top = kind.__module__.split(".")[0]
    return kind.__name__ if top == "builtins" else f"{top}.{kind.__name__}"


def _shown(value: Any, otherwise: str | None = None) -> str:
    """Return a number or short text as it is written in Python; of any other value its type."""
    if value is None or isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) <= _SHOWN):
        return repr(value.value if isinstance(value, enum.Enum) else value)
    if isinstance(value, numbers.Real) or _is_dtype(value):
        return str(value)
    if isinstance(value, (list, tuple)) and len(repr(value)) <= _SHOWN and all(isinstance(one, (str, int, float)) for one in value):
        return repr(value)
    return otherwise if otherwise is not None else f"a value of type {_kind(value)}"
