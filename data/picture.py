"""Reads one picture file, of any known format, orientation, depth and transparency, as a square of uint8 pixels."""

import contextlib
import functools
import importlib.util
import io
import struct
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from registry import UserError, unknown

# The content decides a file's format. The ending decides what an unreadable file counts as: a damaged picture if it has
# one of `ENDINGS`, else no picture.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM", "QOI")
ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".j2c", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".qoi"),
)
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
LARGE = 89_478_485  # pixels, Pillow's own limit; a larger JPEG is decoded at a reduced scale
LARGEST = 2**30  # pixels; a larger picture of another format, which can only be decoded whole, is refused
INTERPOLATIONS = ("bilinear", "bicubic")
MISSING = 1 / 20  # the largest share of lines that a picture may lack at its end


class Picture(NamedTuple):
    """What `read` returns.

    Attributes:
        pixels: [size, size, channels] uint8.
        facts: some of "grey" (the three channels are equal), "frames" (the first of several), "reduced" (decoded at a
            reduced scale).
    """

    pixels: np.ndarray
    facts: frozenset[str]


class Unreadable(Exception):
    """The file cannot be read; the text is the reason."""


class EndsEarly(Unreadable):
    """The file ends before its last pixel. Within `reading(truncated=True)`, `read` returns what is there."""


class Unscaled(Exception):
    """A picture of 16-bit grey that does not say how many of its bits are used; `maximum` is its largest value."""

    def __init__(self, maximum: int):
        super().__init__(maximum)
        self.maximum = maximum


@contextlib.contextmanager
def reading(truncated: bool = False):
    """The context that `read` needs. Pillow accepts large pictures and, with `truncated`, pictures that end early.

    Both are global settings of Pillow, so they hold in every thread. They are restored at the end.
    """
    _begin()
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, truncated
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


@functools.cache
def always_reading() -> None:
    """Makes `reading` hold for the rest of the process: threads that read ahead begin and end at any moment."""
    _begin()
    Image.MAX_IMAGE_PIXELS = None


def _begin() -> None:
    Image.init()
    if importlib.util.find_spec("pillow_heif") and "HEIF" not in Image.OPEN:
        import pillow_heif

        pillow_heif.register_heif_opener()


def is_picture(path: str) -> bool:
    """Whether a file is a picture by its ending, or else by its content. Call it within `reading`."""
    if path.lower().endswith(ENDINGS):
        return True
    try:
        with _open(path):
            return True
    except Exception:  # Pillow raises many kinds for a file that is no picture
        with contextlib.suppress(OSError), open(path, "rb") as file:
            return _is_heif(file.read(12))
        return False


class Form(NamedTuple):
    """The form that pictures are brought into.

    Attributes:
        size: side in pixels of the square.
        channels: 3 for RGB, 1 for grey (a colour picture becomes its luminance).
        resize: length of the resized short side in pixels; the centre is cropped from it. 0: the whole picture becomes
            the square, and the aspect is not kept.
        interpolation: Pillow's filter, one of `INTERPOLATIONS`.
    """

    size: int
    channels: int = 3
    resize: int = 0
    interpolation: str = "bilinear"

    def check(self) -> "Form":
        """Returns the form itself. Raises `UserError` for values that are not allowed or exclude each other."""
        if self.channels not in (1, 3):
            raise UserError(f"--channels must be 1 (grey) or 3 (RGB); got {self.channels}.")
        if self.interpolation not in INTERPOLATIONS:
            raise unknown("interpolation", self.interpolation, INTERPOLATIONS)
        if 0 < self.resize < self.size:
            raise UserError(
                f"--resize {self.resize} is the short side that --image_size {self.size} is cropped from; "
                f"give at least {self.size}."
            )
        return self

    def fitted(self, image: Image.Image) -> Image.Image:
        """The square: the whole picture, or the centre of the picture with the short side `resize`."""
        filters, size = Image.Resampling[self.interpolation.upper()], (self.size, self.size)
        if not self.resize:
            return image.resize(size, filters)
        short = min(image.size)
        width, height = (side * self.resize // short for side in image.size)
        left, upper = round((width - self.size) / 2), round((height - self.size) / 2)
        return image.resize((width, height), filters).crop((left, upper, left + self.size, upper + self.size))


def read(path: str | bytes, form: Form, top: int | None = None) -> Picture:
    """Reads a picture and brings it into a form. Call it within `reading`.

    The picture is turned as its EXIF says. Transparency becomes white. Grey of 16 bits becomes grey of 8 bits.

    Args:
        path: of the file, or the file's content.
        form: of the image.
        top: the value of 16-bit grey that becomes 255, for a file that does not say how many of its bits are used.

    Raises:
        Unscaled: `top` is None, and the picture needs one.
        EndsEarly: the file ends before its last pixel, and the context is not `reading(truncated=True)`.
        Unreadable: the file cannot be read.
    """
    return _opened(path, lambda image: _read(image, path, form, top))


def size(path: str | bytes) -> tuple[int, int]:
    """(height, width) of a picture that is turned as its EXIF says. `path` is as in `read`; nothing is decoded.

    Raises:
        Unreadable: the file is no picture.
    """

    def upright(image: Image.Image) -> tuple[int, int]:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return image.size if turned else image.size[::-1]

    return _opened(path, upright)


def whole(content: bytes) -> np.ndarray:
    """All pixels of a picture [H, W, 3] uint8, turned and blended as in `read`; raises as `read` does."""
    return _opened(content, lambda image: np.asarray(_colours(image, content, LARGE, None, set())))


def _opened(path: str | bytes, use: Callable):
    image = None
    try:
        with _open(path) as image:
            return use(image)
    except (Unscaled, Unreadable):
        raise
    except Exception as error:  # Pillow raises many kinds for a damaged file
        if image is not None and "truncated" in str(error) and _lines_are_in_order(image):
            raise EndsEarly(_reason(error)) from None
        reason = _unknown(path) if isinstance(error, UnidentifiedImageError) else _reason(error)
        raise Unreadable(reason) from None


def _open(path: str | bytes) -> Image.Image:
    file = io.BytesIO(path) if isinstance(path, bytes) else path
    return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])


def _bytes(path: str | bytes) -> BinaryIO:
    return io.BytesIO(path) if isinstance(path, bytes) else open(path, "rb")


def _read(image: Image.Image, path: str | bytes, form: Form, top: int | None) -> Picture:
    facts: set[str] = set()
    image = form.fitted(_colours(image, path, 2 * max(form.size, form.resize), top, facts))
    pixels = np.asarray(image, np.uint8)
    if (pixels == pixels[..., :1]).all():
        facts.add("grey")
    if form.channels == 1:
        pixels = pixels[..., :1] if "grey" in facts else np.asarray(image.convert("L"))[..., None]
    return Picture(pixels, frozenset(facts))


def square(image: Image.Image, form: Form) -> np.ndarray:
    """An RGB picture in a form: [size, size, channels] uint8."""
    image = form.fitted(image)
    return np.asarray(image) if form.channels == 3 else np.asarray(image.convert("L"))[..., None]


def _colours(image: Image.Image, path: str | bytes, side: int, top: int | None, facts: set[str]) -> Image.Image:
    """The picture in RGB, upright and opaque; adds to `facts`. A very large JPEG keeps `side` pixels a side."""
    jpeg = image.format in ("JPEG", "MPO")
    if image.format != "MPO" and getattr(
        image, "is_animated", False
    ):  # an MPO's further frames are a camera's previews
        facts.add("frames")
    if image.width * image.height > LARGE and jpeg:
        image.draft(None, (side, side))
        facts.add("reduced")
    elif image.width * image.height > LARGEST:
        raise Unreadable(f"{image.width} x {image.height} pixels, more than {LARGEST:,}")
    ImageOps.exif_transpose(image, in_place=True)
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        _check_end(image)
    if image.mode[0] in "IF":
        image = _eight_bits(image, path, top)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bits(image: Image.Image, path: str | bytes, top: int | None) -> Image.Image:
    """Grey of 16 bits as grey of 8 bits: 0 stays 0, and the largest value that the file's bit depth allows becomes 255.

    Cameras and scanners write 10, 12 or 14 bits into 16. Divided by 257, such pictures would be nearly black.
    """
    if image.mode == "I" and image.format == "PPM":
        declared = 65535  # Pillow has scaled the file's own maximum to this
    elif image.mode.startswith("I;16"):
        declared = _declared_top(image, path)
    else:
        raise Unreadable(f"pixels of type {image.mode}; 8 or 16 bits a channel are read")
    values = np.asarray(image).astype(np.uint32)
    if not (declared or top):
        raise Unscaled(int(values.max()))
    top = declared or top
    return Image.fromarray((np.minimum(values, top) * 255 // top).astype(np.uint8))


def _declared_top(image: Image.Image, path: str | bytes) -> int | None:
    """The largest value that the file allows: from PNG's sBIT, TIFF's MaxSampleValue or BitsPerSample. Else None."""
    bits = 16
    if image.format == "TIFF":
        maximum, bits = image.tag_v2.get(281), image.tag_v2.get(258, (16,))[0]
        if maximum:
            return int(maximum if isinstance(maximum, int) else maximum[0])
    elif image.format == "PNG":
        with _bytes(path) as file:
            file.seek(8)
            while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
                length = struct.unpack(">I", head[:4])[0]
                if head[4:] == b"sBIT":
                    bits = file.read(1)[0]
                    break
                file.seek(length + 4, 1)
    return 2**bits - 1 if bits < 16 else None


def _lines_are_in_order(image: Image.Image) -> bool:
    """Whether a file that ends early lacks the last lines of its picture and nothing else."""
    return image.format in ("JPEG", "MPO") or (image.format == "PNG" and not image.info.get("interlace"))


def _check_end(image: Image.Image) -> None:
    """Raises `Unreadable` where more than a few lines are missing: Pillow leaves them black, and libjpeg grey (128)."""
    lines = np.asarray(image).reshape(image.height, -1)
    missing = np.cumprod(((lines == 0).all(1) | (lines == 128).all(1))[::-1]).sum()
    if missing > MISSING * image.height:
        raise Unreadable(f"ends early: {missing / image.height:.0%} of its lines are missing")


def _is_heif(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS


def _unknown(path: str | bytes) -> str:
    """The reason why Pillow does not recognise the content of a file."""
    with _bytes(path) as file:
        head = file.read(16)
    if not head:
        return "empty file"
    if _is_heif(head):
        return "HEIC; pip install pillow-heif to read it"
    if head[4:12] in (b"ftypavif", b"ftypavis") and "AVIF" not in Image.OPEN:
        return "AVIF; pip install -U pillow to read it"
    return f"no picture format that is read; begins with {head!r}"


def _reason(error: Exception) -> str:
    """The text of an error, as one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0][:150]
