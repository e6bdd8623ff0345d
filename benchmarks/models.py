"""The networks, in Flax: images in, one logit out."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn


class MLP(nn.Module):
    """One hidden layer on flat images."""

    width: int = 32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits ``[B]`` of images ``[B, ...]``."""
        x = nn.relu(nn.Dense(self.width)(x.reshape(x.shape[0], -1)))
        return jnp.squeeze(nn.Dense(1)(x), -1)


class CNN(nn.Module):
    """Two 3x3 convolutions with stride 2, then one hidden layer; for images ``[B, height, width, channels]``.

    A convolution is a dense layer on patches here: `jax.vmap` over parameters turns `flax.linen.Conv` into a grouped
    convolution, which is four times slower on CPUs.
    """

    channels: tuple[int, ...] = (8, 16)
    width: int = 32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits ``[B]`` of images ``[B, ...]``."""
        for channels in self.channels:
            x = nn.relu(nn.Dense(channels)(_patches(x)))
        x = nn.relu(nn.Dense(self.width)(x.reshape(x.shape[0], -1)))
        return jnp.squeeze(nn.Dense(1)(x), -1)


def _patches(x: jax.Array, size: int = 3, stride: int = 2) -> jax.Array:
    """The patches that a convolution looks at, ``[B, h / stride, w / stride, size * size * channels]``."""
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (0, size - 1), (0, size - 1), (0, 0)))
    corners = [(i, j) for i in range(size) for j in range(size)]
    return jnp.concatenate([x[:, i : i + height : stride, j : j + width : stride] for i, j in corners], axis=-1)


MODELS: dict[str, Callable[[], nn.Module]] = {"mlp": MLP, "cnn": CNN}
