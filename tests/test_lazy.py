"""Weights that are touched only at the batch's entries, against all of them in float64."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import also_optax
from also_optax import _histogram
from also_optax._histogram import Window

B = 64
WITHOUT_TEMPORARIES = pytest.mark.skipif(
    jax.__version_info__ < (0, 9), reason="the compiler of jax 0.8 keeps a temporary of the table's size"
)


def dense(batches, losses, prior, eta, tau, optimism):
    """The rule's equations on all weights, float64, one exponential for each in every step: log pi and the tilt."""
    tilt, previous = np.zeros(prior.size), None
    for ids, batch in zip(batches, losses, strict=True):
        gradient = np.zeros(prior.size)
        inside = ids >= 0
        np.add.at(gradient, ids[inside], batch[inside] * prior.size / inside.sum())
        previous = gradient if previous is None else previous
        tilt = (tilt + eta * ((1 + optimism) * gradient - optimism * previous)) / (1 + eta * tau)
        previous = gradient
    with np.errstate(divide="ignore"):
        log_weights = np.log(prior) + tilt
    peak = log_weights.max()
    return log_weights - peak - np.log(np.exp(log_weights - peak).sum()), tilt


@functools.cache
def _runner(size, optimism, lazy, with_prior):
    def make(prior, eta, tau):
        return also_optax.reweight_by_also(
            size,
            dual_learning_rate=eta,
            kl_penalty=tau,
            optimism=optimism,
            prior=prior if with_prior else None,
            lazy=lazy,
        )

    @jax.jit
    def run(batches, losses, prior, eta, tau):
        tx = make(prior, eta, tau)

        def step(state, batch):
            ids, losses = batch
            return tx.update(None, state, losses=losses, groups=ids)[1], None

        return jax.lax.scan(step, tx.init(None), (batches, losses))[0]

    return run


def check(batches, losses, *, size, eta, tau, optimism=1.0, prior=None, lazy=True, visits=1):
    """Both ways on the same floats; returns the state."""
    eta, tau = np.float32(eta), np.float32(tau)
    batches, losses = batches.astype(np.int32), losses.astype(np.float32)
    weights = np.full(size, 1 / size) if prior is None else prior / prior.sum()
    expected, tilt = dense(batches, losses.astype(np.float64), weights, float(eta), float(tau), float(optimism))
    run = _runner(size, optimism, lazy, prior is not None)
    state = run(batches, losses, jnp.asarray(weights, jnp.float32), eta, tau)
    found = np.asarray(state.log_prior + state.scores.log_ratios(state.step), np.float64)
    seen = expected > np.log(1e-30)
    error = np.abs(found[seen] - expected[seen]).max()
    digits = 1.2e-7 * np.abs(expected[seen]).max()
    bar = 1e-6 + digits + 5e-7 * np.abs(tilt[weights > 0]).max() * np.sqrt(visits)
    assert error <= bar, (error, bar)
    assert (np.asarray(also_optax.group_weights(state))[~seen] <= 1e-29).all()
    return state


def epochs(rng, size, count, batch=B):
    """Indices of `count` passes without replacement."""
    each = size // batch
    return np.concatenate([rng.permutation(size)[: each * batch].reshape(each, batch) for _ in range(count)])


SIZE = 20_000
MARKS = [1e-5, 1e-4, 1e-3, 1e-2]


@pytest.mark.parametrize("optimism", [0, 1.0])
@pytest.mark.parametrize("tau", [1e-3, 1e-2, 1e-1, 1.0])
@pytest.mark.parametrize("eta", MARKS)
def test_twenty_epochs_of_one_weight_per_example(eta, tau, optimism):
    rng = np.random.default_rng(0)
    batches = epochs(rng, SIZE, 20, batch=256)
    losses = rng.gamma(1.0, 1.0, SIZE)[batches] * rng.uniform(0.5, 1.5, batches.shape)
    state = check(batches, losses, size=SIZE, eta=eta, tau=tau, optimism=optimism)
    assert_counts_are_exact(state)


def assert_counts_are_exact(state):
    """The bins hold the entries that the table has there, after any number of moves."""
    window = Window(*np.asarray(state.scores.histogram.window, np.float64))
    bins = np.floor(np.asarray(state.scores.values, np.float64) * 2.0**-window.exponent) - window.lowest
    counted = np.bincount(bins[bins >= 0].astype(int), minlength=_histogram.BINS)
    np.testing.assert_array_equal(np.asarray(state.scores.histogram.moments)[:, 0].sum(axis=0), counted)
    assert (bins >= 0).all() or window.whole == 0


N = 3_000


def _problem(name):
    rng = np.random.default_rng(len(name))
    batches = epochs(rng, N, 6)
    noise = rng.uniform(0.9, 1.1, batches.shape)
    settings = {"size": N, "eta": 3e-3, "tau": 0.05}
    match name:
        case "clusters":
            losses = np.where(batches % 3 == 0, 5.0, 0.01) * (1 + 1e-4 * noise)
        case "ties":
            losses = np.full(batches.shape, 0.7)
        case "an outlier":
            losses = noise * np.where(batches == 17, 1000.0, 1.0)
        case "a prior":
            losses, settings["prior"] = noise, rng.gamma(0.3, 1.0, N) + 1e-9
        case "a prior with zeros":
            losses, settings["prior"] = noise * (batches % 5), rng.uniform(0, 1, N) * (np.arange(N) % 3 > 0)
        case "negative losses":
            losses = -noise * rng.gamma(1.0, 1.0, N)[batches]
        case "losses of both signs":
            losses = 4 * rng.normal(size=batches.shape)
        case "repeats within a batch":
            batches = rng.integers(0, N, batches.shape)
            batches[:, 1] = batches[:, 0]
            batches[:, 5:9] = batches[:, :1]
            losses = rng.gamma(1.0, 1.0, N)[batches]
        case "the same batch over and over":
            batches = np.repeat(batches[:3], 60, axis=0)
            losses, settings["visits"] = rng.gamma(1.0, 1.0, N)[batches], 60
        case "padding":
            losses = noise * (batches % 7)
            batches = np.where(rng.random(batches.shape) < 0.4, -1, batches)
        case "all examples in a batch":
            batches = np.stack([rng.permutation(N) for _ in range(20)])
            losses, settings["visits"] = rng.gamma(1.0, 1.0, N)[batches], 20
            settings["eta"] = 0.2
        case "scores beyond the window":
            losses, settings["eta"], settings["tau"] = 3 * noise * rng.gamma(1.0, 1.0, N)[batches], 0.5, 1e-3
        case "a top that falls":
            early = np.arange(len(batches))[:, None] < len(batches) // 3
            losses = np.where(early, 1.0, -1.0) * noise * (1 + batches % 11)
            settings["eta"], settings["tau"] = 0.3, 1e-3
        case "a strong pull":
            losses, settings["eta"], settings["tau"] = noise * (batches % 7), 0.5, 0.8
        case "losses that vanish":
            losses = noise * (1 + batches % 11) * np.exp(-np.arange(len(batches)) / 8)[:, None]
            settings["eta"], settings["tau"] = 0.5, 0.1
    return batches, losses, settings


PROBLEMS = [
    "clusters",
    "ties",
    "an outlier",
    "a prior",
    "a prior with zeros",
    "negative losses",
    "losses of both signs",
    "repeats within a batch",
    "the same batch over and over",
    "padding",
    "all examples in a batch",
    "scores beyond the window",
    "a top that falls",
    "a strong pull",
    "losses that vanish",
]


@pytest.mark.parametrize("optimism", [pytest.param(0, marks=pytest.mark.slow), 1.0])
@pytest.mark.parametrize("name", PROBLEMS)
def test_hard_cases(name, optimism):
    batches, losses, settings = _problem(name)
    check(batches, losses, optimism=optimism, **settings)


@pytest.mark.parametrize("name", ["a top that falls", "a strong pull", "scores beyond the window"])
def test_the_rare_work_is_done(name, monkeypatch):
    """The cases above make histograms again, and move windows, as they are meant to."""
    calls = {"made": 0, "_merged": 0}

    def counted(fn):
        def call(*args):
            jax.debug.callback(lambda: calls.__setitem__(fn.__name__, calls[fn.__name__] + 1))
            return fn(*args)

        return call

    for fn in (_histogram.made, _histogram._merged):
        monkeypatch.setattr(_histogram, fn.__name__, counted(fn))
    jax.clear_caches()
    _runner.cache_clear()
    batches, losses, settings = _problem(name)
    check(batches, losses, optimism=1.0, **settings)
    jax.effects_barrier()
    jax.clear_caches()
    _runner.cache_clear()
    assert calls["_merged"] > 1
    assert (calls["made"] > 0) == (name != "scores beyond the window")
    assert calls["made"] < len(batches) / 4


def test_scores_are_of_any_size_and_stay_finite():
    """Losses to 1e30 of both signs, pulls to 1e30: nothing is lost but digits."""
    rng = np.random.default_rng(3)
    run = _runner(50, 1.0, True, False)
    for largest in (1e4, 1e12, 1e30):
        for eta, tau in ((1.0, 0.01), (1e-3, 1e6), (1e6, 1e20)):
            losses = rng.normal(size=(40, 8)) * largest ** rng.uniform(size=(40, 8))
            batches = rng.integers(0, 50, (40, 8))
            state = run(batches, losses.astype(np.float32), jnp.full(50, 0.02), eta, tau)
            for leaf in jax.tree.leaves(state.scores):
                assert np.isfinite(leaf).all()
            weights = also_optax.group_weights(state)
            assert np.isfinite(weights).all() and abs(weights.sum() - 1) < 1e-5


def test_a_range_of_many_thousand_nats_loses_digits_alone():
    """Rate 1, optimism 1, a weak penalty, sums over many examples: one example holds nearly all the weight."""
    rng = np.random.default_rng(5)
    batches = epochs(rng, SIZE, 4, batch=256)
    losses = rng.gamma(1.0, 1.0, SIZE)[batches]
    state = check(batches, losses, size=SIZE, eta=1.0, tau=0.01, visits=4)
    assert_counts_are_exact(state)


@pytest.mark.parametrize("optimism", [0.25, 2.0])
def test_optimism_of_any_size(optimism):
    rng = np.random.default_rng(6)
    batches = epochs(rng, 500, 6)
    losses = rng.gamma(1.0, size=batches.shape)
    check(batches, losses, size=500, eta=3e-3, tau=0.05, optimism=optimism, visits=6)


def test_a_schedule_is_followed():
    rng = np.random.default_rng(2)
    batches, losses = epochs(rng, 300, 5, batch=30), rng.gamma(1.0, size=(50, 30)).astype(np.float32)

    def weights(optimism, lazy):
        tx = also_optax.reweight_by_also(
            300,
            dual_learning_rate=lambda step: 1e-2 / (1 + step / 10),
            kl_penalty=lambda step: 0.1 * (1 + step / 10),
            optimism=optimism,
            lazy=lazy,
        )
        state = tx.init(None)
        update = jax.jit(lambda state, ids, batch: tx.update(None, state, losses=batch, groups=ids)[1])
        for ids, batch in zip(batches, losses, strict=True):
            state = update(state, ids, batch)
        return also_optax.group_weights(state)

    np.testing.assert_allclose(weights(0, True), weights(0, False), rtol=2e-5)
    np.testing.assert_allclose(weights(1.0, True), weights(1.0, False), rtol=2e-5)


@pytest.mark.parametrize("optimism", [0, 1.0])
@pytest.mark.parametrize("lazy", [True, pytest.param(False, marks=WITHOUT_TEMPORARIES)])
def test_no_step_copies_a_table(lazy, optimism):
    """Donated tables are changed where they are, in a step that reads the weights before and in one that does not."""
    size = 2_000_003
    tx = also_optax.reweight_by_also(size, lazy=lazy, optimism=optimism)
    state, ids, losses = tx.init(None), jnp.arange(32), jnp.ones(32)

    def write(state, ids, losses):
        return tx.update(None, state, losses=losses, groups=ids)[1]

    def read_and_write(state, ids, losses):
        loss, rw = also_optax.reweight(state, losses, ids)
        return loss, tx.update(None, state, **rw.extra_args)[1]

    def loop(state, ids, losses):
        return jax.lax.fori_loop(0, 3, lambda i, state: read_and_write(state, ids + i, losses)[1], state)

    for step in (write, read_and_write, loop):
        compiled = jax.jit(step, donate_argnums=0).lower(state, ids, losses).compile()
        copies = re.findall(rf"= [fs]\d+\[{size}\]\S* copy\(.*", compiled.as_text())
        assert not copies, (step.__name__, copies)
        memory = compiled.memory_analysis()
        assert memory.temp_size_in_bytes < 4 * size / 2, step.__name__  # histograms, and a chunk of the table


@pytest.mark.parametrize(("entries", "eligible"), [(2**24 + 1, 2**24 - 1), (100_000_001, 99_999_999), (2**31 - 1, 7)])
def test_a_histogram_starts_with_every_entry(entries, eligible):
    """In two floats, because one counts to 2**24."""
    counts, mass, *_ = np.asarray(_histogram.start(entries, eligible).moments, np.float64).sum(axis=(0, 2)).tolist()
    assert (counts, mass) == (eligible, entries)


def test_the_form_is_chosen_by_the_number_of_groups():
    def kind(num_groups, **settings):
        state = jax.eval_shape(also_optax.reweight_by_also(num_groups, **settings).init, None)
        return getattr(getattr(state, "scores", None), "histogram", None) is not None, type(state)

    assert kind(50_000) == (False, also_optax.AlsoState)
    assert kind(50_001) == (True, also_optax.AlsoScoresState)
    assert kind(10, lazy=True) == (True, also_optax.AlsoScoresState)
    assert kind(50_001, lazy=False) == (False, also_optax.AlsoScoresState)
    assert kind(10, lazy=False) == (False, also_optax.AlsoState)
    for needs_all in ({"lookahead": True}, {"group_frequencies": "pi"}):
        assert kind(50_001, **needs_all) == (False, also_optax.AlsoState)


def test_the_sparse_average_is_the_average():
    """With more than fifty thousand groups and `lazy=False`, diagnostics are those of the tables."""
    rng = np.random.default_rng(1)
    losses, ids = rng.gamma(1.0, size=(60, 16)), rng.integers(0, 40, (60, 16))
    found = []
    for largest in (0, 100):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("also_optax.rules.also.LARGEST_TABLES", largest)
            tx = also_optax.reweight_by_also(40, lazy=False, average_decay=0.3, dual_learning_rate=0.01)
        step = jax.jit(lambda state, batch, ids, tx=tx: tx.update(None, state, losses=batch, groups=ids)[1])
        state = tx.init(None)
        for batch, groups in zip(losses, ids, strict=True):
            state = step(state, batch, groups)
        found.append(also_optax.diagnostics(state))
    assert found[0].keys() == found[1].keys()
    for name in found[0]:
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=2e-5, atol=1e-6, err_msg=name)


def test_padding_leaves_the_sparse_average_and_one_example_moves_it():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("also_optax.rules.also.LARGEST_TABLES", 0)
        tx = also_optax.reweight_by_also(4, lazy=False, average_decay=0.3)
    ids = jnp.array([0, 2])
    _, one = tx.update(None, tx.init(None), losses=jnp.array([1.0]), groups=ids[:1])
    _, one = tx.update(None, one, losses=jnp.array([2.0]), groups=ids[1:])
    averages = np.array([0.3 * 0.7 * 1.0, 0, 0.7 * 2.0, 0]) * 4 / (1 - 0.3**2)  # of h, less its bias to zero
    np.testing.assert_allclose(also_optax.diagnostics(one)["group_losses"], averages, rtol=1e-5)
    _, state = tx.update(None, tx.init(None), losses=jnp.array([1.0, 2.0]), groups=ids)
    _, after = tx.update(None, state, losses=jnp.array([5.0, 5.0]), groups=ids - 3)
    jax.tree.map(np.testing.assert_array_equal, after, state)


def test_a_batch_of_padding_makes_no_nan_outside_of_jit_either():
    tx = also_optax.reweight_by_also(20, lazy=True)
    with jax.debug_nans(True), jax.disable_jit():
        state = tx.init(None)
        _, after = tx.update(None, state, losses=jnp.array([1.0, 2.0]), groups=jnp.array([-1, -1]))
    jax.tree.map(np.testing.assert_array_equal, after, state)


def test_a_lazy_rule_reports_no_losses():
    state = also_optax.reweight_by_also(10, lazy=True).init(None)
    assert set(also_optax.diagnostics(state)) == {"rejected", "kl", "effective_groups"}


@pytest.mark.slow
@pytest.mark.parametrize("optimism", [0, 1.0])
@pytest.mark.parametrize("tau", [1e-3, 1.0])
@pytest.mark.parametrize("eta", MARKS)
def test_a_million_weights(eta, tau, optimism):
    """The same on a million: 4,000 steps, and twenty epochs of large batches."""
    rng = np.random.default_rng(0)
    size = 1_000_000
    base = rng.gamma(1.0, 1.0, size)
    few = rng.integers(0, size, (4_000, 256))
    many = epochs(rng, size, 20, batch=50_000)
    for batches in (few, many):
        losses = base[batches] * rng.uniform(0.5, 1.5, batches.shape)
        state = check(batches, losses, size=size, eta=eta, tau=tau, optimism=optimism)
        assert_counts_are_exact(state)
