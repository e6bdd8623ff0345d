"""Methods that are no rules: they need full gradients, or two gradients a step, so they have interfaces of their own.

:func:`mirror_prox` solves a small game of the kind of ALSO's to a given gap; :func:`recover` is KL-regularised DRO with
variance reduction. What is here may change more than the rest of the package.
"""

from also_optax.contrib._mirror_prox import MirrorProxResult, mirror_prox
from also_optax.contrib._recover import Recover, RecoverState, recover

__all__ = ["MirrorProxResult", "Recover", "RecoverState", "mirror_prox", "recover"]
