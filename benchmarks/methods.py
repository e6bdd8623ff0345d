"""What is compared: rows that several experiments share, with the space that each is tuned over.

What methods share has one range for all: the learning rate of Adam (or of SGD) and the weight decay. Ranges of the
adversaries contain those of the papers and the settings that these shorter runs need: at the authors' dual rates, up to
1e-3, weights hardly move within a few thousand steps.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import also_optax
from also_optax import contrib, losses
from benchmarks.training import Batch, Method, TrainingSet
from benchmarks.tuning import Range, Setting, Space

ADAM: Space = {"learning_rate": Range(1e-4, 1e-2), "weight_decay": Range(1e-4, 1e-1)}
SGD: Space = {"learning_rate": Range(1e-2, 1.0), "weight_decay": Range(1e-6, 1e-2)}
ALSO: Space = {"dual_learning_rate": Range(1e-5, 1e-1), "kl_penalty": Range(1e-3, 1.0)}
ALSO_IN_A_BALL: Space = {"dual_learning_rate": Range(1e-5, 1e-1), "radius": Range(1e-3, 1.0)}
ABSGD: Space = {"temperature": Range(1.0, 10.0), "averaging_rate": Range(0.1, 1.0, log=False)}


def inverse_frequencies(training_set: TrainingSet) -> jax.Array:
    """Weights of classes whose mean over the training set is 1, equal for every class in sum."""
    return losses.inverse_frequency_weights(training_set.class_counts)


def by_example(batch: Batch) -> jax.Array:
    """The id is the example's own."""
    return batch.indices


def by_class(batch: Batch) -> jax.Array:
    """The id is the class's."""
    return batch.classes


def by_group(batch: Batch) -> jax.Array:
    """The id is the group's."""
    return batch.groups


def with_adamw(rule: Callable[..., optax.GradientTransformation], **fixed: Any) -> Callable[[dict[str, Any], Any], Any]:
    """A builder: the rule, told what is tuned beside AdamW, then AdamW."""

    def build(setting: dict[str, Any], training_set: TrainingSet) -> optax.GradientTransformation:
        own = {name: value for name, value in setting.items() if name not in ADAM}
        return optax.chain(rule(**own, **fixed), adamw(setting, training_set))

    return build


def adamw(setting: dict[str, Any], training_set: TrainingSet) -> optax.GradientTransformation:
    """Plain AdamW."""
    return optax.adamw(setting["learning_rate"], weight_decay=setting["weight_decay"])


def sgd(setting: dict[str, Any], training_set: TrainingSet) -> optax.GradientTransformation:
    """SGD with momentum .9, the weight decay in the gradient."""
    decay = optax.add_decayed_weights(setting["weight_decay"])
    return optax.chain(decay, optax.sgd(setting["learning_rate"], momentum=0.9))


def also_by_example(
    *, balanced: bool, balanced_draws: bool = False, **fixed: Any
) -> Callable[[dict[str, Any], TrainingSet], Any]:
    """ALSO with a weight per example; padding has prior 0 and next to no frequency, so real weights are n times pi.

    Args:
      balanced: whether the prior is the inverse count of the example's class, or uniform.
      balanced_draws: whether batches are drawn class first; then so are the frequencies, and weights start at 1.
      fixed: more arguments of :func:`also_optax.also`.
    """

    def build(setting: dict[str, Any], training_set: TrainingSet) -> optax.GradientTransformation:
        real = training_set.classes >= 0
        by_class = 1 / training_set.class_counts[training_set.classes]
        mass, drawn = (by_class if chosen else jnp.ones(real.shape) for chosen in (balanced, balanced_draws))
        return also_optax.also(
            **setting,
            num_groups=len(training_set.rows),
            prior=jnp.where(real, mass, 0.0),
            group_frequencies=jnp.where(real, drawn / jnp.where(real, drawn, 0.0).sum(), 1e-30),
            average_decay=None,
            **fixed,
        )

    return build


def also_by_class(setting: dict[str, Any], training_set: TrainingSet) -> optax.GradientTransformation:
    """ALSO with a weight per class, from a uniform prior: the worst class's mean."""
    counts = training_set.class_counts
    return also_optax.also(**setting, num_groups=len(counts), group_frequencies=counts / counts.sum())


def also_by_group(setting: dict[str, Any], training_set: TrainingSet) -> optax.GradientTransformation:
    """ALSO with a weight per known group, from a uniform prior: the worst group's mean."""
    counts = training_set.group_counts
    return also_optax.also(**setting, num_groups=len(counts), group_frequencies=counts / counts.sum())


def group_dro(counts_of: Callable[[TrainingSet], jax.Array]) -> Callable[[dict[str, Any], TrainingSet], Any]:
    """Group DRO over AdamW; `counts_of` says which counts its groups have."""

    def build(setting: dict[str, Any], training_set: TrainingSet) -> optax.GradientTransformation:
        counts = counts_of(training_set)
        rule = also_optax.reweight_by_group_dro(
            len(counts), setting["step_size"], group_counts=counts, adjustment=setting["adjustment"]
        )
        return optax.chain(rule, adamw(setting, training_set))

    return build


def recover(setting: dict[str, Any], training_set: TrainingSet) -> contrib.Recover:
    """RECOVER with AdamW's step behind its direction."""
    step = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(setting["weight_decay"]))
    own = {name: setting[name] for name in ("learning_rate", "temperature", "averaging_rate")}
    return contrib.recover(**own, optimizer=step)


def extremile(order: Any, penalty: Any) -> optax.GradientTransformation:
    """The extremile of each batch, smoothed by chi-square."""
    return also_optax.reweight_by_spectral_risk(also_optax.spectra.extremile(order), penalty=penalty, smoothing="chi2")


def logit_adjusted(logits: jax.Array, targets: jax.Array, training_set: TrainingSet, setting: Setting) -> jax.Array:
    """Cross-entropy of logits plus tau times the log class prior."""
    return losses.logit_adjusted_cross_entropy(logits, targets, training_set.class_counts, setting["tau"])


def without(name: str, build: Callable[[dict[str, Any], TrainingSet], Any]) -> Callable[[dict[str, Any], Any], Any]:
    """The builder, not told what the loss alone needs."""

    def shorter(setting: dict[str, Any], training_set: TrainingSet) -> Any:
        return build({key: value for key, value in setting.items() if key != name}, training_set)

    return shorter


METHODS: dict[str, Method] = {
    "adamw": Method("plain AdamW", ADAM, adamw, robust=False),
    "adamw-prior": Method(
        "AdamW, logits shifted by the log class prior afterwards", ADAM, adamw, robust=False, corrects_prior=True
    ),
    "static": Method(
        "AdamW, inverse class frequencies as weights", ADAM, adamw, robust=False, class_weights=inverse_frequencies
    ),
    "upsampling": Method("AdamW, batches drawn class first", ADAM, adamw, robust=False, balanced_draws=True),
    "logit-adjustment": Method(
        "AdamW, logits shifted by tau times the log class prior in the loss",
        {**ADAM, "tau": Range(0.5, 2.0, log=False)},
        without("tau", adamw),
        robust=False,
        loss=logit_adjusted,
    ),
    "also-examples": Method(
        "ALSO, a weight per example, class-balanced prior",
        {**ADAM, **ALSO},
        also_by_example(balanced=True),
        groups=by_example,
    ),
    "also-lookahead": Method(
        "the same in the two-point form of the authors' code",
        {**ADAM, **ALSO},
        also_by_example(balanced=True, lookahead=True),
        groups=by_example,
    ),
    "also-balanced": Method(
        "ALSO, a weight per example, class-balanced prior; batches drawn class first",
        {**ADAM, **ALSO},
        also_by_example(balanced=True, balanced_draws=True),
        groups=by_example,
        balanced_draws=True,
    ),
    "also-balanced-lookahead": Method(
        "the same in the two-point form of the authors' code",
        {**ADAM, **ALSO},
        also_by_example(balanced=True, balanced_draws=True, lookahead=True),
        groups=by_example,
        balanced_draws=True,
    ),
    "also-uniform": Method(
        "ALSO, a weight per example, uniform prior",
        {**ADAM, **ALSO},
        also_by_example(balanced=False),
        groups=by_example,
    ),
    "also-classes": Method("ALSO, a weight per class, uniform prior", {**ADAM, **ALSO}, also_by_class, groups=by_class),
    "also-classes-ball": Method(
        "the same, kept within a KL radius of the prior in place of the pull",
        {**ADAM, **ALSO_IN_A_BALL},
        also_by_class,
        groups=by_class,
    ),
    "also-groups": Method("ALSO, a weight per group, uniform prior", {**ADAM, **ALSO}, also_by_group, groups=by_group),
    "group-dro": Method(
        "Group DRO by class, over AdamW",
        {**ADAM, "step_size": Range(1e-4, 1e-1), "adjustment": Range(0.0, 5.0, log=False)},
        group_dro(lambda training_set: training_set.class_counts),
        groups=by_class,
    ),
    "group-dro-groups": Method(
        "Group DRO by group, over AdamW",
        {**ADAM, "step_size": Range(1e-4, 1e-1), "adjustment": Range(0.0, 5.0, log=False)},
        group_dro(lambda training_set: training_set.group_counts),
        groups=by_group,
    ),
    "absgd": Method(
        "ABSGD: SGD with momentum .9",
        {**SGD, **ABSGD},
        lambda setting, training_set: also_optax.absgd(**setting),
    ),
    "abadam": Method("ABAdam", {**ADAM, **ABSGD}, lambda setting, training_set: also_optax.abadam(**setting)),
    "rgd": Method(
        "RGD with the KL divergence, over AdamW",
        {**ADAM, "clip": Range(0.5, 10.0)},
        with_adamw(also_optax.reweight_by_rgd),
    ),
    "cvar": Method("CVaR of each batch", {**ADAM, "alpha": Range(0.1, 1.0)}, with_adamw(also_optax.reweight_by_cvar)),
    "chi2": Method(
        "chi-square ball around each batch",
        {**ADAM, "radius": Range(0.01, 3.0)},
        with_adamw(also_optax.reweight_by_chi2),
    ),
    "spectral": Method(
        "spectral risk of each batch: the extremile, smoothed by chi-square",
        {**ADAM, "order": Range(1.0, 5.0), "penalty": Range(0.01, 10.0)},
        with_adamw(extremile),
    ),
    "recover": Method(
        "RECOVER: KL-DRO with variance reduction, two gradients a step",
        {**ADAM, "temperature": Range(1.0, 10.0), "averaging_rate": Range(0.05, 1.0)},
        recover,
    ),
}
