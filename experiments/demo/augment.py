"""Random small distortions of digits, so that 3,200 of them teach like many more."""

from __future__ import annotations

import jax
import jax.numpy as jnp

ROTATION, SCALE, SHEAR, SHIFT, ELASTIC = 0.19, 0.13, 0.17, 2.0, 0.75  # radians, ratio, ratio, pixels, pixels


def augment(key: jax.Array, images: jax.Array) -> jax.Array:
    """(n, 28, 28, 1) to the same: each rotated, scaled, sheared, shifted and bent by its own random amounts."""
    return jax.vmap(_distort)(jax.random.split(key, len(images)), images)


def _distort(key: jax.Array, image: jax.Array) -> jax.Array:
    """Bilinear samples of the image at A (p - c) + c + shift + bend(p); outside it is black."""
    k = jax.random.split(key, 5)
    angle = jax.random.uniform(k[0], (), minval=-ROTATION, maxval=ROTATION)
    sizes = 1 + jax.random.uniform(k[1], (2,), minval=-SCALE, maxval=SCALE)
    shear = jax.random.uniform(k[2], (), minval=-SHEAR, maxval=SHEAR)
    turn = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
    turn = turn @ jnp.array([[1.0, shear], [0.0, 1.0]]) * sizes[:, None]
    grid = jnp.stack(jnp.meshgrid(jnp.arange(28.0), jnp.arange(28.0), indexing="ij"))
    shift = jax.random.uniform(k[3], (2, 1, 1), minval=-SHIFT, maxval=SHIFT)
    bend = jax.image.resize(jax.random.normal(k[4], (2, 5, 5)) * ELASTIC, (2, 28, 28), "cubic")
    where = jnp.einsum("ij,jhw->ihw", turn, grid - 13.5) + 13.5 + shift + bend
    return jax.scipy.ndimage.map_coordinates(image[..., 0], list(where), order=1)[..., None]
