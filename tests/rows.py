"""Every rule and every ready-made optimizer, one row each, for tests that are the same for all."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import optax
import pytest

import also_optax
from also_optax.testing._candidate import Candidate
from tests import problems


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """A transformation under contract: `make(**hyperparams)`, with scalars that may be traced or scheduled.

    A variant is another setting of a rule that has a row of its own: it is left to the nightly profile.
    """

    make: Callable[..., optax.GradientTransformationExtraArgs]
    hyperparams: dict[str, float]
    groups: bool = False
    variant: bool = False
    memory: bool = True

    @functools.cached_property
    def rule(self) -> Candidate:
        """As a rule for the published contract."""
        return Candidate(self.make, self.hyperparams, self.memory, view=problems.outside)

    @functools.cached_property
    def optimizer(self) -> Candidate:
        """As an optimizer for the published contract."""
        return dataclasses.replace(self.rule, primal=None)


def _also_rule(**hyperparams: Any) -> optax.GradientTransformationExtraArgs:
    return also_optax.reweight_by_also(
        problems.NUM_GROUPS, prior=problems.PRIOR, group_frequencies=problems.FREQUENCIES, **hyperparams
    )


def _also(**hyperparams: Any) -> optax.GradientTransformationExtraArgs:
    hyperparams = {"learning_rate": 0.02, "num_groups": problems.NUM_GROUPS, "prior": problems.PRIOR} | hyperparams
    return also_optax.also(**hyperparams)


def by_scores(make: Any) -> Any:
    """`make` in the form that otherwise begins at fifty thousand groups."""

    def make_by_scores(**hyperparams: Any) -> optax.GradientTransformationExtraArgs:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("also_optax.rules.also.LARGEST_TABLES", 0)
            return make(lazy=False, **hyperparams)

    return make_by_scores


def _exponentiated_gradient(**hyperparams: Any) -> optax.GradientTransformationExtraArgs:
    return also_optax.reweight_by_exponentiated_gradient(problems.NUM_GROUPS, prior=problems.PRIOR, **hyperparams)


def _group_dro(make: Any) -> Any:
    """`make` with the small groups' adjustment."""
    return functools.partial(make, num_groups=problems.NUM_GROUPS, group_counts=10 * problems.FREQUENCIES)


def _spectral_risk(r: Any, **settings: Any) -> optax.GradientTransformationExtraArgs:
    return also_optax.reweight_by_spectral_risk(also_optax.spectra.extremile(r), **settings)


ALSO = {"dual_learning_rate": 0.3, "kl_penalty": 0.5}
GROUP_DRO = {"step_size": 0.2, "adjustment": 2.0}
ABSGD = {"temperature": 3.0, "averaging_rate": 0.4}
TILTED = {"t": 0.3, "averaging_rate": 0.4}
RULES = {
    "also": Row(_also_rule, ALSO, groups=True),
    "also_without_optimism": Row(functools.partial(_also_rule, optimism=0), ALSO, groups=True, variant=True),
    "also_by_sums": Row(
        functools.partial(also_optax.reweight_by_also, problems.NUM_GROUPS), ALSO, groups=True, variant=True
    ),
    "also_drawn_by_pi": Row(  # gently: these batches are not drawn from pi, and 1/pi of a vanishing group explodes
        functools.partial(also_optax.reweight_by_also, problems.NUM_GROUPS, group_frequencies="pi"),
        {"dual_learning_rate": 0.01, "kl_penalty": 0.5},
        groups=True,
        variant=True,
        memory=False,
    ),
    "also_without_average": Row(functools.partial(_also_rule, average_decay=None), ALSO, groups=True, variant=True),
    "also_lookahead": Row(functools.partial(_also_rule, lookahead=True), ALSO, groups=True),
    "also_lazy": Row(functools.partial(_also_rule, lazy=True), ALSO, groups=True),
    "also_by_scores": Row(by_scores(_also_rule), ALSO, groups=True, variant=True),
    "also_in_a_ball": Row(_also_rule, {"dual_learning_rate": 0.3, "radius": 0.1}, groups=True, variant=True),
    "also_with_adam": Row(functools.partial(_also_rule, dual_adam=True), ALSO, groups=True, variant=True),
    "also_above_a_floor": Row(_also_rule, ALSO | {"min_weight": 0.4}, groups=True, variant=True),
    "absgd": Row(also_optax.reweight_by_absgd, ABSGD),
    "absgd_in_a_ball": Row(also_optax.reweight_by_absgd, {"radius": 0.2, "averaging_rate": 0.4}, variant=True),
    "absgd_for_label_noise": Row(
        also_optax.reweight_by_absgd, {"temperature": -2.0, "averaging_rate": 0.4}, variant=True
    ),
    "rgd": Row(also_optax.reweight_by_rgd, {"clip": 2.0}, memory=False),
    "rgd_chi2": Row(
        functools.partial(also_optax.reweight_by_rgd, divergence=also_optax.divergences.chi2),
        {"clip": 2.0},
        variant=True,
        memory=False,
    ),
    "group_dro": Row(_group_dro(also_optax.reweight_by_group_dro), GROUP_DRO, groups=True),
    "doremi": Row(
        functools.partial(also_optax.reweight_by_doremi, problems.NUM_GROUPS, prior=problems.PRIOR),
        {"step_size": 0.3, "smoothing": 0.01},
        groups=True,
    ),
    "exponentiated_gradient": Row(_exponentiated_gradient, {"step_size": 0.1}, groups=True),
    "exponentiated_gradient_lazy": Row(
        functools.partial(_exponentiated_gradient, lazy=True), {"step_size": 0.1}, groups=True, variant=True
    ),
    "tilted": Row(also_optax.reweight_by_tilted, TILTED, variant=True),
    "tilted_groups": Row(
        functools.partial(
            also_optax.reweight_by_tilted, num_groups=problems.NUM_GROUPS, group_frequencies=problems.FREQUENCIES
        ),
        TILTED,
        groups=True,
    ),
    "cvar": Row(also_optax.reweight_by_cvar, {"alpha": 0.4}, memory=False),
    "kl_cvar": Row(also_optax.reweight_by_kl_cvar, {"alpha": 0.4, "penalty": 2.0}, variant=True, memory=False),
    "chi2_penalty": Row(also_optax.reweight_by_chi2, {"penalty": 3.0}, variant=True, memory=False),
    "chi2_ball": Row(also_optax.reweight_by_chi2, {"radius": 0.4}, memory=False),
    "spectral_risk": Row(_spectral_risk, {"r": 2.5}, memory=False),
    "spectral_risk_chi2": Row(
        functools.partial(_spectral_risk, smoothing="chi2"), {"r": 2.5, "penalty": 0.5}, variant=True, memory=False
    ),
    "spectral_risk_kl": Row(
        functools.partial(_spectral_risk, smoothing="kl"), {"r": 2.5, "penalty": 0.5}, variant=True, memory=False
    ),
}
OPTIMIZERS = {
    "also": Row(_also, ALSO, groups=True),
    "also_lookahead": Row(functools.partial(_also, lookahead=True), ALSO, groups=True),
    "also_lazy": Row(functools.partial(_also, lazy=True), ALSO, groups=True, variant=True),
    "absgd": Row(functools.partial(also_optax.absgd, 0.01), ABSGD),
    "abadam": Row(functools.partial(also_optax.abadam, 0.02), ABSGD, variant=True),
    "rgd": Row(functools.partial(also_optax.rgd, 0.02), {"clip": 2.0}),
    "group_dro_optimizer": Row(_group_dro(functools.partial(also_optax.group_dro, 0.01)), GROUP_DRO, groups=True),
    "tilted_optimizer": Row(functools.partial(also_optax.tilted, 0.02), TILTED, variant=True),
    "cvar": Row(functools.partial(also_optax.cvar, 0.02), {"alpha": 0.4}),
}


def each(rows: dict[str, Row]) -> pytest.MarkDecorator:
    """All rows; variants are for the nightly profile."""
    marks = {name: [pytest.mark.slow] * row.variant for name, row in rows.items()}
    return pytest.mark.parametrize("row", [pytest.param(rows[name], id=name, marks=marks[name]) for name in rows])


rules, optimizers = each(RULES), each(OPTIMIZERS)


def with_sgd(row: Row, **hyperparams: Any) -> optax.GradientTransformationExtraArgs:
    return optax.chain(row.make(**(row.hyperparams | hyperparams)), optax.sgd(0.01))
