"""Glue for training libraries, where a user would otherwise write it; each module imports its library itself.

* :mod:`also_optax.integrations.flax`: a ``TrainState`` of Flax Linen that hands extra arguments on to the optimizer.

Everything else needs none: ``nnx.Optimizer``, Equinox, Orbax, Grain and optax's own wrappers take the optimizer, its
state and its extra arguments as they are.
"""
