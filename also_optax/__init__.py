"""Distributionally robust optimizers for JAX, as optax gradient transformations.

A *rule* (``reweight_by_*``) carries an adversary in the optimizer's state and leaves the gradients alone;
:func:`reweight` reads each example's weight from that state, inside the loss. Ready-made optimizers chain a rule with
the primal step of its paper: :func:`also`, :func:`absgd`, :func:`abadam`, :func:`rgd`.
"""

from also_optax import contrib, divergences, losses, samplers
from also_optax._accumulation import MultiStepsState, multi_steps
from also_optax._alias import abadam, absgd, also, rgd
from also_optax._base import Reweighted
from also_optax._diagnostics import diagnostics
from also_optax._optimism import PastExtragradientState, eval_params, optimistic_gradient, past_extragradient
from also_optax._read import example_weights, group_weights, merge, observe, reweight, value_and_grad
from also_optax._sharding import state_shardings
from also_optax.rules.absgd import AbsgdState, reweight_by_absgd
from also_optax.rules.also import AlsoState, reweight_by_also
from also_optax.rules.also_scores import AlsoScoresState
from also_optax.rules.cvar import CvarState, reweight_by_cvar
from also_optax.rules.rgd import RgdState, reweight_by_rgd

__version__ = "0.1.0"

__all__ = [
    "AbsgdState",
    "AlsoScoresState",
    "AlsoState",
    "CvarState",
    "MultiStepsState",
    "PastExtragradientState",
    "Reweighted",
    "RgdState",
    "abadam",
    "absgd",
    "also",
    "contrib",
    "diagnostics",
    "divergences",
    "eval_params",
    "example_weights",
    "group_weights",
    "losses",
    "merge",
    "multi_steps",
    "observe",
    "optimistic_gradient",
    "past_extragradient",
    "reweight",
    "reweight_by_absgd",
    "reweight_by_also",
    "reweight_by_cvar",
    "reweight_by_rgd",
    "rgd",
    "samplers",
    "state_shardings",
    "value_and_grad",
]
