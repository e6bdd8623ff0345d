"""Samplers: what they draw, how often, and that weights and dual gradients are unbiased under each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import also_optax
from also_optax import samplers

SIZES = np.array([60, 25, 12, 3])
GROUPS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), SIZES))
N, B = GROUPS.size, 16
LOSSES = np.random.default_rng(1).gamma(2.0, size=N) * (1 + GROUPS)
MEANS = np.array([LOSSES[GROUPS == g].mean() for g in range(4)])
TILTED = np.array([0.1, 0.2, 0.3, 0.4])
INDEX = samplers.group_index(GROUPS, 4)
EXAMPLE_WEIGHTS = np.random.default_rng(2).gamma(1.0, size=N) + 0.1
KEY = jax.random.key(0)


def _draws(sample, num, **options):
    """`num` batches by keys of their own, ``[num, B]``, in one call."""
    return np.asarray(jax.jit(jax.vmap(functools.partial(sample, **options)))(jax.random.split(KEY, num)))


def _fits(drawn, chances):
    """Whether counts of `drawn` agree with `chances`, by chi-squared, at one in 10,000."""
    counts = np.bincount(drawn.ravel(), minlength=len(chances))
    chances = np.asarray(chances, float) / np.sum(chances)
    assert counts[chances == 0].sum() == 0
    possible = chances > 0
    return stats.chisquare(counts[possible], drawn.size * chances[possible]).pvalue > 1e-4


def _epoch(key, **sizes):
    return samplers.epoch_batch(key, jax.random.randint(key, (), 0, 1000), N, B)


# Each sampler with the chance of each example, and with the q of groups that goes with it (None: not for groups).
SAMPLERS = {
    "uniform": (lambda key: samplers.uniform(key, N, B), np.ones(N), SIZES),
    "epoch_batch": (_epoch, np.ones(N), SIZES),
    "group_balanced": (lambda key: samplers.group_balanced(key, INDEX, B), (1 / SIZES)[GROUPS], np.ones(4)),
    "group_balanced, weighted": (
        lambda key: samplers.group_balanced(key, INDEX, B, group_weights=TILTED * 7),
        (TILTED / SIZES)[GROUPS],
        TILTED,
    ),
    "upsampling": (
        lambda key: samplers.upsampling(key, INDEX, B, strength=0.5),
        (SIZES**0.5 / SIZES)[GROUPS],
        samplers.upsampling_frequencies(SIZES, 0.5),
    ),
    "by_weights": (lambda key: samplers.by_weights(key, EXAMPLE_WEIGHTS, B), EXAMPLE_WEIGHTS, None),
}
each = pytest.mark.parametrize("name", SAMPLERS)


@functools.cache
def _batches_of(name):
    """Three thousand batches of one sampler; compiling the random numbers is what takes time."""
    return _draws(SAMPLERS[name][0], 3000)


# --- What is drawn ----------------------------------------------------------------------------------------------------


@each
def test_each_example_is_drawn_as_often_as_it_should_be(name):
    drawn = _batches_of(name)
    assert drawn.shape == (3000, B) and drawn.dtype == np.int32
    assert _fits(drawn, SAMPLERS[name][1])


@each
def test_a_sampler_is_a_function_of_its_key(name):
    sample, *_ = SAMPLERS[name]
    np.testing.assert_array_equal(jax.jit(sample)(jax.random.split(KEY, 3000)[17]), _batches_of(name)[17])
    assert len(np.unique(_batches_of(name), axis=0)) == 3000


def test_group_and_example_are_drawn_independently_of_each_other():
    drawn = _draws(lambda key: samplers.group_balanced(key, samplers.group_index(np.arange(40) // 10, 4), 50), 400)
    table = np.zeros((4, 10))
    np.add.at(table, (drawn // 10, drawn % 10), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-4


def test_upsampling_spans_from_uniform_to_group_balanced():
    strengths = jnp.repeat(jnp.array([0.0, 1.0]), 1000)
    sample = jax.vmap(lambda key, strength: samplers.upsampling(key, INDEX, B, strength=strength))
    uniform, balanced = np.split(np.asarray(jax.jit(sample)(jax.random.split(KEY, 2000), strengths)), 2)
    assert _fits(uniform, np.ones(N))
    assert _fits(balanced, (1 / SIZES)[GROUPS])  # as by_weights draws with these


def test_groups_without_examples_and_examples_without_group_are_never_drawn():
    groups = np.array([1, -1, 3, 3, 9, 1])
    index = samplers.group_index(groups, 5)
    np.testing.assert_array_equal(index.counts, [0, 2, 0, 2, 0])
    for weights in (None, np.array([5.0, 1.0, 5.0, 1.0, 5.0])):
        drawn = _draws(lambda key, w=weights: samplers.group_balanced(key, index, B, group_weights=w), 500)
        assert _fits(drawn, [1, 0, 1, 1, 0, 1])
    np.testing.assert_allclose(samplers.upsampling_frequencies(index.counts), [0, 0.5, 0, 0.5, 0], rtol=1e-6)


def test_the_index_is_the_same_from_traced_ids():
    traced = jax.jit(samplers.group_index, static_argnums=1)(jnp.asarray(GROUPS), 4)
    for ours, expected in zip(traced, INDEX, strict=True):
        np.testing.assert_array_equal(ours, expected)
        assert ours.dtype == expected.dtype == jnp.int32


def test_narrow_ids_are_told_apart():
    groups = np.array([127, 3, 127, 0], np.int8)
    np.testing.assert_array_equal(samplers.group_index(groups, 200).counts, np.bincount(groups, minlength=200))


# --- Epochs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_examples", [100, 5003])
def test_an_epoch_takes_each_example_once_and_the_next_another_order(num_examples):
    size = num_examples // 10
    batches = jax.vmap(lambda step: samplers.epoch_batch(KEY, step, num_examples, size))
    epochs = np.asarray(jax.jit(batches)(jnp.arange(30))).reshape(3, -1)
    for epoch in epochs:
        assert np.unique(epoch).size == 10 * size and epoch.min() >= 0 and epoch.max() < num_examples
    assert (epochs[0] != epochs[1]).any() and (epochs[1] != epochs[2]).any()
    assert abs(np.corrcoef(epochs[0], epochs[1])[0, 1]) < 4 / np.sqrt(10 * size)
    assert abs(np.corrcoef(epochs[0], np.arange(10 * size))[0, 1]) < 4 / np.sqrt(10 * size)


def test_a_run_is_resumed_by_its_step_alone():
    batch = jax.jit(lambda step: samplers.epoch_batch(KEY, step, 5003, 7))
    straight = [batch(step) for step in range(1420, 1440)]
    np.testing.assert_array_equal(batch(1433), straight[13])


def test_late_steps_of_a_great_epoch_do_not_overflow():
    num_examples = 2**31 - 1
    batch = samplers.epoch_batch(KEY, 2**31 - 1, num_examples, 1000)
    assert batch.min() >= 0 and np.unique(batch).size == 1000


def test_positions_and_pairs_of_positions_are_uniform_under_the_network():
    """The permutation of large epochs, on so few examples that all pairs can be counted."""
    shuffled = np.asarray(
        jax.jit(jax.vmap(lambda key: samplers._shuffled(key, jnp.arange(10), 10)))(jax.random.split(KEY, 10_000))
    )
    np.testing.assert_array_equal(np.sort(shuffled, axis=1), np.broadcast_to(np.arange(10), shuffled.shape))
    for position in range(10):
        assert _fits(shuffled[:, position], np.ones(10))
    pairs = shuffled[:, 0] * 10 + shuffled[:, 7]
    assert _fits(pairs, 1 - np.eye(10).ravel())


# --- Weights ----------------------------------------------------------------------------------------------------------


def test_a_million_weights_are_drawn_without_bias():
    """Where the running sum in float32 is off by several percent per entry, which would show as variance."""
    n = 1_000_000
    drawn = np.asarray(jax.jit(lambda key: samplers.by_weights(key, jnp.ones(n), n))(KEY))
    counts = np.bincount(drawn, minlength=n)
    assert abs(counts.var() - 1) < 5 * np.sqrt(3 / n)  # a Poisson count of mean 1
    blocks = counts.reshape(1000, -1).sum(axis=1)
    assert stats.chisquare(blocks).pvalue > 1e-4


def test_weights_of_many_orders_of_magnitude_are_drawn_in_proportion():
    weights = np.array([1.0, 0.0, 1e-3, 1e-30, 1e3, np.nan, -1.0, 30.0, 1.0])
    drawn = _draws(lambda key: samplers.by_weights(key, weights, 1000), 300)
    assert _fits(drawn, np.where(weights > 1e-10, weights, 0))
    tiny = _draws(lambda key: samplers.by_weights(key, weights[[0, 2, 8]] * 1e-30, 1000), 100)
    assert _fits(tiny, weights[[0, 2, 8]])


def test_a_weight_below_the_resolution_of_one_uniform_number_is_not_drawn_too_often():
    drawn = _draws(lambda key: samplers.by_weights(key, jnp.array([1.0, 1e-10]), 100_000), 20)
    assert drawn.sum() == 0  # 2e-4 expected; at a resolution of 2^-24 it would be .1, at 2^-23 with zero .5


# --- Unbiased, from end to end ----------------------------------------------------------------------------------------


def _loss_and_dual_gradient(opt_state, tx, indices, groups):
    """The reweighted loss of a batch, and the h that the adversary makes of it."""
    losses, ids = jnp.asarray(LOSSES)[indices], jnp.asarray(groups)[indices]
    loss, rw = also_optax.reweight(opt_state, losses, ids)
    _, opt_state = tx.update((), tx.init(()), losses=losses, groups=ids)
    return loss, also_optax.diagnostics(opt_state)["group_losses"], rw.weights.mean()


def _assert_unbiased(batches, groups, num_groups, frequencies, loss, dual_gradient, prior):
    tx = also_optax.reweight_by_also(num_groups, prior=prior, group_frequencies=frequencies)
    opt_state = tx.init(())
    values = jax.jit(jax.vmap(lambda indices: _loss_and_dual_gradient(opt_state, tx, indices, groups)))(batches)
    for actual, expected in zip(values, (loss, dual_gradient, 1.0), strict=True):
        actual = np.asarray(actual, float)
        error = actual.std(axis=0) / np.sqrt(len(actual))
        assert (np.abs(actual.mean(axis=0) - expected) < 4.5 * error + 1e-5).all()
        assert np.all(error < 0.1 * np.maximum(np.abs(expected), 0.1) * np.sqrt(num_groups))  # it can tell


@pytest.mark.parametrize("name", [name for name, (*_, frequencies) in SAMPLERS.items() if frequencies is not None])
def test_group_weights_and_dual_gradients_are_unbiased_with_the_frequencies_of_the_sampler(name):
    pi = np.array([0.4, 0.1, 0.2, 0.3])
    frequencies = None if name == "group_balanced" else SAMPLERS[name][2]
    _assert_unbiased(_batches_of(name), GROUPS, 4, frequencies, pi @ MEANS, MEANS, prior=pi)


def test_drawing_groups_by_pi_needs_no_weights_and_is_unbiased():
    tx = also_optax.reweight_by_also(4, prior=TILTED, group_frequencies="pi")
    np.testing.assert_allclose(also_optax.group_weights(tx.init(())), TILTED, rtol=1e-6)
    batches = _batches_of("group_balanced, weighted")  # by TILTED
    _assert_unbiased(batches, GROUPS, 4, "pi", TILTED @ MEANS, MEANS, prior=TILTED)
    weights = also_optax.example_weights(tx.init(()), jnp.asarray(LOSSES)[batches[0]], GROUPS[batches[0]])
    np.testing.assert_allclose(weights, 1, rtol=1e-6)


@each
def test_example_weights_and_dual_gradients_are_unbiased_with_the_chances_of_the_sampler(name):
    pi = 1 + np.arange(N) / N
    pi = pi / pi.sum()
    _assert_unbiased(_batches_of(name), np.arange(N), N, SAMPLERS[name][1], pi @ LOSSES, LOSSES, prior=pi)


def test_uniform_draws_without_frequencies_are_the_sums_of_eq_4():
    """The other objective, which the table of the docstring warns of."""
    pi = np.array([0.4, 0.1, 0.2, 0.3])
    sums = 4 / N * SIZES * MEANS
    tx = also_optax.reweight_by_also(4, prior=pi)
    values = jax.jit(jax.vmap(lambda indices: _loss_and_dual_gradient(tx.init(()), tx, indices, GROUPS)[1]))
    values = np.asarray(values(_batches_of("uniform")))
    assert (np.abs(values.mean(axis=0) - sums) < 4.5 * values.std(axis=0) / np.sqrt(3000)).all()


def test_a_training_step_draws_reads_and_writes_in_one_jit():
    tx = also_optax.also(0.02, 4, dual_learning_rate=0.3, kl_penalty=1.0, group_frequencies="pi", weight_decay=0.0)
    params = jnp.zeros(())

    @jax.jit
    def run(params, opt_state):
        def step(carry, key):
            params, opt_state = carry
            rows = samplers.group_balanced(key, INDEX, B, group_weights=also_optax.group_weights(opt_state))
            groups = jnp.asarray(GROUPS)[rows]

            def loss_fn(params):
                return also_optax.reweight(opt_state, (params - groups.astype(float)) ** 2, groups)

            (_, rw), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
            updates, opt_state = tx.update(grads, opt_state, params, **rw.extra_args)
            return (optax.apply_updates(params, updates), opt_state), None

        return jax.lax.scan(step, (params, opt_state), jax.random.split(KEY, 400))[0]

    params, _ = run(params, tx.init(params))
    assert abs(params - 1.5) < 0.25  # by symmetry of the groups' losses; the mean of all examples is at .58


# --- Grain ------------------------------------------------------------------------------------------------------------


class _Source:
    """A data source whose records are their own keys."""

    def __len__(self):
        return N

    def __getitem__(self, key):
        return key

    def __repr__(self):
        return "Source"


def _loader(sampler, shard=None):
    grain = pytest.importorskip("grain.python")
    options = grain.NoSharding() if shard is None else grain.ShardOptions(shard, 2)
    return grain.DataLoader(
        data_source=_Source(), sampler=sampler, operations=[grain.Batch(5)], worker_count=0, shard_options=options
    )


@pytest.mark.parametrize(
    ("options", "chances"),
    [
        ({"num_examples": N}, np.ones(N)),
        ({"groups": GROUPS}, (1 / SIZES)[GROUPS]),
        ({"groups": GROUPS, "group_weights": TILTED}, (TILTED / SIZES)[GROUPS]),
        ({"groups": np.where(GROUPS == 2, -1, GROUPS)}, (np.array([1, 1, 0, 1]) / SIZES)[GROUPS]),
    ],
)
def test_a_grain_sampler_draws_each_example_as_often_as_it_should(options, chances):
    sampler = samplers.GrainSampler(20_000, seed=5, **options)
    drawn = np.array([sampler.record_key(index) for index in range(len(sampler))])
    assert _fits(drawn, chances)
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 0.03
    np.testing.assert_array_equal(drawn[777], samplers.GrainSampler(seed=5, **options).record_key(777))
    other = samplers.GrainSampler(20_000, seed=6, **options)
    assert (drawn[:100] != [other.record_key(index) for index in range(100)]).any()


def test_a_grain_loader_is_restored_in_the_middle_and_split_over_shards():
    sampler = samplers.GrainSampler(60, groups=GROUPS, seed=1)
    straight = list(_loader(sampler))
    iterator = iter(_loader(sampler))
    for _ in range(4):
        next(iterator)
    restored = iter(_loader(samplers.GrainSampler(60, groups=GROUPS, seed=1)))
    restored.set_state(iterator.get_state())
    np.testing.assert_array_equal(list(restored), straight[4:])

    with pytest.raises(ValueError, match=r"[Ss]ampler"):
        iter(_loader(samplers.GrainSampler(60, groups=GROUPS[::-1], seed=1))).set_state(iterator.get_state())

    shards = [np.concatenate(list(_loader(sampler, shard))) for shard in range(2)]
    np.testing.assert_array_equal(np.stack(shards, axis=1).ravel(), np.concatenate(straight))


def test_a_record_of_grain_has_a_generator_of_its_own():
    pytest.importorskip("grain.python")
    sampler = samplers.GrainSampler(10, num_examples=N, seed=1)
    numbers = [record.rng.random() for record in sampler]
    assert len(set(numbers)) == 10
    assert sampler[3].rng.random() == numbers[3] and sampler[3].index == 3
    assert sampler[3].record_key == sampler.record_key(3)


# --- Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: samplers.uniform(KEY, 0, 4), ValueError, "`num_examples` must be at least 1"),
        (lambda: samplers.uniform(KEY, 2**31, 4), ValueError, r"`num_examples` must be below 2\*\*31"),
        (lambda: samplers.uniform(KEY, 10, 4.0), TypeError, "`batch_size` must be a Python int"),
        (lambda: samplers.epoch_batch(KEY, 0, 3, 4), ValueError, "`batch_size` must be at most `num_examples`"),
        (lambda: samplers.group_index([0.5], 1), TypeError, "`groups` must be integer ids"),
        (lambda: samplers.group_index([[0]], 1), ValueError, r"`groups` must have one id per example, shape \[n\]"),
        (lambda: samplers.group_index([-1, 2], 2), ValueError, r"`groups` must have an id in \[0, 2\)"),
        (lambda: samplers.group_balanced(KEY, jnp.array([0, 1]), 2), TypeError, "`index` must be made by `group_index"),
        (lambda: samplers.upsampling(KEY, [0, 1], 2), TypeError, "`index` must be made by `group_index"),
        (lambda: samplers.group_balanced(KEY, INDEX, 0), ValueError, "`batch_size` must be at least 1"),
        (lambda: samplers.group_balanced(KEY, INDEX, 2, group_weights=[1.0]), ValueError, "`group_weights` must have"),
        (lambda: samplers.by_weights(KEY, 1.0, 2), ValueError, "`weights` must have one entry per example"),
        (lambda: samplers.upsampling(KEY, INDEX, 2, strength=np.inf), ValueError, "`strength` must be finite"),
        (lambda: samplers.GrainSampler(), ValueError, "exactly one of `num_examples` and `groups`.*got neither"),
        (lambda: samplers.GrainSampler(groups=[0], num_examples=1), ValueError, "got both"),
        (lambda: samplers.GrainSampler(num_examples=1, seed="a"), TypeError, "`seed` must be an int"),
        (lambda: samplers.GrainSampler(num_examples=1, seed=-1), ValueError, "`seed` must be at least 0"),
        (lambda: samplers.GrainSampler(num_examples=0), ValueError, "`num_examples` must be at least 1"),
        (lambda: samplers.GrainSampler(0, num_examples=3), ValueError, "`num_draws` must be at least 1"),
        (lambda: samplers.GrainSampler(groups=[0, 1], group_weights=[-1, 2]), ValueError, "`group_weights` must be"),
        (lambda: samplers.GrainSampler(groups=[1], group_weights=[1, 0]), ValueError, "`group_weights` must be posi"),
        (lambda: samplers.GrainSampler(3, num_examples=1).record_key(3), IndexError, r"`index` must be in \[0, 3\)"),
    ],
)
def test_a_wrong_argument_is_named_with_what_it_must_be(make, error, message):
    with pytest.raises(error, match=message):
        make()
