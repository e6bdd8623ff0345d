"""The picture of a run has a panel for what the rule can say, and refuses what does not fit."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import also_optax
from also_optax.plotting import plot_diagnostics
from tests import problems

STEPS = 6


def history_of(tx):
    stacked = problems.batches(STEPS)

    def step(opt_state, batch):
        _, opt_state = tx.update(None, opt_state, losses=batch.y**2, groups=batch.groups)
        return opt_state, also_optax.diagnostics(opt_state)

    return jax.jit(lambda: jax.lax.scan(step, tx.init(None), stacked)[1])()


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


def test_a_run_of_also_has_its_groups_values_and_gap(tmp_path):
    history = history_of(also_optax.reweight_by_also(problems.NUM_GROUPS))
    figure = plot_diagnostics(history, group_names=["a", "b", "c"], steps=np.arange(STEPS) * 10)
    assert len(titles(figure)) == 5 and "The adversary's gap" in titles(figure)
    losses = next(axes for axes in figure.axes if "each group's loss" in axes.get_title(loc="left"))
    assert [line.get_label() for line in losses.lines] == ["a", "b", "c"]
    np.testing.assert_allclose(losses.lines[1].get_ydata(), history["group_losses"][:, 1])
    np.testing.assert_array_equal(losses.lines[1].get_xdata(), np.arange(STEPS) * 10)
    figure.savefig(tmp_path / "run.png")
    assert (tmp_path / "run.png").stat().st_size > 10_000


def test_a_list_of_dicts_is_drawn_as_stacked_arrays_are():
    history = history_of(also_optax.reweight_by_also(problems.NUM_GROUPS))
    entries = [{name: values[t] for name, values in history.items()} for t in range(STEPS)]
    ours, theirs = plot_diagnostics(entries), plot_diagnostics(history)
    assert titles(ours) == titles(theirs)
    for mine, other in zip(ours.axes, theirs.axes, strict=True):
        for line, same in zip(mine.lines, other.lines, strict=True):
            np.testing.assert_array_equal(line.get_ydata(), same.get_ydata())


def test_a_rule_without_groups_has_its_value_alone():
    figure = plot_diagnostics(history_of(also_optax.reweight_by_absgd(2.0)))
    assert titles(figure) == ["Robust and plain value"]


def test_many_groups_are_drawn_without_names():
    figure = plot_diagnostics({"group_weights": np.random.default_rng(0).dirichlet(np.ones(20), size=5)})
    assert len(figure.axes[0].lines) == 20 and figure.axes[0].get_legend() is None


@pytest.mark.parametrize(
    ("history", "settings", "message"),
    [
        ([], {}, "`history` is empty"),
        ({"rejected": jnp.zeros(3)}, {}, "nothing to draw"),
        ({"gap": jnp.zeros(3), "kl": jnp.zeros(4)}, {}, "the same number of all"),
        ({"gap": jnp.array(1.0)}, {}, "one entry per step"),
        ({"gap": jnp.zeros(3)}, {"steps": [1, 2]}, r"`steps` must have one entry per step, shape \(3,\)"),
        ({"group_losses": jnp.zeros((3, 2))}, {"group_names": ["a"]}, "one entry per group, here 2, got 1"),
    ],
)
def test_what_does_not_fit_is_refused(history, settings, message):
    with pytest.raises(ValueError, match=message):
        plot_diagnostics(history, **settings)


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        plot_diagnostics({"gap": jnp.zeros(3)})
