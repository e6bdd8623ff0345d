"""The experiments after sections 6.3 to 6.5 of the ALSO paper: their maths against NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from benchmarks import attacks, compression, search
from benchmarks.data import Dataset
from benchmarks.experiments import split, workers
from benchmarks.search import Budget, Contest, Ran
from benchmarks.splits import parts_of
from benchmarks.training import training_set
from benchmarks.tuning import Range
from benchmarks.workers import Examples, Sizes, Way, run


def image(side=9, seed=0):
    return np.random.default_rng(seed).random((side, side, 1)).astype(np.float32)


def test_a_shift_moves_the_pixels_and_leaves_zeros_behind():
    found = jax.jit(attacks.warped)(image(), jnp.array([2.0, -1.0]), jnp.float32(0.0))
    expected = ndimage.shift(image()[..., 0], (2, -1), order=0)
    np.testing.assert_allclose(found[..., 0], expected, atol=1e-6)


def test_a_rotation_and_shift_are_those_of_scipy():
    angle, shift, middle = 0.4, np.array([1.5, -0.5]), np.array([4.0, 4.0])
    inverse = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    padded = np.pad(image()[..., 0], 1)  # SciPy mixes no zeros in between the edge and the outside
    expected = ndimage.affine_transform(padded, inverse, middle + 1 - inverse @ (middle + 1 + shift), order=1)
    found = jax.jit(attacks.warped)(image(), jnp.asarray(shift, jnp.float32), jnp.float32(angle))
    np.testing.assert_allclose(found[..., 0], expected[1:-1, 1:-1], atol=1e-5)


def test_a_blurred_pixel_is_the_mean_of_its_square_with_zeros_outside():
    expected = ndimage.uniform_filter(image()[..., 0], attacks.BLUR, mode="constant")
    np.testing.assert_allclose(jax.jit(attacks.blurred)(image())[..., 0], expected, atol=1e-6)


@pytest.mark.parametrize("corner", [(0.0, 0.0), (0.5, 0.99), (0.999, 0.3)])
def test_a_hole_is_whole_and_inside(corner):
    found = np.asarray(attacks.hole(9, jnp.float32(0.45), jnp.array(corner)))[..., 0]
    assert found.sum() == 16
    assert sorted(np.flatnonzero(found.any(0)) - found.any(0).argmax()) == [0, 1, 2, 3]
    assert found[np.ix_(found.any(1), found.any(0))].all()


def test_each_attack_changes_its_own_images_and_none_leaves_them_as_they_are():
    images = np.stack([image(12, seed) for seed in range(len(attacks.ATTACKS))])
    ids = jnp.arange(len(images))
    found = np.asarray(jax.jit(attacks.changed)(jax.random.key(0), images, attacks.of_ids(ids)))
    assert found.min() >= 0 and found.max() <= 1
    moved = np.abs(found - images).max((1, 2, 3)) > 1e-5
    needs_no_model = [any(attack._replace(epsilon=0.0)) for attack in attacks.ATTACKS.values()]
    assert moved.tolist() == needs_no_model


def test_the_fast_gradient_sign_step_is_epsilon_in_the_direction_of_the_loss():
    weights = jnp.array([[1.0, -2.0], [0.0, 3.0]])[None, :, :, None]
    images = jnp.full((2, 2, 2, 1), 0.5)
    found = attacks.fast_gradient_sign(lambda x: (weights * x).sum((1, 2, 3)), images, jnp.array([0.1, 0.8]))
    np.testing.assert_allclose(found[0, ..., 0], [[0.6, 0.4], [0.5, 0.6]], rtol=1e-6)
    np.testing.assert_allclose(found[1, ..., 0], [[1.0, 0.0], [0.5, 1.0]], rtol=1e-6)


SHARES = np.array([0.55, 0.3, 0.15])
SIZE = 11


def test_parts_are_dealt_out_without_gaps_and_of_the_right_mean_length():
    offsets = (jnp.arange(1000) + 0.5) / 1000
    found = np.asarray(jax.vmap(lambda u: compression.edges(jnp.array(SHARES), SIZE, u))(offsets))
    assert (found[:, 0] == 0).all() and (found[:, -1] == SIZE).all() and (np.diff(found) >= 0).all()
    np.testing.assert_allclose(np.diff(found).mean(0), SIZE * SHARES, atol=0.01)


@pytest.mark.parametrize("shares", [SHARES, np.full(3, 1 / 3)], ids=["by weight", "equal"])
def test_what_all_workers_send_is_their_weighted_gradient_in_the_mean(shares):
    rng = np.random.default_rng(0)
    gradients, order = rng.standard_normal((3, SIZE)), rng.permutation(SIZE)

    def total(shift, offset):
        ends = compression.edges(jnp.array(shares), SIZE, offset)
        sent = [
            compression.piece(
                jnp.array(gradients[i]), (jnp.array(order) + shift) % SIZE, jnp.int32(i), ends, SHARES[i] / shares[i]
            )
            for i in range(3)
        ]
        return sum(sent)

    shifts, offsets = jnp.meshgrid(jnp.arange(SIZE), (jnp.arange(500) + 0.5) / 500)
    found = jax.jit(jax.vmap(total))(shifts.ravel(), offsets.ravel()).mean(0)
    np.testing.assert_allclose(found, SHARES @ gradients, atol=0.02)


def test_every_coordinate_is_sent_by_one_worker():
    ends = compression.edges(jnp.array(SHARES), SIZE, 0.7)
    sent = [compression.piece(jnp.ones(SIZE), jnp.arange(SIZE), jnp.int32(i), ends, jnp.float32(1.0)) for i in range(3)]
    np.testing.assert_array_equal(np.sum(sent, axis=0), 1.0)


def course(way, setting, seed=0):
    rng = np.random.default_rng(0)
    features = rng.integers(0, 17, (1, 40, 6)).astype(np.uint8)
    classes = (features[..., 0] > 8).astype(np.int32)
    training = Examples(features, np.where(np.arange(40) < 30, classes, -1))
    return run(Sizes(1, 12, 3, 8, 2, 16.0), way, training, Examples(features, classes), training, seed, setting)


def test_a_single_worker_sends_all_and_learns_the_same_with_shares_and_without():
    setting = {"learning_rate": 1e-2, "weight_decay": 1e-3}
    plain = course(Way("adamw", "all"), setting)
    shared = course(Way("adamw", "equal"), setting)
    np.testing.assert_allclose(shared.losses, plain.losses, rtol=1e-5)
    np.testing.assert_array_equal(shared.sent, plain.sent)
    assert plain.sent[-1, 0] == 12 * ((6 * 128 + 128) + (128 * 2 + 2))
    assert plain.losses[-1, 0].mean() < plain.losses[0, 0].mean()


def test_a_worker_is_measured_on_the_classes_that_it_has():
    found = workers.by_worker(np.array([[0.9, 0.5]]), np.array([[1.0, 0.0], [0.5, 0.5], [0.2, 0.8]]))
    np.testing.assert_allclose(found, [[0.9, 0.7, 0.58]])


def test_every_example_is_dealt_to_one_worker_and_none_is_left_with_next_to_nothing():
    classes = np.repeat(np.arange(10), 50)
    dealt = workers.deal(classes, 8, 0.3, seed=0)
    np.testing.assert_array_equal(np.sort(np.concatenate(dealt)), np.arange(500))
    assert min(map(len, dealt)) * workers.LARGEST >= 62 and max(map(len, dealt)) <= workers.LARGEST * 62


def test_the_loss_of_two_heads_is_that_of_the_own_one():
    rng = np.random.default_rng(0)
    outputs, targets = rng.standard_normal((4, 20)), np.array([3, 9, 10, 17])
    own = [outputs[b, 10 * (t // 10) : 10 * (t // 10) + 10] for b, t in enumerate(targets)]
    expected = [np.log(np.exp(o).sum()) - o[t % 10] for o, t in zip(own, targets, strict=True)]
    found = split.own_cross_entropy(jnp.array(outputs), jnp.array(targets), None, {})
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_second_data_set_is_drawn_only_after_it_has_joined():
    targets = np.array([0, 5, 5, 9, 10, 19])
    examples = training_set(np.arange(6), targets, size=6, num_classes=20)
    assert [int(split.available(7, step, examples)) for step in (0, 6, 7)] == [4, 4, 6]


def test_each_head_is_measured_on_its_own_examples():
    outputs = np.zeros((4, 20))
    outputs[0, 1] = outputs[1, 3] = outputs[2, 10] = outputs[3, 15] = 1.0
    first, second = split.measured(np.array([1, 2, 10, 11]), outputs)
    assert (first["accuracy"], second["accuracy"], first["worst_class"]) == (0.5, 0.5, 0.0)


def test_parts_share_no_row_and_the_official_test_set_is_kept():
    classes = np.tile(np.arange(5), 40)
    test_only = np.arange(200) >= 150
    for official in (None, test_only):
        dataset = Dataset(np.zeros((200, 4), np.uint8), classes, 1.0, official, "made up")
        parts = parts_of(dataset, 0, per_class=20)
        assert len(np.unique(np.concatenate(parts))) == sum(map(len, parts))
        assert len(parts.training) == 80 and len(parts.validation) == 20
        if official is not None:
            np.testing.assert_array_equal(np.sort(parts.test), np.flatnonzero(official))


def test_a_search_tunes_on_other_seeds_and_ends_with_the_best_setting():
    asked = []

    def trained(name, seeds, settings, on_progress):
        asked.append((tuple(seeds), [setting["x"] for setting in settings]))
        scores = np.array([-abs(setting["x"] - 0.3) for setting in settings])
        return Ran(scores, 1.0, 0.0, lambda: [{"finite": True} for _ in seeds])

    contest = Contest("made up", Budget(2, 3, 2, 4), {"a": {"x": Range(0.0, 1.0, log=False)}}, 1, {}, trained)
    lines = []
    for job in search.jobs([contest]):
        lines += job.work(lines, lambda fraction: None)
    trials = [line for line in lines if line["kind"] == "trial"]
    finals = [line for line in lines if line["kind"] == "final"]
    assert len(trials) == 6 and len(finals) == 4
    assert not set(asked[0][0]) & set(asked[-1][0])
    best = max(trials, key=lambda line: line["score"])
    assert all(line["setting"] == best["setting"] for line in finals)
