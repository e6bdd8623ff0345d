"""The networks, in Flax: images in, one logit out."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn


class MLP(nn.Module):
    """One hidden layer on flat images."""

    width: int = 64

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits ``[B]`` of images ``[B, ...]``."""
        x = nn.relu(nn.Dense(self.width)(x.reshape(x.shape[0], -1)))
        return jnp.squeeze(nn.Dense(1)(x), -1)


class CNN(nn.Module):
    """Two convolutions with stride 2, then one hidden layer; for images ``[B, height, width, channels]``."""

    channels: tuple[int, ...] = (8, 16)
    width: int = 32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits ``[B]`` of images ``[B, ...]``."""
        for channels in self.channels:
            x = nn.relu(nn.Conv(channels, (3, 3), strides=2)(x))
        x = nn.relu(nn.Dense(self.width)(x.reshape(x.shape[0], -1)))
        return jnp.squeeze(nn.Dense(1)(x), -1)


MODELS: dict[str, Callable[[], nn.Module]] = {"mlp": MLP, "cnn": CNN}
