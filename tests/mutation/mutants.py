"""Mutants: a module with one operator, comparison or constant changed, as cosmic-ray changes them.

Which of them are in the sample is decided by a hash of each: a change of the sources changes the sample only there.
"""

import ast
import collections
import hashlib
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
      same: which of those on lines that read the same.
      line: its number.
      before: the line, as it is.
      after: the line, as it becomes; empty until it is made.
    """

    module: str
    operator: str
    occurrence: int
    same: int
    line: int
    before: str
    after: str = ""

    def rank(self, seed: int) -> str:
        """Its place in the order of the sample."""
        known = (seed, self.module, self.operator, self.before, self.same)
        return hashlib.sha256(repr(known).encode()).hexdigest()


def sample(root: Path, modules: Sequence[str], count: int, seed: int) -> list[Mutant]:
    """`count` of all mutants of `modules`, the same for the same sources and seed."""
    places = [place for module in modules for place in _places(root, module)]
    return [_made(root, place) for place in sorted(places, key=lambda place: place.rank(seed))[:count]]


def source_of(root: Path, module: str, operator: str, occurrence: int) -> str:
    """The module with one change."""
    changed = mutate_code((root / module).read_text(), _operator(operator), occurrence)
    if changed is None:
        raise ValueError(f"{module} has no place {occurrence} for {operator}: its source has changed, draw again")
    return str(changed)


def code_of(source: str) -> str:
    """What of a module is run: without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [part for part in body if not _is_text(part)]
    return ast.unparse(tree)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _operator(name: str) -> Any:
    return cosmic_ray.plugins.get_operator(f"core/{name}")()


def _places(root: Path, module: str) -> Iterator[Mutant]:
    source = (root / module).read_text()
    nodes, texts = list(ast_nodes(get_ast(source))), [line.strip() for line in source.splitlines()]
    names = sorted(name.removeprefix("core/") for name in cosmic_ray.plugins.operator_names())
    for name in filter(OPERATORS.fullmatch, names):
        operator = _operator(name)
        lines = [line for node in nodes for (line, _), _ in operator.mutation_positions(node)]
        seen: collections.Counter[str] = collections.Counter()
        for occurrence, line in enumerate(lines):
            text = texts[line - 1]
            yield Mutant(module, name, occurrence, seen[text], line, text)
            seen[text] += 1


def _made(root: Path, mutant: Mutant) -> Mutant:
    changed = source_of(root, mutant.module, mutant.operator, mutant.occurrence)
    return mutant._replace(after=changed.splitlines()[mutant.line - 1].strip())
