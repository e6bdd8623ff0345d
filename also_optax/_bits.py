"""Bits that look random."""

import jax
import numpy as np


def mixed(bits: jax.Array) -> jax.Array:
    """A hash of 32 bits, one to one, in which each bit depends on all (the end of MurmurHash3)."""
    bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return bits ^ (bits >> np.uint32(16))
