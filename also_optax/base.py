"""The pieces of a rule of your own: the protocol that it meets, and what every rule is made of.

A rule is a NamedTuple with the members of :class:`RuleState` and a factory that calls :func:`rule_transformation`.
`docs/write_your_own_rule.md` writes one; :func:`also_optax.testing.check_rule` says whether it keeps its promises.

=================================================================  =================================================
name                                                               what
=================================================================  =================================================
:class:`RuleState`, :class:`Statistics`                            what a state and its statistics must have
:class:`Examples`                                                  a batch after validation: which entries count
:class:`Sums`, :func:`counts`, :func:`sums_of`, :func:`means_of`   statistics that are sums, over all or by group
:func:`at_examples`                                                from a table of groups to the examples
:func:`saturated`, :func:`check_scalar`                            finite numbers; hyperparameters that are checked
:func:`rule_transformation`                                        from the state to a gradient transformation
=================================================================  =================================================
"""

from also_optax._base import RuleState, Statistics, Sums, counts, rule_transformation
from also_optax._examples import Examples
from also_optax._group_means import at_examples, means_of, sums_of
from also_optax._hyperparams import check_scalar, saturated

__all__ = [
    "Examples",
    "RuleState",
    "Statistics",
    "Sums",
    "at_examples",
    "check_scalar",
    "counts",
    "means_of",
    "rule_transformation",
    "saturated",
    "sums_of",
]
