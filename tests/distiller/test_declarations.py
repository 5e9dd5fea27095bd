"""What every method says of itself: its docstrings, its weights and their limits."""

import inspect
import re

import pytest

import distiller
from registry import summary

NAMES = [*distiller.names(), "SoftLogits+AT"]


@pytest.mark.parametrize("name", distiller.names())
def test_the_docstring_says_what_and_where_from(name):
    method = distiller.registry.get(name)
    line, paper = summary(method)
    assert 20 < len(line) < 120
    assert line.endswith(".")
    assert paper, f"{name}'s docstring has no 'Paper:' line"
    module = inspect.getdoc(inspect.getmodule(method))
    assert "Paper:" in module
    assert "loss =" in module


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_are_the_methods_declaration_and_have_limits(name):
    method = distiller.create(name)
    assert method.weight > 0
    assert method.ce_weight >= 0
    assert isinstance(method.gradient_taps, tuple)
    for field in method.__dataclass_fields__.values():
        if re.search(r"weight$|^temperature|_epochs$|^top_k$", field.name):
            assert "limit" in field.metadata, f"{name}.{field.name} needs a limit (options.py)"
