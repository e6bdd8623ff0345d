"""Distributionally robust optimizers for JAX, as optax gradient transformations.

A *rule* (``reweight_by_*``) carries an adversary in the optimizer's state and leaves the gradients alone;
:func:`reweight` reads each example's weight from that state, inside the loss. Ready-made optimizers chain a rule with
the primal step of its paper: :func:`also`, :func:`absgd`, :func:`abadam`, :func:`rgd`, :func:`cvar`, :func:`group_dro`,
:func:`tilted`.
"""

from also_optax import base, checkpoints, contrib, divergences, losses, plotting, samplers, spectra, testing
from also_optax._accumulation import MultiStepsState, multi_steps
from also_optax._alias import abadam, absgd, also, cvar, group_dro, rgd, tilted
from also_optax._base import Reweighted
from also_optax._diagnostics import diagnostics
from also_optax._optimism import PastExtragradientState, eval_params, optimistic_gradient, past_extragradient
from also_optax._read import example_weights, group_weights, merge, observe, reweight, value_and_grad
from also_optax._sharding import state_shardings
from also_optax.rules.absgd import AbsgdState, reweight_by_absgd
from also_optax.rules.also import AlsoState, reweight_by_also
from also_optax.rules.also_scores import AlsoScoresState
from also_optax.rules.chi2 import Chi2BallState, Chi2PenaltyState, reweight_by_chi2
from also_optax.rules.cvar import CvarState, reweight_by_cvar
from also_optax.rules.doremi import DoremiState, reweight_by_doremi
from also_optax.rules.exponentiated_gradient import ExponentiatedGradientState, reweight_by_exponentiated_gradient
from also_optax.rules.group_dro import GroupDroState, reweight_by_group_dro
from also_optax.rules.kl_cvar import KlCvarState, reweight_by_kl_cvar
from also_optax.rules.rgd import RgdState, reweight_by_rgd
from also_optax.rules.spectral_risk import SpectralRiskState, reweight_by_spectral_risk
from also_optax.rules.tilted import TiltedState, reweight_by_tilted

__version__ = "0.1.0"

__all__ = [
    "AbsgdState",
    "AlsoScoresState",
    "AlsoState",
    "Chi2BallState",
    "Chi2PenaltyState",
    "CvarState",
    "DoremiState",
    "ExponentiatedGradientState",
    "GroupDroState",
    "KlCvarState",
    "MultiStepsState",
    "PastExtragradientState",
    "Reweighted",
    "RgdState",
    "SpectralRiskState",
    "TiltedState",
    "abadam",
    "absgd",
    "also",
    "base",
    "checkpoints",
    "contrib",
    "cvar",
    "diagnostics",
    "divergences",
    "eval_params",
    "example_weights",
    "group_dro",
    "group_weights",
    "losses",
    "merge",
    "multi_steps",
    "observe",
    "optimistic_gradient",
    "past_extragradient",
    "plotting",
    "reweight",
    "reweight_by_absgd",
    "reweight_by_also",
    "reweight_by_chi2",
    "reweight_by_cvar",
    "reweight_by_doremi",
    "reweight_by_exponentiated_gradient",
    "reweight_by_group_dro",
    "reweight_by_kl_cvar",
    "reweight_by_rgd",
    "reweight_by_spectral_risk",
    "reweight_by_tilted",
    "rgd",
    "samplers",
    "spectra",
    "state_shardings",
    "testing",
    "tilted",
    "value_and_grad",
]
