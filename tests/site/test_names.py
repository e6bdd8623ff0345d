"""Every public name has a page, a docstring, and an example that `pytest --doctest-modules` runs."""

import inspect
import re

import pytest

from tests.site.public_names import public_names

NAMES = public_names()

every_name = pytest.mark.parametrize("name", sorted(NAMES))


def is_data(value):
    """Whether something is only returned to users, who do not make it: then what returns it has the example."""
    return inspect.isclass(value) and issubclass(value, tuple)


def examples_of(value):
    return re.findall(r"^\s*>>> ", inspect.getdoc(value) or "", flags=re.MULTILINE)


def returned_by(value):
    """The functions that the first line of a type's docstring names."""
    first = (inspect.getdoc(value) or "").split("\n")[0]
    named = re.findall(r":func:`(?:also_optax\.)?(\w+)`", first)
    return [called for name, called in NAMES.items() if name.rpartition(".")[2] in named]


@every_name
def test_a_public_name_has_a_page(site, name):
    page = site / "api" / f"{name}.html"
    assert page.exists(), f"add `{name.removeprefix('also_optax.')}` to a list of docs/api.md"
    assert f'id="{name}"' in page.read_text() or f'id="module-{name}"' in page.read_text()


@every_name
def test_a_public_name_has_a_docstring(name):
    value = NAMES[name]
    inherited = inspect.getdoc(type(value)) if is_data(type(value)) else None
    assert inspect.getdoc(value) and (inherited or not (inspect.getdoc(value) or "").startswith("Alias for field"))


@every_name
def test_a_public_name_has_an_example(name):
    value = NAMES[name]
    if inspect.ismodule(value) or getattr(value, "_is_protocol", False):
        return  # what is in it, and what meets it, has them
    if is_data(type(value)):
        value = type(value)  # a ready-made value of a public type
    if not examples_of(value):
        assert is_data(value) and any(examples_of(called) for called in returned_by(value)), (
            f"`{name}` needs an example in its docstring"
        )
