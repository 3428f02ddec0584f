"""Every public name is the function or class it says, whatever was imported before it."""

import json
from types import ModuleType
from typing import Any

import pytest
from new_processes import printed_by

IMPORT_ALL = """
import importlib, json, pkgutil, sys
package = importlib.import_module(sys.argv[1])
before = {name: id(getattr(package, name)) for name in package.__all__} if sys.argv[2] == "names first" else {}
packages, shadowed, found = [package], [], {}
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith("__main__"):
        packages += [importlib.import_module(module.name)] if module.ispkg else []
        importlib.import_module(module.name)
for one in packages:
    submodules = {module.name for module in pkgutil.iter_modules(one.__path__)}
    names = {name for name, value in vars(one).items() if callable(value)} | set(getattr(one, "__all__", ()))
    shadowed += [f"{one.__name__}.{name}" for name in sorted(submodules & names)]
for name in package.__all__:
    value = getattr(package, name)
    found[name] = [type(value).__name__, getattr(value, "__name__", None), before.get(name, id(value)) == id(value)]
print(json.dumps([found, shadowed]))
"""


def in_a_fresh_process(program: str, *arguments: str) -> Any:
    """What a program prints as JSON, in a process that has imported nothing of the packages yet."""
    return json.loads(printed_by(program, *arguments).splitlines()[-1])


@pytest.mark.parametrize("order", ["names first", pytest.param("modules first", marks=pytest.mark.slow)])
@pytest.mark.parametrize("package", ["verify", "unlearn"])
def test_public_names_are_what_they_say(package: str, order: str) -> None:
    """After every submodule was imported, each name of `__all__` is a function or class of that name, and the same as before.

    Importing a submodule binds its name in its package, where it would replace a function of that name: no package, however deep,
    has such a pair.
    """
    found, shadowed = in_a_fresh_process(IMPORT_ALL, package, order)
    assert {"verify": "backdoor", "unlearn": "forget"}[package] in found
    wrong = {name: what for name, what in found.items() if what[0] == ModuleType.__name__ or what[1] != name or not what[2]}
    assert not wrong
    assert shadowed == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "lines",
    [
        "from verify import backdoor; import verify.measures.trigger; from verify import backdoor as again",
        "import verify.measures.trigger; from verify import backdoor as again",
        "import verify.cli.measures, verify.statistics.backdoor, verify.measures.trigger; from verify import backdoor as again",
        "import unlearn.experiments.poisoning; from verify import backdoor as again",
    ],
)
def test_backdoor_is_a_function_in_every_order(lines: str) -> None:
    """`from verify import backdoor` gives the function, whether its module was imported before or after."""
    program = f"import json\n{lines}\nprint(json.dumps(callable(again) and again.__name__ == 'backdoor'))"
    assert in_a_fresh_process(program) is True


@pytest.mark.parametrize("package", ["verify", "unlearn"])
def test_the_lists_of_public_names_agree(package: str) -> None:
    """What can be imported lazily, what `__all__` lists and what type checkers see are the same names."""
    program = (
        f"import ast, inspect, json, {package} as package\n"
        "tree = ast.parse(inspect.getsource(package))\n"
        "(checked,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING')\n"
        "typed = sorted(alias.name for node in checked.body for alias in node.names)\n"
        "print(json.dumps([typed, sorted(package._HOME), sorted(package.__all__)]))"
    )
    typed, lazy, listed = in_a_fresh_process(program)
    assert typed == lazy == listed
