"""Published methods to measure against that are of no use to a deep network, and so are not in the package.

They keep a table of all examples and need linear models, convex losses and data that fit into memory: there they have
linear rates where stochastic gradients have none. They stand here, and not in ``also_optax.contrib``, because what they
share with an optax optimizer is nothing: they own the data, the model and the loop.
"""

from benchmarks.baselines.drago import drago
from benchmarks.baselines.lsvrg import lsvrg

__all__ = ["drago", "lsvrg"]
