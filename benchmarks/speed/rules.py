"""Part f: the weights of a rule that looks at the whole batch, against a sort of the batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import also_optax
from also_optax import spectra
from benchmarks import records
from benchmarks.speed.cases import Case, Protocol
from benchmarks.speed.timing import Program, in_turns

RULES: dict[str, Callable[[], Any]] = {
    "cvar": lambda: also_optax.reweight_by_cvar(0.1),
    "kl_cvar": lambda: also_optax.reweight_by_kl_cvar(0.1, 0.5),
    "chi2_penalty": lambda: also_optax.reweight_by_chi2(penalty=2.0),
    "chi2_ball": lambda: also_optax.reweight_by_chi2(radius=1.0),
    "spectral_risk": lambda: also_optax.reweight_by_spectral_risk(spectra.extremile(3.0)),
    "spectral_risk_chi2": lambda: _smoothed(spectra.extremile(3.0), "chi2"),
    "spectral_risk_kl": lambda: _smoothed(spectra.extremile(3.0), "kl"),
    "superquantile_chi2": lambda: _smoothed(spectra.superquantile(0.1), "chi2"),
    "superquantile_kl": lambda: _smoothed(spectra.superquantile(0.1), "kl"),
}
"""A step in the spectrum is what pooling by rounds would be slowest at, so both kinds are here."""


def _smoothed(spectrum: spectra.Spectrum, smoothing: Any) -> Any:
    return also_optax.reweight_by_spectral_risk(spectrum, penalty=0.5, smoothing=smoothing)


def measure(case: Case, protocol: Protocol, on_pair: Callable[[float], object]) -> records.Line:
    """The line of `case`."""
    assert case.batch is not None  # noqa: S101 (all cases of this part have it)
    rng = np.random.default_rng(0)
    batches = [jnp.array(rng.exponential(size=case.batch), jnp.float32) for _ in range(4)]
    state = RULES[case.method]().init(None)
    sort, weigh = jax.jit(jnp.sort), jax.jit(also_optax.example_weights)
    first = Program(lambda _, losses: sort(losses), lambda: None, batches)
    second = Program(lambda _, losses: weigh(state, losses), lambda: None, batches)
    return in_turns(first, second, protocol.effort, on_pair).line()
