"""Files of any depth, with bands and pages: one scale, and nothing dropped without a word."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lrsegformer.data.examples import open_image, open_mask
from lrsegformer.data.files.pixels import ImageReading
from lrsegformer.errors import InputError


def png_16(values, colour_type):
    """A PNG of 16 bits a channel: 0 grey, 2 RGB, 4 grey and alpha, 6 RGBA."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    values = np.asarray(values, dtype=">u2")
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour_type, 0, 0, 0)
    content = zlib.compress(b"".join(b"\x00" + row.tobytes() for row in values))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def tiff(values, photometric=None):
    """An uncompressed little-endian TIFF of one strip: grey, RGB with any further bands, or by photometric 5 CMYK."""
    values = np.asarray(values)
    height, width, bands = values.shape
    content = values.astype(values.dtype.newbyteorder("<")).tobytes()
    bits = [8 * values.dtype.itemsize] * bands
    extras = [] if bands < 4 or photometric else [0] * (bands - 3)
    tags = [(256, 4, [width]), (257, 4, [height]), (258, 3, bits), (259, 3, [1])]
    tags += [(262, 3, [photometric or (1 if bands == 1 else 2)]), (273, 4, [0]), (277, 3, [bands]), (278, 4, [height])]
    tags += [(279, 4, [len(content)])] + ([(338, 3, extras)] if extras else [])
    place = 8 + 2 + 12 * len(tags) + 4
    offset = place + sum(2 * len(numbers) for numbers in (bits, extras) if len(numbers) > 2)
    entries, tail = b"", b""
    for tag, kind, numbers in tags:
        packed = struct.pack(f"<{len(numbers)}{'H' if kind == 3 else 'I'}", *([offset] if tag == 273 else numbers))
        if len(packed) > 4:
            packed, tail = struct.pack("<I", place + len(tail)), tail + packed
        entries += struct.pack("<HHI", tag, kind, len(numbers)) + packed.ljust(4, b"\x00")
    return b"II*\x00" + struct.pack("<IH", 8, len(tags)) + entries + b"\x00" * 4 + tail + content


def channels(image):
    return np.asarray(image).reshape(-1, 3).tolist()


TWELVE_BITS = ImageReading(value_range=(0, 4095))


def test_12_bits_in_16_keep_their_levels():
    values = np.arange(0, 4096, 16).reshape(16, 16)
    image = np.asarray(open_image(png_16(values, 0), "a", TWELVE_BITS))[..., 0]
    assert image.tolist() == np.round(values * 255 / 4095).astype(int).tolist()
    assert len(np.unique(image)) > 250


def test_dark_and_bright_frames_have_one_scale():
    dark, bright = (np.asarray(open_image(png_16([[value]], 0), "a", TWELVE_BITS))[0, 0, 0] for value in (160, 4000))
    assert (int(dark), int(bright)) == (10, 249)


@pytest.mark.parametrize("file", [png_16, tiff])
def test_colours_of_16_bits_are_read_in_full(file):
    values = np.array([[[0, 16, 4095], [300, 257, 65535]]], dtype=np.uint16)
    content = png_16(values, 2) if file is png_16 else tiff(values)
    expected = np.round(values.astype(float) * 255 / 4095).clip(0, 255).astype(int)
    assert channels(open_image(content, "a", TWELVE_BITS)) == expected.reshape(-1, 3).tolist()
    assert channels(open_image(content, "a"))[1] == [1, 1, 255]


def test_big_endian_and_rotated_16_bits(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.array([[256, 4095], [1, 16]], dtype=">u2")
    Image.fromarray(values).save(tmp_path / "a.tif", exif=exif)
    image = np.asarray(open_image(tmp_path / "a.tif", None, TWELVE_BITS))[..., 0]
    assert image.tolist() == [[0, 16], [1, 255]]


def test_floating_point_needs_a_range(tmp_path):
    Image.fromarray(np.array([[0.0, 0.5, 1.0, 2.0]], dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif: float32 pixels have no defined range.*--image_range"):
        open_image(tmp_path / "a.tif")
    image = open_image(tmp_path / "a.tif", None, ImageReading(value_range=(0, 1)))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 128, 255, 255]
    Image.fromarray(np.array([[0.0, np.nan]], dtype=np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(InputError, match=r"b\.tif: holds pixels that are not finite"):
        open_image(tmp_path / "b.tif", None, ImageReading(value_range=(0, 1)))


def test_signed_values(tmp_path):
    Image.fromarray(np.array([[-100, 0, 100]], dtype=np.int32)).save(tmp_path / "a.tif")
    image = open_image(tmp_path / "a.tif", None, ImageReading(value_range=(-100, 100)))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_alpha_is_dropped_where_it_hides_nothing_and_else_refused(tmp_path, mode):
    image = Image.new("RGBA", (2, 1), (90, 90, 90, 255))
    opaque, clear = tmp_path / "opaque.png", tmp_path / "clear.png"
    stored = "P" if mode in ("P", "PA") else mode
    image.convert(stored).save(opaque)
    image.putpixel((0, 0), (90, 90, 90, 3))
    (image.quantize() if stored == "P" else image.convert(stored)).save(clear)
    assert channels(open_image(opaque)) == [[90, 90, 90]] * 2
    with pytest.raises(InputError, match=r"clear\.png: has an alpha channel that is not opaque.*--image_bands 1"):
        open_image(clear)
    bands = (1,) if mode == "LA" else (1, 2, 3)
    assert channels(open_image(clear, None, ImageReading(bands=bands))) == [[90, 90, 90]] * 2


def test_bands_are_chosen_by_number(tmp_path):
    Image.merge("RGBA", [Image.new("L", (1, 1), value) for value in (10, 20, 30, 40)]).save(tmp_path / "a.png")
    assert channels(open_image(tmp_path / "a.png", None, ImageReading(bands=(4, 2, 1)))) == [[40, 20, 10]]
    assert channels(open_image(tmp_path / "a.png", None, ImageReading(bands=(2,)))) == [[20, 20, 20]]
    with pytest.raises(InputError, match="has 4 band.*--image_bands names band 5"):
        open_image(tmp_path / "a.png", None, ImageReading(bands=(5,)))


@pytest.mark.parametrize("bands", [4, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bands_beyond_three_are_refused_or_chosen(bands, dtype):
    content = tiff(np.arange(1, 2 * bands + 1, dtype=dtype).reshape(1, 2, bands) * 10)
    with pytest.raises(InputError, match="a.tif"):
        open_image(content, "a.tif")
    if bands == 4 and dtype == np.uint8:
        with pytest.raises(InputError, match="a.tif: holds 4 bands, of which Pillow reads the first 3.*--image_bands"):
            open_image(content, "a.tif")
        chosen = open_image(content, "a.tif", ImageReading(bands=(1, 2, 3)))
        assert channels(chosen) == [[10, 20, 30], [50, 60, 70]]


def test_16_bits_that_pillow_would_halve_are_refused(tmp_path):
    with pytest.raises(InputError, match="a.png: Pillow keeps 8 of 16 bits beside an alpha channel"):
        open_image(png_16(np.full((1, 1, 2), 65535), 4), "a.png")
    ink = tiff(np.full((1, 1, 4), 700, dtype=np.uint16), photometric=5)
    with pytest.raises(InputError, match="a.tif: Pillow keeps 8 of its 16 bits a channel"):
        open_image(ink, "a.tif")
    assert channels(open_image(tiff(np.full((1, 1, 4), 255, dtype=np.uint8), photometric=5), "a.tif")) == [[0, 0, 0]]


@pytest.mark.parametrize("suffix", ["tif", "gif", "png", "webp"])
def test_pages_are_chosen_or_refused(tmp_path, suffix):
    file = tmp_path / f"a.{suffix}"
    frames = [Image.new("RGB", (8, 8), (value, value, value)) for value in (0, 100, 200)]
    frames[0].save(file, save_all=True, append_images=frames[1:], **({"lossless": True} if suffix == "webp" else {}))
    with pytest.raises(InputError, match=rf"a\.{suffix}: holds 3 pages or frames.*--image_page"):
        open_image(file)
    assert channels(open_image(file, None, ImageReading(page=2)))[0] == [100, 100, 100]
    with pytest.raises(InputError, match="3 pages or frames, and --image_page is 4"):
        open_image(file, None, ImageReading(page=4))
    if suffix == "tif":
        masks = [Image.new("L", (8, 8), value) for value in (0, 1)]
        masks[0].save(file, save_all=True, append_images=masks[1:])
        with pytest.raises(InputError, match="holds 2 pages"):
            open_mask(file)
        assert open_mask(file, reading=ImageReading(page=2)).max() == 1


def test_one_page_and_further_pictures_of_phones_are_no_pages(tmp_path):
    photo, preview = Image.new("RGB", (16, 16), (250, 0, 0)), Image.new("RGB", (8, 8))
    photo.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview])
    assert open_image(tmp_path / "a.jpg").size == (16, 16)
    Image.new("RGB", (8, 8)).save(tmp_path / "b.gif")
    assert open_image(tmp_path / "b.gif", None, ImageReading(page=2)).size == (8, 8)


def test_the_limit_of_pixels_is_an_option(tmp_path, monkeypatch):
    Image.new("L", (20, 10)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    for opener in (open_image, open_mask):
        with pytest.raises(
            InputError, match=r"a\.png: 20x10 are 200 pixels, and the limit is 100; .*--max_image_pixels 200"
        ):
            opener(tmp_path / "a.png")
        assert np.asarray(opener(tmp_path / "a.png", reading=ImageReading(max_pixels=200))).shape[:2] == (10, 20)
        with pytest.raises(InputError, match="the limit is 199"):
            opener(tmp_path / "a.png", reading=ImageReading(max_pixels=199))
    assert Image.MAX_IMAGE_PIXELS == 50


def test_the_reading_of_a_saved_processor(tmp_path):
    from transformers import AutoImageProcessor

    from lrsegformer.data.processor import build_processor

    processor = build_processor("segmentation", 64, (0.5,) * 3, (0.5,) * 3)
    assert ImageReading.of_processor(processor) == ImageReading()
    processor.image_range = [0.0, 4095.0]
    processor.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    assert ImageReading.of_processor(loaded) == TWELVE_BITS
