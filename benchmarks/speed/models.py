"""The networks that are trained for time, in Flax, without state beside their parameters."""

import jax
import jax.numpy as jnp
from flax import linen as nn


class MLP(nn.Module):
    """Dense layers on flat inputs."""

    widths: tuple[int, ...] = (256, 256)
    classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits ``[B, classes]``."""
        for width in self.widths:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.classes)(x)


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    channels: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, h / stride, w / stride, channels]``."""
        y = nn.Conv(self.channels, (3, 3), self.stride, use_bias=False)(x)
        y = nn.relu(nn.GroupNorm(num_groups=4)(y))
        y = nn.GroupNorm(num_groups=4)(nn.Conv(self.channels, (3, 3), use_bias=False)(y))
        if x.shape != y.shape:
            x = nn.Conv(self.channels, (1, 1), self.stride, use_bias=False)(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """ResNet for small images; ``(2, 2, 2, 2)`` blocks are ResNet-18. GroupNorm: no running averages."""

    blocks: tuple[int, ...] = (2, 2, 2, 2)
    width: int = 16
    classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits ``[B, classes]`` of images ``[B, h, w, 3]``."""
        x = nn.relu(nn.GroupNorm(num_groups=4)(nn.Conv(self.width, (3, 3), use_bias=False)(x)))
        for stage, blocks in enumerate(self.blocks):
            for block in range(blocks):
                x = Block(self.width * 2**stage, 2 if stage and not block else 1)(x)
        return nn.Dense(self.classes)(x.mean((1, 2)))


class Transformer(nn.Module):
    """A causal language model: pre-norm, learned positions."""

    layers: int = 2
    width: int = 128
    heads: int = 4
    vocabulary: int = 256

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits ``[B, T, vocabulary]`` of tokens ``[B, T]``."""
        positions = self.param("positions", nn.initializers.normal(0.02), (tokens.shape[1], self.width))
        x = nn.Embed(self.vocabulary, self.width)(tokens) + positions[None]
        mask = nn.make_causal_mask(tokens, dtype=jnp.bool_)
        for _ in range(self.layers):
            x = x + nn.SelfAttention(self.heads)(nn.LayerNorm()(x), mask=mask)
            x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x))))
        return nn.Dense(self.vocabulary)(nn.LayerNorm()(x))
