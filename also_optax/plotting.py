"""A picture of the game between model and adversary, from what :func:`also_optax.diagnostics` said of each step."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MOST_NAMED = len(_COLOURS)
_PANELS = {
    "group_losses": ("Moving average of each group's loss", "loss"),
    "group_weights": ("The adversary's weights", "pi"),
    "values": ("Robust and plain value", "loss"),
    "gap": ("The adversary's gap", "max F(p) - F(pi)"),
    "kl": ("Distance from the prior", "KL(pi ‖ prior), nats"),
    "effective_groups": ("Effective number of groups", "1 / sum(pi²)"),
}
_VALUES = {"robust_value": ("-", "robust"), "erm_value": ("--", "plain")}
"""Both in one panel, by line and label."""


def plot_diagnostics(
    history: Mapping[str, ArrayLike] | Sequence[Mapping[str, ArrayLike]],
    *,
    group_names: Sequence[str] | None = None,
    steps: ArrayLike | None = None,
) -> Any:
    """Draws how a run went: losses and weights of the groups, the values of the game, the gap.

    A panel is drawn for each of ``group_losses``, ``group_weights``, ``robust_value`` with ``erm_value``, ``gap``,
    ``kl`` and ``effective_groups`` that is in the history; other entries are ignored. More than seven groups are drawn
    as thin lines without names, the heaviest at the end on top.

    Args:
      history: what :func:`also_optax.diagnostics` returned at each of T steps, with :func:`also_optax.group_weights` as
        ``group_weights`` if you like: a list of T dicts, or one dict of stacked arrays, ``[T]`` or ``[T, G]``, as
        ``jax.lax.scan`` gives.
      group_names: G names for the legend; None numbers them.
      steps: the T steps of the history, for the axis; None counts from 0.

    Returns:
      A ``matplotlib.figure.Figure``.

    Raises:
      ImportError: if matplotlib is not installed.
      ValueError: if there is nothing to draw, or a length does not fit.

    Examples:
      >>> import jax, jax.numpy as jnp, also_optax
      >>> from also_optax.plotting import plot_diagnostics
      >>> tx = also_optax.reweight_by_also(2, dual_learning_rate=0.5)
      >>> opt_state, history = tx.init(None), []
      >>> for _ in range(3):
      ...     _, opt_state = tx.update(None, opt_state, losses=jnp.array([1.0, 2.0]), groups=jnp.array([0, 1]))
      ...     history.append(also_optax.diagnostics(opt_state) | {"group_weights": also_optax.group_weights(opt_state)})
      >>> len(plot_diagnostics(history, group_names=["common", "rare"]).axes)
      6
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("`plot_diagnostics` draws with matplotlib: `pip install matplotlib`.") from error
    stacked = _stacked(history)
    panels = [name for name in _PANELS if name in stacked or (name == "values" and set(_VALUES) & set(stacked))]
    if not panels:
        raise ValueError(f"`history` has nothing to draw: none of {', '.join((*_PANELS, *_VALUES))}.")
    length = len(next(iter(stacked.values())))
    x = np.arange(length) if steps is None else np.asarray(steps)
    if x.shape != (length,):
        raise ValueError(f"`steps` must have one entry per step, shape ({length},), got shape {x.shape}.")

    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.3 * columns, 3.3 * rows), layout="constrained")
    for axes, name in zip(figure.subplots(rows, columns, squeeze=False).flat, panels, strict=False):
        title, label = _PANELS[name]
        axes.set_title(title, loc="left", fontsize=10)
        axes.set(xlabel="step", ylabel=label)
        axes.spines[["top", "right"]].set_visible(False)
        if name == "values":
            for key, (style, value_name) in _VALUES.items():
                if key in stacked:
                    axes.plot(x, stacked[key], style, color=_COLOURS[0], label=value_name)
            axes.legend(frameon=False, fontsize=8)
        elif stacked[name].ndim == 2:
            _draw_groups(axes, x, stacked[name], group_names)
        else:
            axes.plot(x, stacked[name], color=_COLOURS[0])
    for axes in figure.axes[len(panels) :]:
        axes.remove()
    return figure


def _stacked(history: Any) -> dict[str, np.ndarray]:
    """Arrays over the steps, by name."""
    if not isinstance(history, Mapping):
        if not history:
            raise ValueError("`history` is empty.")
        names = [name for name in history[0] if all(name in entry for entry in history)]
        history = {name: np.stack([np.asarray(entry[name]) for entry in history]) for name in names}
    stacked = {name: np.asarray(values) for name, values in history.items() if name in _PANELS or name in _VALUES}
    lengths = {len(values) if values.ndim else None for values in stacked.values()}
    if None in lengths or len(lengths) > 1:
        shapes = {name: values.shape for name, values in stacked.items()}
        raise ValueError(f"`history` must have one entry per step, the same number of all, got shapes {shapes}.")
    return stacked


def _draw_groups(axes: Any, x: np.ndarray, values: np.ndarray, names: Sequence[str] | None) -> None:
    groups = values.shape[1]
    if names is not None and len(names) != groups:
        raise ValueError(f"`group_names` must have one entry per group, here {groups}, got {len(names)}.")
    if groups > _MOST_NAMED:
        for group in np.argsort(values[-1]):
            axes.plot(x, values[:, group], color=_COLOURS[0], alpha=0.3, linewidth=0.7)
        return
    for group in range(groups):
        name = f"group {group}" if names is None else names[group]
        axes.plot(x, values[:, group], color=_COLOURS[group], label=name)
    axes.legend(frameon=False, fontsize=8)
