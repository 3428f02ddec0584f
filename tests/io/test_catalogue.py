"""What the catalogue reads from source is what the imported classes say."""

import subprocess
import sys
import typing
from dataclasses import fields
from pathlib import Path

import pytest

import unlearn.methods
import unlearn.training.method
from unlearn.methods import SHARED, declared_method, method_catalogue, method_classes
from verify.attacks import attack_catalogue, attack_classes
from verify.io.catalogue import COMPUTED, catalogue
from verify.io.declared import declared_class

LISTED = {
    "method": ("idea", "paper", "cost", "needs_retain", "needs_base"),
    "attack": ("idea", "paper", "cost", "needs", "family", "references"),
}
BASE = """
class Base:
    cost = 1.0
    @property
    def needs(self):
        "Whether."
        return True
"""
ONE = """
from base import Base
class One(Base):
    idea: str = 'a' 'b'
    def loss(self): ...
"""
TWO = """
class _Help: ...
class Two(Base):
    cost = 2 * 3
    @property
    def needs(self):
        return self.x
    def loss(self): ...
"""


@pytest.mark.parametrize("kind", LISTED)
def test_the_catalogue_agrees_with_the_classes(kind: str) -> None:
    """Same names in the same order, and the same value of every listed attribute; what depends on settings is said to."""
    classes, found = (method_classes(), method_catalogue()) if kind == "method" else (attack_classes(), attack_catalogue())
    assert list(found) == list(classes)
    for name, entry in found.items():
        assert entry["__name__"] == classes[name].__name__
        for attribute in LISTED[kind]:
            if entry[attribute] is COMPUTED:
                assert isinstance(getattr(classes[name], attribute), property), (name, attribute)
            else:
                assert entry[attribute] == getattr(classes[name](), attribute), (name, attribute)
    assert any(entry[attribute] is not COMPUTED for entry in found.values() for attribute in LISTED[kind])


@pytest.mark.slow
def test_the_declarations_agree_with_the_classes() -> None:
    """Every method declares the fields, types, defaults and documentation of its class, in the same order."""
    for name, kind in method_classes().items():
        declared, types = declared_method(name), typing.get_type_hints(kind)
        assert [(field.name, field.type, field.default) for field in fields(declared)] == [
            (field.name, types[field.name], field.default) for field in fields(kind)
        ], name
        assert (declared.__name__, declared.__doc__) == (kind.__name__, kind.__doc__)
    assert any(fields(declared_method(name)) for name in method_classes())


def test_a_declaration_that_only_the_import_can_evaluate_is_refused(tmp_path: Path) -> None:
    """A type from another distribution is not guessed; constants of the file itself are read."""
    source = "from numpy import float32\nSIZE = 3\nclass One:\n    size: int = SIZE\n    kind: float32 = 1.0\n"
    (tmp_path / "one.py").write_text(source)
    with pytest.raises(LookupError, match="numpy"):
        declared_class(tmp_path / "one.py", "One")
    (tmp_path / "two.py").write_text(source.replace("float32 = 1.0", "float = 1.0"))
    declared = declared_class(tmp_path / "two.py", "One")
    assert [(field.name, field.type, field.default) for field in fields(declared)] == [("size", int, 3), ("kind", float, 1.0)]


def test_what_depends_on_settings_is_not_guessed(tmp_path: Path) -> None:
    """A property that reads its instance is COMPUTED, one that returns a literal is that literal, and attributes are inherited."""
    for name, source in (("base", BASE), ("one", ONE), ("two", TWO)):
        (tmp_path / f"{name}.py").write_text(source)
    found = catalogue(tmp_path, "loss", bases=[tmp_path / "base.py"])
    own = {"__name__": "One", "__methods__": {"loss"}}
    assert found["one"] == {"cost": 1.0, "needs": True, "idea": "ab", **own}
    assert found["two"]["needs"] is COMPUTED
    assert found["two"]["cost"] is COMPUTED


@pytest.mark.parametrize("line", ["unlearn.methods import method_catalogue as f", "verify.io.catalogue import catalogue as f"])
def test_no_torch(line: str) -> None:
    """Reading the catalogue imports neither torch nor transformers."""
    program = f"import sys\nfrom {line}\nassert not {{'torch', 'transformers', 'numpy'}} & set(sys.modules), 'heavy'"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_folders_are_those_of_the_packages() -> None:
    """The catalogue reads the modules that `discover` imports."""
    folder = Path(unlearn.methods.__file__).parent
    public = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    assert public - SHARED == set(method_classes())
    assert Path(unlearn.training.method.__file__).is_file()
