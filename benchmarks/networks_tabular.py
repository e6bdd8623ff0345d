r"""MLP-PLR: a network for tables that sees each number through waves of trained frequencies.

A number :math:`x_f` of column f becomes, with frequencies :math:`c_f \in R^k` that start from N(0, sigma²),

.. math:: v_f = 2 \pi c_f x_f, \qquad h_f = \mathrm{ReLU}(A_f \cos v_f + B_f \sin v_f + b_f) \in R^d,

and all :math:`h_f`, beside the other columns as they are, go into an MLP. That lets it follow steps and bumps of single
columns, on which plain MLPs are slow.

References:
  Gorishniy, Rubachev, Babenko, `On Embeddings for Numerical Features in Tabular Deep Learning
  <https://arxiv.org/abs/2203.05556>`_, 2022, section 3.3
"""

import jax
import jax.numpy as jnp
from flax import linen as nn


class PeriodicEmbedding(nn.Module):
    """Numbers ``[B, F]`` as vectors ``[F, B, d]``.

    Columns come first and cosines and sines stay apart, because products of F matrices are then all that is done: a
    fifth less of a step under `jax.vmap` on a CPU than with ``[B, F, 2k]``.

    Attributes:
      num_frequencies: k.
      width: d.
      sigma: standard deviation of the frequencies at the start; the paper's most important hyperparameter.
    """

    num_frequencies: int = 8
    width: int = 8
    sigma: float = 0.1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Vectors ``[F, B, d]`` of numbers ``[B, F]``."""
        k, d, columns = self.num_frequencies, self.width, x.shape[1]
        frequencies = self.param("frequencies", nn.initializers.normal(self.sigma), (columns, k))
        fan_in = nn.initializers.lecun_normal(in_axis=(0, 2), batch_axis=1)
        kernel = self.param("kernel", fan_in, (2, columns, k, d))
        bias = self.param("bias", nn.initializers.zeros, (columns, d))
        angles = 2 * jnp.pi * frequencies[:, None, :] * x.T[:, :, None]
        cosines = jnp.einsum("fbk,fkd->fbd", jnp.cos(angles), kernel[0])
        sines = jnp.einsum("fbk,fkd->fbd", jnp.sin(angles), kernel[1])
        return nn.relu(cosines + sines + bias[:, None, :])


class MLPPLR(nn.Module):
    """Periodic embeddings of the numbers, then an MLP; for features of :func:`benchmarks.data.prepare`.

    Without numbers it is an MLP.

    Attributes:
      outputs: how many.
      num_numeric: how many of the columns, from the first, are numbers.
      widths: of the hidden layers.
      embedding: of the numbers.
    """

    outputs: int
    num_numeric: int
    widths: tuple[int, ...] = (128, 128)
    embedding: PeriodicEmbedding = PeriodicEmbedding()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Outputs ``[B, outputs]`` of features ``[B, D]``."""
        numbers, others = x[:, : self.num_numeric], x[:, self.num_numeric :]
        if self.num_numeric:
            embedded = self.embedding(numbers).swapaxes(0, 1).reshape(len(x), -1)
            others = jnp.concatenate([embedded, others], axis=1)
        for width in self.widths:
            others = nn.relu(nn.Dense(width)(others))
        return nn.Dense(self.outputs)(others)
