"""What every rule promises, as checks: of the rules of this package, and of a rule of your own.

In one line, or check by check under pytest::

    testing.check_rule(reweight_by_mine, temperature=0.5)

    @pytest.mark.parametrize("check", testing.rule_checks(reweight_by_mine, temperature=0.5))
    def test_my_rule(check):
        check()

Each check is a promise in its name and its docstring, and raises an ``AssertionError`` that says which was broken, what
was seen and what to do. `docs/write_your_own_rule.md` writes a rule and checks it.
"""

import functools
from collections.abc import Callable
from typing import Any

from also_optax.testing._candidate import Candidate, Check
from also_optax.testing._optimizer import OPTIMIZER_CHECKS
from also_optax.testing._rule import RULE_CHECKS

__all__ = ["check_rule", "rule_checks"]


def rule_checks(make: Callable[..., Any], *, memory: bool = True, **hyperparams: float) -> list[Callable[[], None]]:
    """The contract of a rule, as functions without arguments, named by their promises.

    A rule is checked by itself, and with SGD behind it as an optimizer, on a regression of 6 batches of 8 examples.

    Args:
      make: the rule's factory, ``make(**hyperparams, max_loss=inf)``; a ``functools.partial`` of it where it takes
        more, such as a number of groups.
      memory: False for a rule whose weights do not depend on the batches before.
      **hyperparams: numbers by name that may also be traced or scheduled; half of each is valid too.

    Returns:
      The checks; each raises an ``AssertionError`` where its promise is broken.

    Examples:
      >>> import also_optax
      >>> checks = also_optax.testing.rule_checks(also_optax.reweight_by_rgd, memory=False, clip=2.0)
      >>> checks[1].__name__
      'a_rule_leaves_the_updates_alone'
      >>> checks[1]()
    """
    candidate = Candidate(make, hyperparams, memory)
    return [_bound(check, candidate) for check in (*RULE_CHECKS, *OPTIMIZER_CHECKS)]


def check_rule(make: Callable[..., Any], *, memory: bool = True, **hyperparams: float) -> None:
    """Raises an ``AssertionError`` if a rule breaks its contract; arguments as of :func:`rule_checks`.

    All checks are made, in half a minute or so, and the error tells of each that failed.

    Examples:
      >>> import also_optax
      >>> also_optax.testing.check_rule(also_optax.reweight_by_rgd, memory=False, clip=2.0)  # doctest: +SKIP
    """
    broken = []
    for check in rule_checks(make, memory=memory, **hyperparams):
        try:
            check()
        except AssertionError as error:
            broken.append(str(error))
    if broken:
        raise AssertionError(f"{len(broken)} broken promises:\n" + "\n".join(broken))


def _bound(check: Check, candidate: Candidate) -> Callable[[], None]:
    @functools.wraps(check)
    def bound() -> None:
        check(candidate)

    vars(bound).pop("__wrapped__", None)  # or pytest would ask for a fixture `candidate`
    return bound
