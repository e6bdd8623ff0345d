"""What is compared: one row a method, with the grid of settings that it is tuned over.

Every grid has nine settings, three learning rates by three values of what else the method has to tune, so that all
methods get the same budget. Hyperparameters arrive as tracers: a whole grid is one `jax.vmap`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import also_optax

Setting = Mapping[str, Any]


class TrainingSet(NamedTuple):
    """One training set, padded to the size of the largest of a sweep; real examples come first, sorted by class.

    Attributes:
      rows: which rows of the data set they are, int, ``[n]``.
      classes: int, ``[n]``; -1 where it is padding.
      class_counts: int, ``[C]``.
    """

    rows: jax.Array
    classes: jax.Array
    class_counts: jax.Array


class Method(NamedTuple):
    """A row of the table.

    Attributes:
      about: for the report, half a sentence.
      grid: the settings tried; each a dict of the same names.
      build: ``build(setting, training_set)``, the optimizer.
      groups: ``groups(indices, classes)`` of a batch for rules that weigh groups, else None.
      fixed_weights: ``fixed_weights(training_set)``, ``[C]``: the loss weight of each class for an optimizer without
        a rule; None where the optimizer has a rule, which weighs.
      balanced_draws: whether batches are drawn class first, then example, instead of uniformly.
      corrects_prior: whether the logits are shifted by the log class prior of the training set after training.
      trains_as: the method whose training run this one shares, or None.
    """

    about: str
    grid: tuple[Setting, ...]
    build: Callable[[Setting, TrainingSet], optax.GradientTransformation]
    groups: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    fixed_weights: Callable[[TrainingSet], jax.Array] | None = None
    balanced_draws: bool = False
    corrects_prior: bool = False
    trains_as: str | None = None


def _grid(learning_rates: tuple[float, ...], *others: Setting) -> tuple[Setting, ...]:
    return tuple({"learning_rate": rate, **other} for rate in learning_rates for other in others)


ADAM_RATES = (2e-3, 6e-3, 2e-2)
SGD_RATES = (3e-2, 1e-1, 3e-1)
DECAYS = tuple({"weight_decay": value} for value in (1e-4, 1e-2, 1e-1))
TEMPERATURES = tuple({"temperature": value} for value in (1.0, 2.0, 5.0))
CLIPS = tuple({"clip": value} for value in (1.0, 3.0, 10.0))
# First the authors' defaults, under which the weights of so short a run hardly meet the pull to the prior, then two
# pairs that do: within 1000 steps and within 33.
ADVERSARIES = tuple(
    {"dual_learning_rate": rate, "kl_penalty": penalty} for rate, penalty in ((1e-3, 1e-2), (1e-2, 1e-1), (3e-2, 1.0))
)


def _adamw(setting: Setting, training_set: TrainingSet) -> optax.GradientTransformation:
    return optax.adamw(**setting)


def _also_examples(setting: Setting, training_set: TrainingSet) -> optax.GradientTransformation:
    """One weight per example; padding has prior 0 and next to no frequency, so real weights are n times pi."""
    real = training_set.classes >= 0
    prior = jnp.where(real, 1 / training_set.class_counts[training_set.classes], 0.0)
    frequencies = jnp.where(real, 1 / training_set.class_counts.sum(), 1e-30)
    return also_optax.also(
        **setting,
        num_groups=len(training_set.rows),
        prior=prior,
        group_frequencies=frequencies,
        average_decay=None,
    )


def _also_classes(setting: Setting, training_set: TrainingSet) -> optax.GradientTransformation:
    counts = training_set.class_counts
    return also_optax.also(**setting, num_groups=len(counts), group_frequencies=counts / counts.sum())


def _absgd(setting: Setting, training_set: TrainingSet) -> optax.GradientTransformation:
    return also_optax.absgd(**setting, averaging_rate=0.5)


def _abadam(setting: Setting, training_set: TrainingSet) -> optax.GradientTransformation:
    return also_optax.abadam(**setting, averaging_rate=0.5)


def _rgd(setting: Setting, training_set: TrainingSet) -> optax.GradientTransformation:
    return also_optax.rgd(**setting)


def _ones(training_set: TrainingSet) -> jax.Array:
    return jnp.ones(len(training_set.class_counts))


def _inverse_frequency(training_set: TrainingSet) -> jax.Array:
    counts = training_set.class_counts
    return counts.sum() / (len(counts) * counts)


def _by_example(indices: jax.Array, classes: jax.Array) -> jax.Array:
    return indices


def _by_class(indices: jax.Array, classes: jax.Array) -> jax.Array:
    return classes


METHODS: dict[str, Method] = {
    "adamw": Method("plain AdamW", _grid(ADAM_RATES, *DECAYS), _adamw, fixed_weights=_ones),
    "adamw-prior": Method(
        "the runs of adamw, logits shifted by the log class prior afterwards",
        _grid(ADAM_RATES, *DECAYS),
        _adamw,
        fixed_weights=_ones,
        corrects_prior=True,
        trains_as="adamw",
    ),
    "static": Method(
        "AdamW, inverse class frequencies as weights", _grid(ADAM_RATES, *DECAYS), _adamw, None, _inverse_frequency
    ),
    "upsampling": Method(
        "AdamW, batches drawn class first", _grid(ADAM_RATES, *DECAYS), _adamw, fixed_weights=_ones, balanced_draws=True
    ),
    "also-examples": Method(
        "ALSO, a weight per example, class-balanced prior", _grid(ADAM_RATES, *ADVERSARIES), _also_examples, _by_example
    ),
    "also-classes": Method(
        "ALSO, a weight per class, uniform prior", _grid(ADAM_RATES, *ADVERSARIES), _also_classes, _by_class
    ),
    "absgd": Method("ABSGD, momentum .9, averaging rate .5", _grid(SGD_RATES, *TEMPERATURES), _absgd),
    "abadam": Method("ABAdam, averaging rate .5", _grid(ADAM_RATES, *TEMPERATURES), _abadam),
    "rgd": Method("RGD with the KL divergence", _grid(ADAM_RATES, *CLIPS), _rgd),
}
