"""What bad input gets: a clear error, when the optimizer is made or when the step is traced."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import also_optax
from also_optax import reweight_by_spectral_risk as spectral_risk
from also_optax import spectra
from tests import problems

TWO = jnp.array([0.5, 1.5])
IDS = jnp.array([0, 1])


def also(**arguments):
    return also_optax.also(**({"learning_rate": 1e-3, "num_groups": 2} | arguments))


def group_dro(**arguments):
    return also_optax.group_dro(**({"learning_rate": 1e-3, "num_groups": 2} | arguments))


def exponentiated_gradient(**arguments):
    return also_optax.reweight_by_exponentiated_gradient(**({"num_examples": 3, "step_size": 0.1} | arguments))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: also(num_groups=0), ValueError, "`num_groups` must be at least 1, got 0"),
        (lambda: also(num_groups=2**31), ValueError, r"`num_groups` must be below 2\*\*31"),
        (lambda: also(num_groups=2.0), TypeError, "`num_groups` must be a Python int, got 2.0"),
        (lambda: also(num_groups=True), TypeError, "`num_groups` must be a Python int"),
        (lambda: also(num_groups=jnp.array(2)), TypeError, "`num_groups` must be a Python int.*static_args"),
        (lambda: also(prior=[0.2, 0.3, 0.5]), ValueError, r"`prior` must have one entry per group, shape \(2,\)"),
        (lambda: also(prior=[-0.2, 1.2]), ValueError, "`prior` must be finite, not negative and not all zero"),
        (lambda: also(prior=[0.0, 0.0]), ValueError, "`prior` must be finite, not negative and not all zero"),
        (lambda: also(prior=[np.nan, 1.0]), ValueError, "`prior` must be finite"),
        (lambda: also(prior=[np.inf, 1.0]), ValueError, "`prior` must be finite"),
        (lambda: also(group_frequencies=[0.0, 1.0]), ValueError, r"positive, .* 0 at \[0\]: leave out"),
        (lambda: also(group_frequencies=[-0.5, 1.5]), ValueError, "`group_frequencies` must be finite, positive, got"),
        (lambda: also(group_frequencies=[1.0]), ValueError, "`group_frequencies` must have one entry per group"),
        (lambda: also(group_frequencies="p"), ValueError, '`group_frequencies` must be None, an array or "pi"'),
        (lambda: also(dual_learning_rate=-1.0), ValueError, "`dual_learning_rate` must be at least 0"),
        (lambda: also(dual_learning_rate=np.nan), ValueError, "`dual_learning_rate` must be at least 0"),
        (lambda: also(dual_learning_rate=[0.1, 0.2]), ValueError, r"must be a scalar, got shape \(2,\).*jax.vmap"),
        (lambda: also(dual_learning_rate=None), TypeError, "`dual_learning_rate` must be at least 0"),
        (lambda: also(kl_penalty=-1e-3), ValueError, "`kl_penalty` must be at least 0"),
        (lambda: also(kl_penalty="small"), TypeError, "`kl_penalty` must be at least 0"),
        (lambda: also(optimism=-1.0), ValueError, "`optimism` must be at least 0"),
        (
            lambda: also(optimism=optax.constant_schedule(1.0)),
            TypeError,
            "`optimism` and `average_decay` must be numbers",
        ),
        (lambda: also(average_decay=1 - 1e-9), ValueError, "in float32 too"),
        (lambda: also(max_loss=np.nan), ValueError, "`max_loss` must be a number"),
        (lambda: also(average_decay=1.0), ValueError, r"`average_decay` must be in \[0, 1\)"),
        (lambda: also(lazy="yes"), TypeError, "`lazy` must be True, False or None, got 'yes'"),
        (lambda: also(lazy=1), TypeError, "`lazy` must be True, False or None, got 1"),
        (lambda: also(lazy=True, lookahead=True), ValueError, "`lazy=True` goes with none of `lookahead`, "),
        (lambda: also(lazy=True, group_frequencies="pi"), ValueError, "`lazy=True` goes with none of"),
        (lambda: also(radius=0.1, kl_penalty=0.1), ValueError, "give one of `kl_penalty`, `radius` and `target_ess`"),
        (lambda: also(radius=0.1, target_ess=1.0), ValueError, "one of `radius` and `target_ess`, got both"),
        (lambda: also(radius=-0.1), ValueError, "`radius` must be at least 0, got -0.1"),
        (lambda: also(target_ess=0.0), ValueError, "`target_ess` must be above 0 and finite, got 0.0"),
        (lambda: also(radius=0.1, lazy=True), ValueError, "`lazy=True` goes with none of"),
        (lambda: also(min_weight=1.0), ValueError, r"`min_weight` must be in \[0, 1\), got 1.0"),
        (lambda: also(min_weight=0.1, radius=0.1), ValueError, "`min_weight` goes with neither `radius` nor"),
        (lambda: also(dual_adam=True, lookahead=True), ValueError, "`dual_adam=True` and `lookahead=True` are two"),
        (
            lambda: also_optax.absgd(0.1),
            ValueError,
            "one of `temperature`, `radius` and `target_ess`, got none",
        ),
        (
            lambda: also_optax.abadam(0.1),
            ValueError,
            "one of `temperature`, `radius` and `target_ess`, got none",
        ),
        (lambda: also_optax.absgd(0.1, temperature=1.0, radius=0.1), ValueError, "got `temperature` and `radius`"),
        (lambda: also_optax.absgd(0.1, radius=np.inf), ValueError, "`radius` must be a finite number, got inf"),
        (lambda: also_optax.absgd(0.1, target_ess=0.5), ValueError, "`target_ess` must be at least 1 in magnitude"),
        (lambda: also_optax.absgd(0.1, temperature=0.0), ValueError, "`temperature` must be a number other than 0"),
        (lambda: also_optax.absgd(0.1, temperature=np.nan), ValueError, "`temperature` must be"),
        (lambda: also_optax.absgd(0.1, temperature=1.0, averaging_rate=0.0), ValueError, r"must be in \(0, 1\]"),
        (lambda: also_optax.absgd(0.1, temperature=1.0, averaging_rate=1.1), ValueError, r"must be in \(0, 1\]"),
        (lambda: also_optax.absgd(0.1, temperature=1.0, max_log_ratio=0.0), ValueError, "must be above 0"),
        (lambda: also_optax.absgd(0.1, temperature={}), TypeError, "`temperature` must be a number other than 0"),
        (lambda: also_optax.rgd(0.1, clip=0.0), ValueError, "`clip` must be above 0 and finite"),
        (lambda: also_optax.rgd(0.1, clip=np.inf), ValueError, "`clip` must be above 0 and finite"),
        (lambda: also_optax.rgd(0.1, divergence=jnp.exp), TypeError, r"`divergence` must be one of .*kl, chi2"),
        (lambda: group_dro(num_groups=2.0), TypeError, "`num_groups` must be a Python int"),
        (lambda: group_dro(step_size=-0.1), ValueError, "`step_size` must be at least 0 and finite"),
        (lambda: group_dro(adjustment=1.0), ValueError, "`adjustment` needs `group_counts`"),
        (lambda: group_dro(adjustment=jnp.array(0.0)), ValueError, "`adjustment` needs `group_counts`"),
        (lambda: group_dro(adjustment=-1.0, group_counts=[9, 1]), ValueError, "`adjustment` must be at least 0"),
        (lambda: group_dro(group_counts=[9, 1, 1]), ValueError, r"`group_counts` must have one entry .*\(2,\)"),
        (lambda: group_dro(group_counts=[0.9, 0.1]), ValueError, "numbers of examples and not frequencies"),
        (lambda: group_dro(group_counts=[9, np.nan]), ValueError, "`group_counts` must be finite and at least 1"),
        (lambda: group_dro(average_decay=1.0), ValueError, r"`average_decay` must be in \[0, 1\)"),
        (lambda: group_dro(average_decay=lambda step: 0.9), TypeError, "`average_decay` must be a number"),
        (lambda: group_dro(prior=[0.0, 0.0]), ValueError, "`prior` must be finite, not negative and not all zero"),
        (lambda: also_optax.reweight_by_doremi(0), ValueError, "`num_groups` must be at least 1"),
        (lambda: also_optax.reweight_by_doremi(2, smoothing=1.1), ValueError, r"`smoothing` must be in \[0, 1\]"),
        (lambda: also_optax.reweight_by_doremi(2, step_size=np.inf), ValueError, "`step_size` must be at least 0"),
        (lambda: also_optax.reweight_by_doremi(2, prior=[0, 1]), ValueError, "`prior` must be finite, positive"),
        (lambda: exponentiated_gradient(num_examples=2.0), TypeError, "`num_examples` must be a Python int"),
        (lambda: exponentiated_gradient(num_examples=2**31), ValueError, r"`num_examples` must be below 2\*\*31"),
        (lambda: exponentiated_gradient(step_size=-1.0), ValueError, "`step_size` must be at least 0 and finite"),
        (lambda: exponentiated_gradient(lazy=1), TypeError, "`lazy` must be True, False or None, got 1"),
        (lambda: exponentiated_gradient(prior=[1, 2]), ValueError, "`prior` must have one entry per group"),
        (lambda: also_optax.tilted(0.1, t=np.inf), ValueError, "`t` must be finite"),
        (lambda: also_optax.tilted(0.1, t=np.nan), ValueError, "`t` must be finite"),
        (lambda: also_optax.tilted(0.1, t=1.0, averaging_rate=0.0), ValueError, r"must be in \(0, 1\]"),
        (lambda: also_optax.tilted(0.1, t=1.0, num_groups=0), ValueError, "`num_groups` must be at least 1"),
        (lambda: also_optax.tilted(0.1, t=1.0, group_frequencies=[1, 1]), ValueError, "needs `num_groups`"),
        (
            lambda: also_optax.tilted(0.1, t=1.0, num_groups=2, group_frequencies=[0, 1]),
            ValueError,
            "`group_frequencies` must be finite, positive",
        ),
        (lambda: also_optax.cvar(0.1, alpha=0.0), ValueError, r"`alpha` must be in \(0, 1\], got 0.0"),
        (lambda: also_optax.reweight_by_cvar(1.1), ValueError, r"`alpha` must be in \(0, 1\]"),
        (lambda: also_optax.reweight_by_kl_cvar(np.nan, 1.0), ValueError, r"`alpha` must be in \(0, 1\]"),
        (lambda: also_optax.reweight_by_kl_cvar(0.5, -1.0), ValueError, "`penalty` must be at least 0"),
        (lambda: also_optax.reweight_by_chi2(), ValueError, "exactly one of `penalty` and `radius`, got none"),
        (lambda: also_optax.reweight_by_chi2(penalty=1.0, radius=1.0), ValueError, "exactly one .*got both"),
        (lambda: also_optax.reweight_by_chi2(penalty=-1.0), ValueError, "`penalty` must be at least 0"),
        (lambda: also_optax.reweight_by_chi2(radius=np.nan), ValueError, "`radius` must be at least 0"),
        (lambda: spectra.superquantile(0.0), ValueError, r"`alpha` must be in \(0, 1\]"),
        (lambda: spectra.extremile(0.5), ValueError, "`r` must be at least 1 and finite"),
        (lambda: spectra.esrm(np.inf), ValueError, "`rho` must be at least 0 and finite"),
        (lambda: spectral_risk(jnp.exp), TypeError, "`spectrum` must be one of also_optax.spectra"),
        (lambda: spectral_risk(2.0), TypeError, "`spectrum` must be one of also_optax.spectra"),
        (lambda: spectral_risk([[0.5, 0.5]]), ValueError, r"one mass per rank, shape \[n\], got shape \(1, 2\)"),
        (lambda: spectral_risk([0.6, 0.4]), ValueError, "`spectrum` must be finite, not negative, ascending"),
        (lambda: spectral_risk([-0.5, 1.5]), ValueError, "`spectrum` must be finite, not negative, ascending"),
        (lambda: spectral_risk([0.0, 0.0]), ValueError, "`spectrum` must be finite, .* not all zero"),
        (lambda: spectral_risk([0.5, np.nan]), ValueError, "`spectrum` must be finite"),
        (lambda: spectral_risk([1.0], smoothing="l2", penalty=1.0), ValueError, '`smoothing` must be None, "chi2" or'),
        (lambda: spectral_risk([1.0], smoothing="kl"), ValueError, "give `penalty` and `smoothing` together"),
        (lambda: spectral_risk([1.0], penalty=1.0), ValueError, "give `penalty` and `smoothing` together"),
        (lambda: spectral_risk([1.0], penalty=-1.0, smoothing="kl"), ValueError, "`penalty` must be at least 0"),
        (lambda: also(optimism=-0.5), ValueError, "`optimism` must be at least 0 and finite"),
        (lambda: also_optax.past_extragradient(optax.sgd(0.1), -1.0), ValueError, "`optimism` must be at least 0"),
        (lambda: also_optax.multi_steps(also(), 0), ValueError, "`every_k` must be at least 1"),
        (lambda: also_optax.multi_steps(also(), 1.5), TypeError, "`every_k` must be a Python int"),
        (
            lambda: also_optax.multi_steps(optax.sgd(0.1), 2).init(problems.init_params()),
            ValueError,
            "found no rule state",
        ),
    ],
)
def test_a_wrong_argument_is_named_with_what_it_must_be(make, error, message):
    with pytest.raises(error, match=message):
        make()


NOT_NEGATIVE = ([0.0, 0.25, 3.0], [-1e-3, -0.5, -3.0, np.inf, np.nan])
NOT_NEGATIVE_OR_INFINITE = ([0.0, 0.25, 3.0, np.inf], [-1e-3, -0.5, -3.0, np.nan])
POSITIVE = ([1e-3, 0.25, 3.0], [0.0, -0.5, -3.0, np.inf, np.nan])
POSITIVE_OR_INFINITE = ([1e-3, 0.25, 3.0, np.inf], [0.0, -0.5, -3.0, np.nan])
SHARE = ([1e-3, 0.5, 1.0], [0.0, -0.5, -3.0, 1.001, 3.0, np.inf, np.nan])
SHARE_OR_NOTHING = ([0.0, 1e-3, 0.5, 1.0], [-1e-3, -0.5, -3.0, 1.001, 3.0, np.inf, np.nan])
BELOW_ONE = ([0.0, 1e-3, 0.5, 0.999], [-1e-3, -0.5, -3.0, 1.0, 3.0, np.inf, np.nan])
FINITE = ([-3.0, 0.0, 0.5, 3.0], [-np.inf, np.inf, np.nan])
TEMPERATURE = ([-np.inf, -3.0, -1e-3, 1e-3, 1.0, np.inf], [0.0, np.nan])
NUMBERS = {
    "also dual_learning_rate": (also, NOT_NEGATIVE),
    "also kl_penalty": (also, NOT_NEGATIVE),
    "also radius": (also, NOT_NEGATIVE_OR_INFINITE),
    "also target_ess": (also, POSITIVE),
    "also optimism": (also, NOT_NEGATIVE),
    "also average_decay": (also, BELOW_ONE),
    "also min_weight": (also, BELOW_ONE),
    "absgd temperature": (also_optax.reweight_by_absgd, TEMPERATURE),
    "absgd radius": (also_optax.reweight_by_absgd, FINITE),
    "absgd target_ess": (
        also_optax.reweight_by_absgd,
        ([-3.0, -1.0, 1.0, 1.5, 3.0], [-np.inf, -0.5, 0.0, 0.5, 0.999, np.inf, np.nan]),
    ),
    "absgd averaging_rate": (functools.partial(also_optax.reweight_by_absgd, 1.0), SHARE),
    "absgd max_log_ratio": (functools.partial(also_optax.reweight_by_absgd, 1.0), POSITIVE_OR_INFINITE),
    "rgd clip": (also_optax.reweight_by_rgd, POSITIVE),
    "group_dro step_size": (group_dro, NOT_NEGATIVE),
    "group_dro adjustment": (functools.partial(group_dro, group_counts=[9, 1]), NOT_NEGATIVE),
    "group_dro average_decay": (group_dro, BELOW_ONE),
    "doremi step_size": (functools.partial(also_optax.reweight_by_doremi, 2), NOT_NEGATIVE),
    "doremi smoothing": (functools.partial(also_optax.reweight_by_doremi, 2), SHARE_OR_NOTHING),
    "exponentiated_gradient step_size": (exponentiated_gradient, NOT_NEGATIVE),
    "tilted t": (also_optax.reweight_by_tilted, FINITE),
    "tilted averaging_rate": (functools.partial(also_optax.reweight_by_tilted, 1.0), SHARE),
    "tilted_groups averaging_rate": (functools.partial(also_optax.reweight_by_tilted, 1.0, num_groups=2), SHARE),
    "cvar alpha": (also_optax.reweight_by_cvar, SHARE),
    "kl_cvar alpha": (functools.partial(also_optax.reweight_by_kl_cvar, penalty=1.0), SHARE),
    "kl_cvar penalty": (functools.partial(also_optax.reweight_by_kl_cvar, 0.5), NOT_NEGATIVE_OR_INFINITE),
    "chi2 penalty": (also_optax.reweight_by_chi2, NOT_NEGATIVE_OR_INFINITE),
    "chi2 radius": (also_optax.reweight_by_chi2, NOT_NEGATIVE_OR_INFINITE),
    "spectral_risk penalty": (functools.partial(spectral_risk, [1.0], smoothing="kl"), NOT_NEGATIVE_OR_INFINITE),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_a_number_is_taken_up_to_the_end_of_its_range_and_not_beyond(case):
    make, (right, wrong) = NUMBERS[case]
    name = case.split()[1]
    for value in right:
        make(**{name: value})
    for value in wrong:
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            make(**{name: value})


DEFAULTS = [
    (
        lambda: also_optax.reweight_by_also(2),
        {"dual_learning_rate": 1e-3, "kl_penalty": 1e-2, "optimism": 1.0, "average_decay": 0.99},
    ),
    (lambda: also_optax.reweight_by_also(2, radius=0.1), {"kl_penalty": 0.0}),
    (lambda: also_optax.reweight_by_absgd(1.0), {"averaging_rate": 0.9, "max_log_ratio": 10.0}),
    (also_optax.reweight_by_rgd, {"clip": 1.0}),
    (
        lambda: also_optax.reweight_by_group_dro(2),
        {"step_size": 0.01, "adjustment": 0.0, "average_decay": 0.9},
    ),
    (lambda: also_optax.reweight_by_doremi(2), {"step_size": 1.0, "smoothing": 1e-3}),
    (lambda: also_optax.reweight_by_tilted(1.0), {"averaging_rate": 1.0}),
    (lambda: also_optax.reweight_by_tilted(1.0, num_groups=2), {"averaging_rate": 1.0}),
    (lambda: spectral_risk([1.0]), {"penalty": 0.0}),
]


@pytest.mark.parametrize(("make", "settings"), DEFAULTS)
def test_a_rule_has_the_settings_of_its_paper_where_none_are_given(make, settings):
    hyperparams = make().init(None).hyperparams
    for name, value in ({"max_loss": np.inf} | settings).items():
        np.testing.assert_allclose(getattr(hyperparams, name), value, rtol=1e-6)


def test_group_counts_begin_at_one_example():
    group_dro(group_counts=[9, 1])
    with pytest.raises(ValueError, match="`group_counts` must be finite and at least 1"):
        group_dro(group_counts=[9, 0.999])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, TypeError, "needs the batch's `losses`"),
        ({"losses": TWO}, TypeError, "weighs groups and needs the batch's `groups`"),
        ({"losses": jnp.array(1.0), "groups": IDS}, ValueError, "per-example.*Was it averaged"),
        ({"losses": IDS, "groups": IDS}, TypeError, "`losses` must be floating point"),
        ({"losses": TWO, "groups": TWO}, TypeError, "`groups` must be integer ids, got dtype float.*return_inverse"),
        ({"losses": TWO, "groups": jnp.array([0, 1, 1])}, ValueError, r"leading shape of `losses`, here \(2,\)"),
        ({"losses": TWO, "groups": jnp.array([[0], [1]])}, ValueError, r"leading shape of `losses`.*argmax\(-1\)"),
        ({"losses": TWO, "groups": jnp.array(0)}, ValueError, "leading shape of `losses`"),
        ({"losses": TWO, "groups": IDS, "where": IDS}, TypeError, "`where` must be a bool mask.*astype"),
        ({"losses": TWO, "groups": IDS, "where": IDS[:1] > 0}, ValueError, "`where` must have the leading shape"),
        ({"losses": jnp.ones((3, 2)), "groups": IDS}, ValueError, r"here \(3, 2\), got shape \(2,\)"),
    ],
)
def test_a_wrong_batch_is_an_error_on_both_sides_when_traced(arguments, error, message):
    tx = also()
    params = problems.init_params()
    opt_state = tx.init(params)
    with pytest.raises(error, match=message):
        jax.jit(tx.update)(params, opt_state, params, **arguments)
    if "losses" in arguments:
        with pytest.raises(error, match=message):
            jax.jit(lambda **kw: also_optax.reweight(opt_state, **kw)[0])(**arguments)


@pytest.mark.parametrize("rule", [also_optax.reweight_by_absgd(1.0), also_optax.reweight_by_rgd()])
def test_missing_losses_name_the_rule(rule):
    with pytest.raises(TypeError, match=r"`reweight_by_(absgd|rgd)` needs the batch's `losses`: call `tx.update"):
        rule.update(None, rule.init(None), None)


def test_a_traced_hyperparameter_passes_where_a_number_would_be_checked():
    def weights(temperature):
        return also_optax.example_weights(also_optax.absgd(0.1, temperature=temperature).init(None), TWO)

    np.testing.assert_allclose(jax.jit(weights)(1.0), weights(1.0), rtol=1e-6)


def test_a_look_ahead_of_another_tree_is_an_error():
    tx = optax.flatten(also(lookahead=True))
    params = problems.init_params()
    with pytest.raises(ValueError, match="not of the tree of `params`"):
        also_optax.eval_params(tx.init(params), params)
