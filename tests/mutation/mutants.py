"""Mutants: a module with one operator, comparison or constant changed, as cosmic-ray changes them."""

import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

ARITHMETIC = "(Add|Sub|Mul|Div)"
COMPARISON = "(Eq|NotEq|Lt|LtE|Gt|GtE)"
OPERATORS = re.compile(
    f"(ReplaceBinaryOperator_{ARITHMETIC}_{ARITHMETIC}|ReplaceComparisonOperator_{COMPARISON}_{COMPARISON}"
    "|ReplaceUnaryOperator_Delete_USub|NumberReplacer|ReplaceTrueWithFalse|ReplaceFalseWithTrue)"
)


class Mutant(NamedTuple):
    """One change of one module.

    Attributes:
      module: its path.
      operator: of cosmic-ray.
      occurrence: which of the places where the operator could be applied.
      line: its number.
      before: the line, as it is.
      after: the line, as it becomes.
    """

    module: str
    operator: str
    occurrence: int
    line: int
    before: str
    after: str


def sample(root: Path, modules: Sequence[str], count: int, seed: int) -> list[Mutant]:
    """`count` of all mutants of `modules`, the same for the same sources and seed."""
    places = [place for module in modules for place in _places(root, module)]
    return [_mutant(root, *place) for place in random.Random(seed).sample(places, min(count, len(places)))]


def source_of(root: Path, module: str, operator: str, occurrence: int) -> str:
    """The module with one change."""
    changed = mutate_code((root / module).read_text(), _operator(operator), occurrence)
    if changed is None:
        raise ValueError(f"{module} has no place {occurrence} for {operator}: its source has changed, draw again")
    return str(changed)


def _operator(name: str) -> Any:
    return cosmic_ray.plugins.get_operator(f"core/{name}")()


def _places(root: Path, module: str) -> Iterator[tuple[str, str, int, int]]:
    nodes = list(ast_nodes(get_ast((root / module).read_text())))
    names = sorted(name.removeprefix("core/") for name in cosmic_ray.plugins.operator_names())
    for name in filter(OPERATORS.fullmatch, names):
        operator = _operator(name)
        lines = [line for node in nodes for (line, _), _ in operator.mutation_positions(node)]
        yield from ((module, name, occurrence, line) for occurrence, line in enumerate(lines))


def _mutant(root: Path, module: str, operator: str, occurrence: int, line: int) -> Mutant:
    source = (root / module).read_text()
    before, after = (
        text.splitlines()[line - 1].strip() for text in (source, source_of(root, module, operator, occurrence))
    )
    return Mutant(module, operator, occurrence, line, before, after)
