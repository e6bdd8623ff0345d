"""The ``TrainState`` of Flax Linen, with an optimizer that is told more than gradients.

Flax's own ``apply_gradients`` has no way to hand extra arguments on to ``tx.update``; its keywords are fields of the
state to replace. Here they are one argument, `extra_args`, and everything else is Flax's.
"""

import functools
from collections.abc import Mapping
from typing import Any, Self

import optax

try:
    from flax.training import train_state
except ImportError as error:
    raise ImportError("`also_optax.integrations.flax` needs Flax: `pip install flax`.") from error


class TrainState(train_state.TrainState):
    """``flax.training.train_state.TrainState``, whose `apply_gradients` takes the optimizer's extra arguments.

    It is made by ``TrainState.create(apply_fn=, params=, tx=)``, subclassed for more fields and saved as Flax's own; an
    optimizer that takes no extra arguments may be in it too, and is not told any.

    Examples:
      >>> import jax.numpy as jnp, also_optax
      >>> from also_optax.integrations.flax import TrainState
      >>> def apply_fn(variables, x):
      ...     return variables["params"]["scale"] * x
      >>> state = TrainState.create(apply_fn=apply_fn, params={"scale": jnp.array(1.0)}, tx=also_optax.rgd(0.1))
      >>> def losses_of(params):
      ...     return (state.apply_fn({"params": params}, jnp.array([1.0, 2.0])) - 3) ** 2
      >>> (loss, rw), grads = also_optax.value_and_grad(losses_of)(state.params, state.opt_state)
      >>> state = state.apply_gradients(grads=grads, extra_args=rw.extra_args)
      >>> print(state.step, state.params["scale"].round(3))
      1 1.1
    """

    def apply_gradients(self, *, grads: Any, extra_args: Mapping[str, Any] | None = None, **kwargs: Any) -> Self:
        """One optimizer step, as in Flax.

        Args:
          grads: gradients, of the structure of `params`.
          extra_args: what ``tx.update`` is told beside them: ``rw.extra_args``, of :func:`also_optax.reweight`, or
            ``rw.extra_args | {"value": loss}`` where a transformation wants more. None is nothing.
          **kwargs: fields to replace, such as ``batch_stats=`` of a subclass that has them.

        Returns:
          The state after the step.

        Raises:
          TypeError: if `tx` has a rule, and `extra_args` no losses for it.
        """
        update = functools.partial(optax.with_extra_args_support(self.tx).update, **(extra_args or {}))
        told = self.replace(tx=optax.GradientTransformation(self.tx.init, update))
        stepped = super(TrainState, told).apply_gradients(grads=grads, **kwargs)
        return stepped.replace(tx=kwargs.get("tx", self.tx))
