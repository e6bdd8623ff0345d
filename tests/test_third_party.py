"""Solvers of the `dro` package find the same optima: ``pip install -e '.[test,oracle]'``, then ``pytest -m slow``."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import optax
import pytest

import also_optax
from tests.reference import chi2 as reference_chi2
from tests.test_optima import decaying, grouped, trained

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("x64"),
    pytest.mark.skipif(importlib.util.find_spec("dro") is None, reason="needs the extra `oracle`"),
]
RADIUS, ALPHA = 0.2, 0.3


def robust_value_of(name, settings, update):
    """The optimum and the parameters that `dro` finds on the four groups, without l2."""
    command = [sys.executable, "-m", "tests._third_party", name, json.dumps(settings), json.dumps(update)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    value, params = json.loads(output.splitlines()[-1])
    return value, np.array(params)


def without_l2():
    return grouped()._replace(l2=0.0)


@pytest.mark.parametrize("rule", ["also", "absgd"])
def test_the_kl_ball(rule):
    value, expected = robust_value_of("KLDRO", {"solver": "SCS"}, {"eps": RADIUS})
    rate = decaying(0.05, 1500)
    if rule == "also":
        tx = also_optax.also(rate, 2000, dual_learning_rate=10.0, radius=RADIUS, weight_decay=0.0)
    else:
        tx = also_optax.abadam(rate, radius=RADIUS, averaging_rate=1.0, weight_decay=0.0)
    params, _, _ = trained(without_l2(), tx, 1500, np.arange(2000))
    losses = grouped().losses(params)
    state = also_optax.reweight_by_absgd(radius=RADIUS, averaging_rate=1.0).init(None)
    weights = np.asarray(also_optax.example_weights(state, losses))
    assert abs(np.mean(weights * losses) - value) < 1e-4
    np.testing.assert_allclose(params, expected, atol=5e-3)


def test_the_chi2_ball():
    """Whose chi-square is twice ours."""
    value, expected = robust_value_of("Chi2DRO", {}, {"eps": 2 * RADIUS})
    tx = optax.chain(also_optax.reweight_by_chi2(radius=RADIUS), optax.adam(decaying(0.1, 4000)))
    params, _, _ = trained(without_l2(), tx, 4000)
    assert abs(reference_chi2.ball_value(grouped().losses(params), RADIUS) - value) < 1e-5
    np.testing.assert_allclose(params, expected, atol=5e-3)


def test_cvar():
    value, _ = robust_value_of("CVaRDRO", {}, {"alpha": ALPHA})
    params, _, _ = trained(without_l2(), also_optax.cvar(decaying(0.05, 6000, 1e-6), alpha=ALPHA), 6000)
    worst = np.sort(grouped().losses(params))[-int(ALPHA * 2000) :]
    assert abs(worst.mean() - value) < 1e-5
