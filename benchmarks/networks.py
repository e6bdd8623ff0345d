"""The networks, in Flax: inputs in, `outputs` numbers an example out.

Convolutions are dense layers on patches: in a `scan` or under a `vmap` over parameters XLA's own convolution is five
times slower on CPUs.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn


class MLP(nn.Module):
    """Hidden layers on flat inputs."""

    outputs: int
    widths: tuple[int, ...] = (128,)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Outputs ``[B, outputs]`` of inputs ``[B, ...]``."""
        x = x.reshape(x.shape[0], -1)
        for width in self.widths:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.outputs)(x)


class Convolution(nn.Module):
    """A convolution as a dense layer on patches, zeros beyond the edges."""

    channels: int
    size: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, h / stride, w / stride, channels]`` of images ``[B, h, w, c]``."""
        height, width = x.shape[1:3]
        before, after = (self.size - 1) // 2, self.size // 2
        x = jnp.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
        corners = [(i, j) for i in range(self.size) for j in range(self.size)]
        step = self.stride
        patches = jnp.concatenate([x[:, i : i + height : step, j : j + width : step] for i, j in corners], axis=-1)
        return nn.Dense(self.channels)(patches)


class CNN(nn.Module):
    """3x3 convolutions with stride 2, then one hidden layer; for images ``[B, height, width, channels]``."""

    outputs: int
    channels: tuple[int, ...] = (8, 16)
    width: int = 32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Outputs ``[B, outputs]`` of images ``[B, ...]``."""
        for channels in self.channels:
            x = nn.relu(Convolution(channels, stride=2)(x))
        x = nn.relu(nn.Dense(self.width)(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.outputs)(x)


class ResNet(nn.Module):
    """Residual blocks of two 3x3 convolutions with layer norms, each stage at half the resolution of the last."""

    outputs: int
    channels: tuple[int, ...] = (8, 16, 32)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Outputs ``[B, outputs]`` of images ``[B, ...]``."""
        x = nn.relu(nn.LayerNorm()(Convolution(self.channels[0], stride=2)(x)))
        for stage, channels in enumerate(self.channels):
            stride = 1 if stage == 0 else 2
            y = nn.relu(nn.LayerNorm()(Convolution(channels, stride=stride)(x)))
            y = nn.LayerNorm()(Convolution(channels)(y))
            x = nn.relu(y + (x if stride == 1 else Convolution(channels, size=1, stride=stride)(x)))
        return nn.Dense(self.outputs)(x.mean((1, 2)))


class ViT(nn.Module):
    """A small vision transformer: patches with positions, blocks of attention and a hidden layer, the tokens' mean."""

    outputs: int
    patch: int = 7
    width: int = 64
    blocks: int = 2
    heads: int = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Outputs ``[B, outputs]`` of images ``[B, h, w, c]`` whose sides are multiples of `patch`."""
        x = nn.Dense(self.width)(patches(x, self.patch))
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        for _ in range(self.blocks):
            x = x + nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x))
            y = nn.gelu(nn.Dense(2 * self.width)(nn.LayerNorm()(x)))
            x = x + nn.Dense(self.width)(y)
        return nn.Dense(self.outputs)(nn.LayerNorm()(x).mean(1))


def patches(x: jax.Array, size: int) -> jax.Array:
    """Squares of images ``[B, h, w, c]``, row by row, ``[B, h / size * w / size, size * size * c]``."""
    batch, height, width, channels = x.shape
    squares = x.reshape(batch, height // size, size, width // size, size, channels).swapaxes(2, 3)
    return squares.reshape(batch, -1, size * size * channels)
