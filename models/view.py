"""How a network looks at images of another size: resized on the device, inside the program."""

import dataclasses

import jax
import jax.numpy as jnp

METHODS = {"bilinear": "linear", "bicubic": "cubic"}  # JAX's names; as in Pillow, shrinking is antialiased


@dataclasses.dataclass(frozen=True)
class View:
    """A square of `image_size` pixels: the whole image, or the centre of the image with the short side `resize`.

    Attributes:
        image_size: side in pixels; 0: the images stay as they are.
        resize: pixels of the short side; 0: the whole image becomes the square.
        interpolation: "bilinear" or "bicubic".
    """

    image_size: int = 0
    resize: int = 0
    interpolation: str = "bilinear"

    def changes(self, shape: tuple[int, ...]) -> bool:
        """Whether images [..., H, W, C] of this shape are resized."""
        return bool(self.image_size) and (self.resize or self.image_size, *shape[-3:-1]) != (self.image_size,) * 3

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape [..., h, w, C] of what the network sees of images [..., H, W, C]."""
        return (*shape[:-3], self.image_size, self.image_size, shape[-1]) if self.image_size else tuple(shape)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images [B, H, W, C] float in [0, 1] as [B, image_size, image_size, C] in [0, 1]."""
        if not self.changes(images.shape):
            return images
        seen = self._moved(images, *self._places(images.shape[1:3]), (self.image_size, self.image_size))
        return jnp.clip(seen, 0.0, 1.0) if self.interpolation == "bicubic" else seen  # bicubic overshoots at edges

    def back(self, maps: jax.Array, size: tuple[int, int]) -> jax.Array:
        """Maps [B, h, w] of what the network sees, resized to images of `size` (H, W); 0 where it does not look."""
        if not self.image_size:
            return maps
        scale, shift = self._places(size)
        return self._moved(maps[..., None], 1 / scale, -shift / scale, size)[..., 0]

    def _places(self, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
        """(factor, shift) of rows and columns, from pixels of an image of `size` to pixels of the square."""
        long = jnp.asarray(size, jnp.float32)
        scale = self.resize / jnp.min(long) * jnp.ones(2) if self.resize else self.image_size / long
        return scale, (self.image_size - scale * long) / 2

    def _moved(self, images, scale, shift, size):
        shape = (images.shape[0], *size, images.shape[-1])
        dtype = jnp.promote_types(images.dtype, jnp.float32)
        moved = jax.image.scale_and_translate(
            images.astype(dtype), shape, (1, 2), scale, shift, METHODS[self.interpolation], antialias=True
        )
        return moved.astype(images.dtype)
