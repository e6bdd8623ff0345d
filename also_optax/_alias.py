"""Ready-made optimizers: a rule, chained with the primal step of its paper."""

from typing import Any, Literal

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from also_optax import divergences
from also_optax._base import AxisName
from also_optax._hyperparams import is_static_zero
from also_optax._optimism import optimistic_gradient, past_extragradient
from also_optax.divergences import Divergence
from also_optax.rules.absgd import reweight_by_absgd
from also_optax.rules.also import reweight_by_also
from also_optax.rules.cvar import reweight_by_cvar
from also_optax.rules.group_dro import reweight_by_group_dro
from also_optax.rules.rgd import reweight_by_rgd
from also_optax.rules.tilted import reweight_by_tilted


def also(
    learning_rate: optax.ScalarOrSchedule,
    num_groups: int,
    *,
    dual_learning_rate: optax.ScalarOrSchedule = 1e-3,
    kl_penalty: optax.ScalarOrSchedule | None = None,
    radius: optax.ScalarOrSchedule | None = None,
    target_ess: optax.ScalarOrSchedule | None = None,
    optimism: ArrayLike = 1.0,
    prior: ArrayLike | None = None,
    group_frequencies: ArrayLike | Literal["pi"] | None = None,
    lookahead: bool = False,
    lazy: bool | None = None,
    dual_adam: bool = False,
    min_weight: ArrayLike = 0.0,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    weight_decay: ArrayLike = 1e-4,
    mask: Any = None,
    optimizer: optax.GradientTransformation | None = None,
    max_loss: optax.ScalarOrSchedule = jnp.inf,
    average_decay: ArrayLike | None = 0.99,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """ALSO: AdamW for the model, an optimistic KL mirror step for the weights of groups or of single examples.

    **For known groups pass** ``group_frequencies=counts / counts.sum()``, which makes the objective the worst group's
    *mean* loss; the default is the paper's eq. (4), right for one weight per example (``num_groups`` the size of the
    data, ``groups`` the indices of the batch). That and the choice of strength are explained at
    :func:`also_optax.reweight_by_also`.

    Special cases: ``dual_learning_rate=0, optimism=0`` with `prior` equal to `group_frequencies` (or both None) is
    ``optax.adamw``, to rounding; ``optimism=0`` without `lookahead` is descent-ascent.

    Args:
      learning_rate: of the model; a scalar or a schedule of optimizer steps.
      num_groups: G, a Python int.
      dual_learning_rate: eta of the adversary; a scalar or a schedule.
      kl_penalty: tau, the adversary's pull to the prior, in units of the loss; a scalar or a schedule. None is 1e-2, or
        no pull with a `radius` or a `target_ess`.
      radius: in place of the pull, the largest KL(pi ‖ prior), in nats; a scalar or a schedule.
      target_ess: the same as a smallest effective number of groups. See :func:`also_optax.reweight_by_also` for both.
      optimism: alpha, of the model's gradient and of the adversary's; the Python number 0 keeps no previous gradients.
      prior: pi-hat and the weights to start from, ``[G]``; None is uniform.
      group_frequencies: q, the chance that a drawn example is of each group, ``[G]``, None (1/G) or ``"pi"``.
      lookahead: False is the paper's form, by negative momentum. True is the two-point form of the authors' code: the
        parameters that you hold are the extrapolated point, :func:`also_optax.eval_params` gives the point itself, and
        the moments of Adam move twice a step.
      lazy: True touches only the batch's entries of pi, in time that does not grow with G; None: by G. See
        :func:`also_optax.reweight_by_also`.
      dual_adam: whether the adversary's gradient goes through Adam too.
      min_weight: no weight falls below ``min_weight/G``.
      b1: Adam's decay of the first moment.
      b2: Adam's decay of the second moment.
      eps: Adam's epsilon.
      weight_decay: decoupled, as in ``optax.adamw`` (the authors' code: coupled, 1e-3).
      mask: which parameters decay, as in ``optax.adamw``.
      optimizer: any transformation *before* the learning rate, such as ``optax.scale_by_lion()``, in Adam's place,
        whose settings are then ignored. A complete optimizer, such as ``optax.lion(1e-3)``, would go uphill.
      max_loss: losses above it are rejected; a scalar or a schedule.
      average_decay: of the group losses that :func:`also_optax.diagnostics` reports on; None keeps none.
      axis_name: the mapped axes that split the batch, inside ``shard_map``.

    Returns:
      An optimizer whose update needs ``losses`` and ``groups``, as ``**rw.extra_args``.

    Raises:
      TypeError: if `num_groups` is not a Python int.
      ValueError: if an argument is out of range or of the wrong shape.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, also_optax
      >>> x, groups = jnp.array([0.0, 0.1, 0.2, 1.0]), jnp.array([0, 0, 0, 1])
      >>> frequencies = jnp.array([0.75, 0.25])
      >>> tx = also_optax.also(0.05, 2, dual_learning_rate=0.1, kl_penalty=0.01, group_frequencies=frequencies)
      >>> loss_and_grad = also_optax.value_and_grad(lambda mean, x: (mean - x) ** 2)
      >>> @jax.jit
      ... def step(mean, opt_state):
      ...     (loss, rw), grads = loss_and_grad(mean, opt_state, x, groups=groups)
      ...     updates, opt_state = tx.update(grads, opt_state, mean, **rw.extra_args)
      ...     return optax.apply_updates(mean, updates), opt_state
      >>> mean, opt_state = jnp.array(0.0), tx.init(jnp.array(0.0))
      >>> for _ in range(300):
      ...     mean, opt_state = step(mean, opt_state)
      >>> print(f"plain mean {x.mean():.1f}, mean that serves both groups alike {mean:.1f}")
      plain mean 0.3, mean that serves both groups alike 0.5

    References:
      *Aligning Distributionally Robust Optimization with Practical Deep Learning Needs*,
      `arXiv 2508.16734 <https://arxiv.org/abs/2508.16734>`_, Algorithm 1.
    """
    rule = reweight_by_also(
        num_groups,
        dual_learning_rate=dual_learning_rate,
        kl_penalty=kl_penalty,
        radius=radius,
        target_ess=target_ess,
        optimism=optimism,
        prior=prior,
        group_frequencies=group_frequencies,
        lookahead=lookahead,
        lazy=lazy,
        dual_adam=dual_adam,
        min_weight=min_weight,
        max_loss=max_loss,
        average_decay=average_decay,
        axis_name=axis_name,
    )
    inner = [
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps) if optimizer is None else optimizer,
        optax.add_decayed_weights(weight_decay, mask),
    ]
    if lookahead:
        primal = optax.chain(*inner, optax.scale_by_learning_rate(_at_half_speed(learning_rate)))
        return optax.chain(rule, past_extragradient(primal, optimism))
    return optax.chain(rule, optimistic_gradient(optimism), *inner, optax.scale_by_learning_rate(learning_rate))


def absgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    temperature: optax.ScalarOrSchedule | None = None,
    radius: optax.ScalarOrSchedule | None = None,
    target_ess: optax.ScalarOrSchedule | None = None,
    averaging_rate: optax.ScalarOrSchedule = 0.9,
    momentum: ArrayLike | None = 0.9,
    nesterov: bool = False,
    weight_decay: ArrayLike = 0.0,
    optimizer: optax.GradientTransformation | None = None,
    max_log_ratio: optax.ScalarOrSchedule = 10.0,
    max_loss: optax.ScalarOrSchedule = jnp.inf,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """ABSGD: SGD with momentum on weights exp(loss/temperature) over their moving average.

    Special cases: ``temperature=inf`` is ``optax.sgd`` with momentum; ``averaging_rate=1, momentum=None`` descends
    temperature·logmeanexp(loss/temperature) of the batch. The two-stage recipe is at
    :func:`also_optax.reweight_by_absgd`.

    Args:
      learning_rate: a scalar or a schedule.
      temperature: lambda: above 0 robust (imbalance), below 0 for label noise; a scalar or a schedule.
      radius: in place of the temperature, how far from uniform the batch's weights are, as KL divergence in nats.
      target_ess: the same as an effective number of examples. See :func:`also_optax.reweight_by_absgd` for both.
      averaging_rate: gamma in (0, 1], the weight of the new batch (1 minus optax's decay); a scalar or a schedule.
      momentum: of SGD, in [0, 1); None or 0 is none.
      nesterov: whether the momentum is Nesterov's.
      weight_decay: outside the example weights, added to the gradient before the momentum, as in the paper.
      optimizer: any transformation *before* the learning rate, such as ``optax.scale_by_rms()``, in place of the
        momentum, which is then ignored. A complete optimizer, such as ``optax.rmsprop(1e-3)``, would go uphill.
      max_log_ratio: when the moving average restarts; inf is the paper's recursion.
      max_loss: losses above it are rejected; a scalar or a schedule.
      axis_name: the mapped axes that split the batch, inside ``shard_map``.

    Returns:
      An optimizer whose update needs ``losses``, as ``**rw.extra_args``.

    Raises:
      ValueError: if not exactly one of `temperature`, `radius` and `target_ess` is given, or a value is out of range.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> opt_state = also_optax.absgd(0.1, temperature=-1.0).init(jnp.zeros(3))
      >>> print(also_optax.example_weights(opt_state, jnp.array([0.1, 0.2, 3.0])).round(2))
      [1.53 1.39 0.08]

    References:
      *Attentional-Biased Stochastic Gradient Descent*, `arXiv 2012.06951 <https://arxiv.org/abs/2012.06951>`_,
      Algorithm 1.
    """
    if optimizer is None:
        plain = momentum is None or is_static_zero(momentum)
        optimizer = optax.identity() if plain else optax.trace(decay=momentum, nesterov=nesterov)
    return optax.chain(
        reweight_by_absgd(
            temperature,
            radius=radius,
            target_ess=target_ess,
            averaging_rate=averaging_rate,
            max_log_ratio=max_log_ratio,
            max_loss=max_loss,
            axis_name=axis_name,
        ),
        optax.add_decayed_weights(weight_decay),
        optimizer,
        optax.scale_by_learning_rate(learning_rate),
    )


def abadam(
    learning_rate: optax.ScalarOrSchedule,
    *,
    temperature: optax.ScalarOrSchedule | None = None,
    radius: optax.ScalarOrSchedule | None = None,
    target_ess: optax.ScalarOrSchedule | None = None,
    averaging_rate: optax.ScalarOrSchedule = 0.9,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    weight_decay: ArrayLike = 0.0,
    max_log_ratio: optax.ScalarOrSchedule = 10.0,
    max_loss: optax.ScalarOrSchedule = jnp.inf,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """ABAdam: AdamW on weights exp(loss/temperature) over their moving average.

    Special case: ``temperature=inf`` is ``optax.adamw`` with this `weight_decay`.

    Args:
      learning_rate: a scalar or a schedule.
      temperature: lambda: above 0 robust (imbalance), below 0 for label noise; a scalar or a schedule.
      radius: in place of the temperature, how far from uniform the batch's weights are, as KL divergence in nats.
      target_ess: the same as an effective number of examples. See :func:`also_optax.reweight_by_absgd` for both.
      averaging_rate: gamma in (0, 1], the weight of the new batch (1 minus optax's decay); a scalar or a schedule.
      b1: Adam's decay of the first moment.
      b2: Adam's decay of the second moment.
      eps: Adam's epsilon.
      weight_decay: decoupled, as in ``optax.adamw``.
      max_log_ratio: when the moving average restarts; inf is the paper's recursion.
      max_loss: losses above it are rejected; a scalar or a schedule.
      axis_name: the mapped axes that split the batch, inside ``shard_map``.

    Returns:
      An optimizer whose update needs ``losses``, as ``**rw.extra_args``.

    Raises:
      ValueError: if not exactly one of `temperature`, `radius` and `target_ess` is given, or a value is out of range.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> opt_state = also_optax.abadam(1e-3, temperature=2.0).init(jnp.zeros(3))
      >>> print(also_optax.example_weights(opt_state, jnp.array([0.1, 0.2, 3.0])).round(2))
      [0.48 0.5  2.03]

    References:
      *Attentional-Biased Stochastic Gradient Descent*, `arXiv 2012.06951 <https://arxiv.org/abs/2012.06951>`_,
      Algorithm 1 with Adam.
    """
    rule = reweight_by_absgd(
        temperature,
        radius=radius,
        target_ess=target_ess,
        averaging_rate=averaging_rate,
        max_log_ratio=max_log_ratio,
        max_loss=max_loss,
        axis_name=axis_name,
    )
    return optax.chain(rule, optax.adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay))


def rgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    clip: optax.ScalarOrSchedule = 1.0,
    divergence: Divergence = divergences.kl,
    optimizer: optax.GradientTransformation | None = None,
    max_loss: optax.ScalarOrSchedule = jnp.inf,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """RGD: Adam on weights that grow with each example's own clipped loss.

    Args:
      learning_rate: usually a little below that of plain training; a scalar or a schedule.
      clip: T, above 0, in units of the loss; a scalar or a schedule.
      divergence: one of ``kl``, ``chi2``, ``reverse_kl`` of :mod:`also_optax.divergences`, or your own ``Divergence``.
      optimizer: any transformation *before* the learning rate, such as ``optax.scale_by_lion()``, in Adam's place,
        whose settings are then ignored. A complete optimizer, such as ``optax.lion(1e-3)``, would go uphill.
      max_loss: losses above it are rejected; a scalar or a schedule.
      axis_name: the mapped axes that split the batch, inside ``shard_map``.

    Returns:
      An optimizer whose update needs ``losses``, as ``**rw.extra_args``.

    Raises:
      TypeError: if `divergence` is not a ``Divergence``.
      ValueError: if `clip` is out of range.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> opt_state = also_optax.rgd(1e-3, divergence=also_optax.divergences.chi2).init(jnp.zeros(3))
      >>> print(also_optax.example_weights(opt_state, jnp.array([0.0, 1.0, 50.0])))
      [1.  1.5 1.5]

    References:
      *Stochastic Re-weighted Gradient Descent via Distributionally Robust Optimization*,
      `arXiv 2306.09222 <https://arxiv.org/abs/2306.09222>`_, Algorithm 1.
    """
    return optax.chain(
        reweight_by_rgd(clip, divergence, max_loss=max_loss, axis_name=axis_name),
        optax.scale_by_adam() if optimizer is None else optimizer,
        optax.scale_by_learning_rate(learning_rate),
    )


def cvar(
    learning_rate: optax.ScalarOrSchedule,
    *,
    alpha: optax.ScalarOrSchedule,
    optimizer: optax.GradientTransformation | None = None,
    max_loss: optax.ScalarOrSchedule = jnp.inf,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """CVaR: Adam, at optax's defaults, on the worst share of each batch.

    Special case: ``alpha=1`` is ``optax.adam``.

    Args:
      learning_rate: a scalar or a schedule. Of B examples only alpha·B count in a step: its gradient is as noisy as
        that of so small a batch.
      alpha: the share of each batch that counts, in (0, 1]; a scalar or a schedule.
      optimizer: any transformation *before* the learning rate, such as ``optax.trace(decay=0.9)`` for the SGD with
        momentum of the paper, in Adam's place, whose settings are then ignored. A complete optimizer, such as
        ``optax.sgd(1e-3)``, would go uphill.
      max_loss: losses above it are rejected; a scalar or a schedule.
      axis_name: the mapped axes that split the batch, inside ``shard_map``.

    Returns:
      An optimizer whose update needs ``losses``, as ``**rw.extra_args``.

    Raises:
      ValueError: if `alpha` is out of range.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> opt_state = also_optax.cvar(1e-3, alpha=0.5).init(jnp.zeros(3))
      >>> print(also_optax.example_weights(opt_state, jnp.array([0.1, 0.2, 3.0])))
      [0. 1. 2.]

    References:
      *Large-Scale Methods for Distributionally Robust Optimization*,
      `arXiv 2010.05893 <https://arxiv.org/abs/2010.05893>`_.
    """
    return optax.chain(
        reweight_by_cvar(alpha, max_loss=max_loss, axis_name=axis_name),
        optax.scale_by_adam() if optimizer is None else optimizer,
        optax.scale_by_learning_rate(learning_rate),
    )


def group_dro(
    learning_rate: optax.ScalarOrSchedule,
    num_groups: int,
    *,
    step_size: optax.ScalarOrSchedule = 0.01,
    group_counts: ArrayLike | None = None,
    adjustment: optax.ScalarOrSchedule = 0.0,
    prior: ArrayLike | None = None,
    momentum: ArrayLike | None = 0.9,
    weight_decay: ArrayLike = 1e-4,
    optimizer: optax.GradientTransformation | None = None,
    average_decay: ArrayLike = 0.9,
    max_loss: optax.ScalarOrSchedule = jnp.inf,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Group DRO: SGD with momentum on the losses of groups, weighed towards the worst of them.

    **Its weight decay matters.** A large network fits every group of the training data, and then no group is the worst
    one that the adversary could point to: in the paper Group DRO is better than plain training on the worst group only
    with strong regularisation, a `weight_decay` of 0.1 (CelebA) or 1 (Waterbirds) at a learning rate of 1e-5, or
    stopped early. The default is what the paper calls standard.

    Special cases: ``step_size=0`` is ``optax.sgd`` on the mean over the groups of their mean losses; a single group is
    plain training.

    Args:
      learning_rate: of the model; a scalar or a schedule of optimizer steps.
      num_groups: G, a Python int.
      step_size: eta of the adversary, in 1/loss; a scalar or a schedule.
      group_counts: n, how many examples of each group the data has, ``[G]``; needed with an `adjustment`.
      adjustment: C, at least 0: C/sqrt(n_g) is added to a group's loss; a scalar or a schedule.
      prior: the weights of the groups to start from, ``[G]``; None is uniform.
      momentum: of SGD, in [0, 1); None or 0 is none.
      weight_decay: outside the example weights, added to the gradient before the momentum, as in the authors' code.
      optimizer: any transformation *before* the learning rate, such as ``optax.scale_by_adam()``, in place of the
        momentum, which is then ignored. A complete optimizer, such as ``optax.adam(1e-3)``, would go uphill.
      average_decay: of the moving average by which groups are compared where a batch has not all of them.
      max_loss: losses above it are rejected; a scalar or a schedule.
      axis_name: the mapped axes that split the batch, inside ``shard_map``.

    Returns:
      An optimizer whose update needs ``losses`` and ``groups``, as ``**rw.extra_args``.

    Raises:
      TypeError: if `num_groups` is not a Python int.
      ValueError: if an argument is out of range or of the wrong shape, or `adjustment` is given without `group_counts`.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, also_optax
      >>> x, groups = jnp.array([0.0, 0.1, 0.2, 1.0]), jnp.array([0, 0, 0, 1])
      >>> tx = also_optax.group_dro(0.01, 2, step_size=0.1, weight_decay=0.0)
      >>> loss_and_grad = also_optax.value_and_grad(lambda mean, x: (mean - x) ** 2)
      >>> @jax.jit
      ... def step(mean, opt_state):
      ...     (loss, rw), grads = loss_and_grad(mean, opt_state, x, groups=groups)
      ...     updates, opt_state = tx.update(grads, opt_state, mean, **rw.extra_args)
      ...     return optax.apply_updates(mean, updates), opt_state
      >>> mean, opt_state = jnp.array(0.0), tx.init(jnp.array(0.0))
      >>> for _ in range(300):
      ...     mean, opt_state = step(mean, opt_state)
      >>> print(f"plain mean {x.mean():.1f}, mean that serves both groups alike {mean:.1f}")
      plain mean 0.3, mean that serves both groups alike 0.5

    References:
      *Distributionally Robust Neural Networks for Group Shifts*, `arXiv 1911.08731 <https://arxiv.org/abs/1911.08731>`_,
      Algorithm 1.
    """
    rule = reweight_by_group_dro(
        num_groups,
        step_size,
        group_counts=group_counts,
        adjustment=adjustment,
        prior=prior,
        average_decay=average_decay,
        max_loss=max_loss,
        axis_name=axis_name,
    )
    if optimizer is None:
        plain = momentum is None or is_static_zero(momentum)
        optimizer = optax.identity() if plain else optax.trace(decay=momentum)
    return optax.chain(
        rule, optax.add_decayed_weights(weight_decay), optimizer, optax.scale_by_learning_rate(learning_rate)
    )


def tilted(
    learning_rate: optax.ScalarOrSchedule,
    *,
    t: optax.ScalarOrSchedule | None = None,
    radius: optax.ScalarOrSchedule | None = None,
    target_ess: optax.ScalarOrSchedule | None = None,
    num_groups: int | None = None,
    averaging_rate: optax.ScalarOrSchedule = 1.0,
    group_frequencies: ArrayLike | None = None,
    optimizer: optax.GradientTransformation | None = None,
    max_loss: optax.ScalarOrSchedule = jnp.inf,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Tilted losses (TERM): Adam on weights exp(t·loss) of examples, or of groups by their mean losses.

    Special case: ``t=0`` is ``optax.adam``.

    Args:
      learning_rate: a scalar or a schedule.
      t: the tilt, in 1/loss: above 0 for the worst, below 0 against outliers; a scalar or a schedule.
      radius: in place of t, how far from uniform the batch's weights are, as KL divergence in nats.
      target_ess: the same as an effective number of examples; both of single examples only.
      num_groups: G, to tilt groups; None tilts single examples.
      averaging_rate: gamma in (0, 1], the weight of the new batch (1 minus optax's decay); a scalar or a schedule.
      group_frequencies: q, to weigh groups relative to all that were seen, ``[G]``; None: to those of the batch.
      optimizer: any transformation *before* the learning rate, such as ``optax.scale_by_lion()``, in Adam's place,
        whose settings are then ignored. A complete optimizer, such as ``optax.lion(1e-3)``, would go uphill.
      max_loss: losses above it are rejected; a scalar or a schedule.
      axis_name: the mapped axes that split the batch, inside ``shard_map``.

    Returns:
      An optimizer whose update needs ``losses`` (and ``groups``), as ``**rw.extra_args``.

    Raises:
      TypeError: if `num_groups` is not a Python int.
      ValueError: if not exactly one of `t`, `radius` and `target_ess` is given, an argument is out of range or of the
        wrong shape, `group_frequencies` has no `num_groups`, or a bound has one.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> opt_state = also_optax.tilted(1e-3, t=-2.0).init(jnp.zeros(3))
      >>> print(*(f"{w:.2f}" for w in also_optax.example_weights(opt_state, jnp.array([0.1, 0.2, 3.0]))))
      1.65 1.35 0.00

    References:
      *Tilted Empirical Risk Minimization*, `arXiv 2007.01162 <https://arxiv.org/abs/2007.01162>`_.
    """
    rule = reweight_by_tilted(
        t,
        radius=radius,
        target_ess=target_ess,
        num_groups=num_groups,
        averaging_rate=averaging_rate,
        group_frequencies=group_frequencies,
        max_loss=max_loss,
        axis_name=axis_name,
    )
    return optax.chain(
        rule,
        optax.scale_by_adam() if optimizer is None else optimizer,
        optax.scale_by_learning_rate(learning_rate),
    )


def _at_half_speed(learning_rate: optax.ScalarOrSchedule) -> optax.ScalarOrSchedule:
    """The schedule for an optimizer that is called twice a step."""
    if not callable(learning_rate):
        return learning_rate
    return lambda count: learning_rate(count // 2)
