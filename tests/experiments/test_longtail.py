"""The parts of the experiments on long tails and on wrong labels that have maths of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import also_optax
from benchmarks import splits, statistics, tables
from benchmarks.data import Dataset
from benchmarks.experiments import longtail, noise
from benchmarks.networks import MLP
from benchmarks.training import Pool, Runs, Task, cross_entropy, stacked, train, training_set


@pytest.fixture(scope="module")
def dataset():
    classes = np.repeat(np.arange(4), 40)
    features = np.arange(len(classes), dtype=np.uint8)[:, None]
    return Dataset(features, classes, 1.0, np.tile(np.arange(40) >= 30, 4), "made up")


def test_a_long_tail_falls_by_the_same_factor_from_class_to_class():
    counts = longtail.class_counts("lt", 100, 10_000, 3)
    np.testing.assert_array_equal(counts, [10_000, 1000, 100])


def test_a_step_thins_the_second_half_alike_and_leaves_at_least_two():
    np.testing.assert_array_equal(longtail.class_counts("step", 10, 50, 5), [50, 50, 5, 5, 5])
    np.testing.assert_array_equal(longtail.class_counts("step", 100, 50, 4), [50, 50, 2, 2])


def test_all_problems_fit_into_the_size_that_they_are_compiled_for():
    protocol = longtail.PROTOCOLS["full"]
    size = longtail._largest_training_set(protocol, 10)
    for kind in ("lt", "step"):
        for ratio in protocol.ratios:
            counts = longtail.class_counts(kind, ratio, protocol.per_class, 10)
            training, validation = splits.thinned(np.tile(np.arange(protocol.per_class), (10, 1)), counts)
            assert len(training) <= size and len(training) + len(validation) == counts.sum()


def test_a_split_has_the_counts_in_an_order_of_the_seed_and_no_row_twice(dataset):
    counts = np.array([30, 20, 10, 2])
    orders = set()
    for seed in range(5):
        training, validation, test = longtail.split(dataset, counts, seed)
        rows = np.concatenate([training, validation])
        assert len(set(rows)) == len(rows) and not set(rows) & set(test)
        assert set(test) == set(np.flatnonzero(dataset.test_only))
        found = np.bincount(dataset.classes[rows])
        assert sorted(found) == sorted(counts)
        np.testing.assert_array_equal(np.bincount(dataset.classes[validation]), np.maximum(1, found // 5))
        orders.add(tuple(found))
    assert len(orders) > 1


def test_at_one_seed_a_thinner_class_is_among_the_thicker_one(dataset):
    thick, thin = (
        np.concatenate(longtail.split(dataset, np.array(c), 3)[:2]) for c in ([30, 30, 20, 20], [30, 9, 5, 2])
    )
    assert set(thin) <= set(thick)


def test_too_few_images_of_a_class_are_refused(dataset):
    with pytest.raises(ValueError, match="30 images besides those of the test, not 31"):
        splits.by_class(dataset, 31, np.random.default_rng(0))


def test_the_rarer_half_is_what_accuracy_and_weight_are_the_mean_over():
    classes = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    outputs = np.eye(4)[[0, 0, 1, 0, 2, 2, 0, 0]]
    found = longtail.measured(classes, outputs, np.array([9, 3, 8, 1]))
    assert found["rare_half"] == pytest.approx((0.5 + 0.0) / 2)
    assert found["balanced_accuracy"] == pytest.approx((1 + 0.5 + 1 + 0) / 4)
    line = {"class_counts": [9, 3, 8, 1], "class_weights": [[1, 1, 1, 1], [0.5, 2.0, 0.7, 6.0]]}
    assert longtail._rare_weight(line) == pytest.approx((3 * 2 + 1 * 6) / 4)
    line["class_weights"][-1][3] = None
    assert longtail._rare_weight(line) == pytest.approx(2.0)


@pytest.fixture(scope="module")
def runs():
    """Forty random examples of three classes, at one seed."""
    rng = np.random.default_rng(0)
    pool = Pool(jnp.asarray(rng.normal(size=(40, 5)), jnp.float32), jnp.float32(1))
    sets = stacked([training_set(np.arange(40), np.sort(rng.integers(0, 3, 40)), size=40, num_classes=3)])
    return pool, sets


def test_absgd_is_plain_training_until_the_switch():
    rows = longtail.rows(20)
    setting = {"learning_rate": lambda count: 0.1, "weight_decay": 0.0, "temperature": 2.0, "averaging_rate": 0.5}
    params = {"params": {"Dense_0": {"kernel": jnp.ones((2, 3))}, "Dense_1": {"kernel": jnp.ones((3, 2))}}}
    losses = jnp.array([0.5, 1.0, 3.0])
    weights, moved = [], []
    for name in ("ce-absgd", "ce-absgd-frozen"):
        tx = rows[name].build(setting, None)
        state = tx.init(params)
        for _ in range(20):
            weights.append(also_optax.example_weights(state, losses))
            _, rw = also_optax.reweight(state, losses)
            updates, state = tx.update(params, state, params, **rw.extra_args)
            moved.append([float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(updates)])
    weights, moved = np.array(weights).reshape(2, 20, 3), np.array(moved).reshape(2, 20, 2)
    np.testing.assert_array_equal(weights[:, :16], 1)
    expected = np.exp(np.array(losses) / 2)
    np.testing.assert_allclose(weights[:, 16:], np.broadcast_to(expected / expected.mean(), (2, 4, 3)), rtol=1e-5)
    assert (moved[0] > 0).all() and (moved[1, :16] > 0).all() and (moved[1, 16:, 1] > 0).all()
    np.testing.assert_array_equal(moved[1, 16:, 0], 0)


def test_deferred_class_weights_begin_with_the_second_stage(runs):
    pool, sets = runs
    task = Task(MLP(3, (4,)), steps=20, batch_size=8, checks=5)
    setting = {"learning_rate": 0.1, "weight_decay": 1e-3, "max_margin": 1.0}
    several = Runs(sets, np.array([1]), [setting], np.arange(10)[None])
    found = train(task, longtail.rows(20)["ldam-sgd"], pool, several, lambda r, outputs: 0.0).class_weights[:, 0]
    counts = np.asarray(sets.class_counts[0], float)
    np.testing.assert_allclose(found[:4][np.isfinite(found[:4])], 1, rtol=1e-5)
    weights = (1 - 0.9999) / (1 - 0.9999**counts)
    np.testing.assert_allclose(found[4], weights / (weights @ counts / counts.sum()), rtol=1e-3)


def test_every_row_is_told_all_that_it_is_built_of(runs):
    sets = jax.tree.map(lambda leaf: leaf[0], runs[1])
    params = MLP(3).init(jax.random.key(0), jnp.zeros((1, 5)))
    own = {**longtail.rows(20), **noise.ROWS}
    for name in (*longtail.NAMES, *noise.NAMES):
        method = own[name]
        setting = {key: space.low for key, space in method.space.items()}

        def build_and_lose(method=method, setting=setting):
            tx = method.build(setting | {"learning_rate": lambda count: 0.1}, sets)
            loss = method.loss or cross_entropy
            return tx.init(params), loss(jnp.zeros((2, 3)), jnp.array([0, 1]), sets, setting)

        assert jax.eval_shape(build_and_lose)[1].shape == (2,)


def test_a_temperature_below_zero_mistrusts_the_larger_losses():
    setting = {"learning_rate": lambda count: 0.1, "weight_decay": 0.0, "mistrust": 2.0, "averaging_rate": 0.5}
    losses = jnp.array([0.5, 1.0, 3.0])
    expected = np.exp(-np.array(losses) / 2)
    for name in ("ce-absgd", "abadam"):
        state = noise.ROWS[name].build(setting, None).init({"w": jnp.zeros(2)})
        weights = also_optax.example_weights(state, losses)
        np.testing.assert_allclose(weights, expected / expected.mean(), rtol=1e-5)


def test_symmetric_noise_goes_to_every_other_class_alike():
    chances = noise.transition("symmetric", 0.3, 4, [])
    np.testing.assert_allclose(chances, np.full((4, 4), 0.1) + 0.6 * np.eye(4))


def test_asymmetric_noise_stays_within_pairs():
    chances = noise.transition("asymmetric", 0.4, 4, [(0, 2)])
    np.testing.assert_allclose(chances, [[0.6, 0, 0.4, 0], [0, 1, 0, 0], [0.4, 0, 0.6, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize("kind", ["symmetric", "asymmetric"])
def test_labels_are_drawn_by_the_chances(kind):
    labels = np.repeat(np.arange(4), 5000)
    chances = noise.transition(kind, 0.4, 4, [(0, 2)])
    given = noise.corrupted(labels, chances, np.random.default_rng(0))
    for c in range(4):
        shares = np.bincount(given[labels == c], minlength=4) / 5000
        np.testing.assert_allclose(shares, chances[c], atol=4 * np.sqrt(0.25 / 5000))
        np.testing.assert_array_equal(shares[chances[c] == 0], 0)


def test_pairs_of_similar_classes_name_each_class_once():
    for pairs in noise.SIMILAR.values():
        assert len({c for pair in pairs.values() for c in pair}) == 2 * len(pairs) <= 10


def test_the_weight_of_wrong_labels_is_known_by_class(runs):
    pool, _ = runs
    rng = np.random.default_rng(1)
    targets, wrong = rng.integers(0, 3, 40), np.arange(40) % 4 == 0
    sets = stacked([training_set(np.arange(40), targets, size=40, num_classes=2, classes=wrong)])
    np.testing.assert_array_equal(sets.class_counts[0], [30, 10])
    task = Task(MLP(3, (4,)), steps=4, batch_size=40, checks=2)
    setting = {"learning_rate": 0.1, "weight_decay": 0.0, "mistrust": 0.5, "averaging_rate": 1.0}
    first = train(
        task,
        noise.ROWS["ce-absgd"],
        pool,
        Runs(sets, np.array([1]), [setting], np.arange(9)[None]),
        lambda r, outputs: 0.0,
    )
    assert first.class_weights.shape == (2, 1, 2) and np.isfinite(first.class_weights).all()
    np.testing.assert_allclose(first.class_weights[:, 0] @ [0.75, 0.25], 1, rtol=1e-5)


@pytest.fixture
def lines():
    rng = np.random.default_rng(2)
    rows = [
        {"method": m, "problem": p, "seed": s, "score": rng.normal(0.1 * (m == "b"), 0.1)}
        for m in ("a", "b", "c")
        for p in ("x", "y")
        for s in range(6)
    ]
    return pd.DataFrame(rows)


def test_pairs_are_tested_by_seed_and_corrected_within_a_problem(lines):
    wide = lines.pivot(index=["problem", "seed"], columns="method", values="score").loc["y"]
    found = statistics.paired(lines, "score", [("b", "a"), ("c", "b"), ("gone", "a")])
    assert list(found.index.unique("method")) == ["b", "c"]
    ps = [stats.ttest_rel(wide["b"], wide["a"]).pvalue, stats.ttest_rel(wide["c"], wide["b"]).pvalue]
    expected = [2 * p if p == min(ps) else max(p, 2 * min(ps)) for p in ps]
    np.testing.assert_allclose(found.xs("y", level="problem")["p"], np.minimum(expected, 1))
    np.testing.assert_allclose(found.loc[("c", "y"), "mean"], (wide["c"] - wide["b"]).mean())


def test_differences_are_the_pairs_of_all_with_one_baseline(lines):
    pd.testing.assert_frame_equal(
        statistics.differences(lines, "score", "a"), statistics.paired(lines, "score", [("b", "a"), ("c", "a")])
    )


def test_no_pair_that_is_there_gives_an_empty_table_and_no_sentence(lines):
    assert tables.paired_gains(lines, "score", [("gone", "a")]).empty
    assert tables.paired_verdicts(lines, "score", [("gone", "a")]) == []


def test_verdicts_name_the_side_of_every_problem(lines):
    sure = lines.assign(
        score=lines["score"] / 100 + (lines["method"] == "b") * np.where(lines["problem"] == "x", 1, -1)
    )
    (sentence,) = tables.paired_verdicts(sure, "score", [("b", "a")])
    assert sentence == "b against a: above it at x; below it at y."
    table = tables.paired_gains(sure, "score", [("b", "a")])
    assert table.index.tolist() == ["b over a"] and table.loc["b over a", "x"].endswith(" *")


def test_the_ranking_names_the_best_and_who_is_not_told_from_it(lines):
    sure = lines.assign(score=lines["score"] / 100 + (lines["method"] == "b"))
    sentence = tables.ranking(sure, "score", blocks=("problem", "seed"))
    assert sentence.startswith("Best mean rank of 3 over problem and seed: b (1.00);")
    assert sentence.endswith("all others are told from it.")
