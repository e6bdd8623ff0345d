"""What is checked, and how a check says what it saw."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from also_optax import _read
from also_optax._read import find_rule_state
from also_optax.testing import _problem
from also_optax.testing._problem import Batch

STEPS = 6
FEW = 3
"""Examples in the batches of which a check looks at single entries."""


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """A rule, or an optimizer with one inside, and what its checks need to know of it.

    Attributes:
      make: the factory; takes `hyperparams`, and `max_loss` where it makes a rule.
      hyperparams: scalars by name, which may be numbers, tracers and schedules alike; half of each is valid too.
      memory: whether the weights depend on batches seen before.
      primal: what is chained behind the rule to train; None where `make` makes an optimizer.
      view: how two trees with states are seen when they are compared. A state that may keep the same adversary in
        several ways is seen as what it stands for.
    """

    make: Callable[..., optax.GradientTransformationExtraArgs]
    hyperparams: Mapping[str, float] = dataclasses.field(default_factory=dict)
    memory: bool = True
    primal: optax.GradientTransformation | None = dataclasses.field(default_factory=lambda: optax.sgd(0.01))
    view: Callable[[Any], Any] = lambda tree: tree

    def made(self, **changed: Any) -> optax.GradientTransformationExtraArgs:
        """What `make` makes."""
        return self.make(**{**self.hyperparams, **changed})

    def optimizer(self, **changed: Any) -> optax.GradientTransformationExtraArgs:
        """The same as an optimizer, which trains."""
        made = self.made(**changed)
        return made if self.primal is None else optax.chain(made, self.primal)

    @functools.cached_property
    def start(self) -> Any:
        """The rule's own state before the first batch."""
        return find_rule_state(self.made().init(_problem.init_params()))

    @property
    def num_groups(self) -> int | None:
        """G, or None for a rule that has no groups."""
        num_groups: int | None = self.start.num_groups
        return num_groups

    @functools.cached_property
    def batches(self) -> Batch:
        """What it is trained on."""
        shares = np.arange(self.num_groups or 3, 0.0, -1.0)
        return _problem.batches(shares / shares.sum(), STEPS)

    @property
    def needs_reference(self) -> bool:
        """Whether losses come with reference losses; the checks give zeros."""
        return bool(getattr(self.start, "needs_reference", False))

    @functools.cached_property
    def trained(self) -> tuple[Any, Any]:
        """Parameters and state after all batches; the reference of most equalities."""
        return self.train(self.optimizer())

    @property
    def trained_rule(self) -> Any:
        """The rule's own state after all batches."""
        return find_rule_state(self.trained[1])

    @property
    def few_ids(self) -> jax.Array:
        """Ids of the groups of FEW examples."""
        return jnp.arange(FEW, dtype=jnp.int32) % (self.num_groups or FEW)

    def train(self, tx: optax.GradientTransformation, stacked: Batch | None = None, params: Any = None) -> Any:
        """Parameters and state of `tx` after the batches."""
        stacked = self.batches if stacked is None else stacked
        return _problem.train(tx, stacked, params, needs_reference=self.needs_reference)

    def train_step(self, tx: optax.GradientTransformation, params: Any, opt_state: Any, batch: Batch) -> Any:
        """Parameters and state of `tx` after one batch more."""
        return _problem.train_step(tx, params, opt_state, batch, needs_reference=self.needs_reference)

    def reweight(self, opt_state: Any, losses: jax.Array, groups: jax.Array, where: Any = None) -> Any:
        """:func:`also_optax.reweight`."""
        return _read.reweight(opt_state, losses, groups, where=where, reference_losses=self._reference(losses))

    def weights(self, opt_state: Any, losses: jax.Array, groups: jax.Array, where: Any = None) -> jax.Array:
        """:func:`also_optax.example_weights`."""
        return _read.example_weights(opt_state, losses, groups, where=where, reference_losses=self._reference(losses))

    def observe(self, opt_state: Any, losses: jax.Array, groups: jax.Array, where: Any = None) -> Any:
        """:func:`also_optax.observe`."""
        return _read.observe(opt_state, losses, groups, where=where, reference_losses=self._reference(losses))

    def told(self, tx: optax.GradientTransformation, state: Any, losses: Any, groups: Any, **more: Any) -> Any:
        """The rule's state after a batch."""
        arguments = {"losses": losses, "groups": groups, "reference_losses": self._reference(losses)} | more
        return optax.with_extra_args_support(tx).update(None, state, **arguments)[1]

    def _reference(self, losses: jax.Array) -> jax.Array | None:
        return jnp.zeros_like(losses) if self.needs_reference else None

    def expect_same(self, actual: Any, expected: Any, seen: str, rtol: float | None = None) -> None:
        """Raises unless two trees are the same but for rounding."""
        rtol = rtol or 50 * float(jnp.finfo(jnp.result_type(float)).eps)
        actual, expected = self.view(actual), self.view(expected)
        structures: list[Any] = [jax.tree.structure(tree) for tree in (actual, expected)]
        expect(structures[0] == structures[1], f"{seen}: {structures[0]} and not {structures[1]}.")
        for (path, one), other in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
            where = f"{seen}{jax.tree_util.keystr(path)}"
            one, other = np.asarray(one), np.asarray(other)
            kinds = [(array.shape, array.dtype) for array in (one, other)]
            expect(kinds[0] == kinds[1], f"{where}: shape and dtype {kinds[0]} and not {kinds[1]}.")
            if not np.allclose(one.astype(float), other.astype(float), rtol, rtol, equal_nan=True):
                raise AssertionError(f"{where}: {one} and not {other}.")


def expect(holds: Any, seen: str) -> None:
    """Raises unless `holds`."""
    if not holds:
        raise AssertionError(seen)


def expect_finite(tree: Any, seen: str) -> None:
    """Raises unless all floats are finite, but for `max_loss`, which may be infinite."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        name = jax.tree_util.keystr(path)
        if jnp.issubdtype(leaf.dtype, jnp.floating) and "max_loss" not in name:
            expect(jnp.isfinite(leaf).all(), f"{seen}{name} is {leaf}.")


Check = Callable[[Candidate], None]


def promise(to_do: str) -> Callable[[Check], Check]:
    """A check which, where it fails, says its promise (the docstring), what was seen, and `to_do`."""

    def decorate(check: Check) -> Check:
        @functools.wraps(check)
        def checked(candidate: Candidate) -> None:
            try:
                check(candidate)
            except Exception as error:
                seen = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
                said = f"`{check.__name__}`: {check.__doc__}\n  seen: {seen}\n  to do: {to_do}"
                raise AssertionError(said) from error

        return checked

    return decorate
