"""Opening images and masks of every kind that turns up in real folders."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lrsegformer.data.examples import check_sizes, open_image, open_mask
from lrsegformer.errors import InputError

ROTATED = 6  # EXIF orientation: the stored picture lies on its left side


def save(image, path, **options):
    image.save(path, **options)
    return path


def with_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "RGB"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    suffix = "tif" if mode == "CMYK" else "png"
    image = open_image(save(Image.new("RGB", (5, 3)).convert(mode), tmp_path / f"a.{suffix}"))
    assert (image.mode, image.size) == ("RGB", (5, 3))


def test_16_bit_pictures_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 0x8000, 0xFFFF]], dtype=np.uint16)
    image = open_image(save(Image.fromarray(values), tmp_path / "a.png"))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 128, 255]


def test_exif_orientation_turns_images_and_masks(tmp_path):
    stored = Image.fromarray(np.array([[10, 20, 30], [40, 50, 60]], dtype=np.uint8))
    expected = [[40, 10], [50, 20], [60, 30]]
    file = save(stored, tmp_path / "a.png", exif=with_orientation(ROTATED))
    assert np.asarray(open_image(file))[..., 0].tolist() == expected
    assert open_mask(file).tolist() == expected


def test_palette_masks_keep_their_indices(tmp_path):
    mask = Image.fromarray(np.array([[0, 1], [2, 255]], dtype=np.uint8), mode=None).convert("L")
    palette = Image.frombytes("P", mask.size, mask.tobytes())
    palette.putpalette([7, 8, 9] * 256)
    assert open_mask(save(palette, tmp_path / "m.png")).tolist() == [[0, 1], [2, 255]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, bool])
def test_integer_masks_keep_their_values(tmp_path, dtype):
    values = np.array([[0, 1]]) if dtype is bool else np.array([[3, 200 if dtype is np.uint8 else 400]])
    suffix = "tif" if dtype is np.int32 else "png"
    mask = open_mask(save(Image.fromarray(values.astype(dtype)), tmp_path / f"m.{suffix}"))
    assert mask.tolist() == values.tolist()
    assert mask.dtype == (np.uint8 if dtype in (np.uint8, bool) else np.int32)


@pytest.mark.parametrize(
    ("bits", "packed", "values"), [(4, bytes([0x0A, 0xF0]), [0, 10, 15]), (2, b"\x1b", [0, 1, 2, 3])]
)
def test_packed_grey_masks_are_not_stretched(tmp_path, bits, packed, values):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", len(values), 1, bits, 0, 0, 0, 0)
    content = zlib.compress(b"\x00" + packed)
    file = tmp_path / "m.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b""))
    assert open_mask(file).tolist() == [values]


def test_colour_and_jpeg_masks_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"m\.png: the mask has mode RGB"):
        open_mask(save(Image.new("RGB", (2, 2)), tmp_path / "m.png"))
    with pytest.raises(InputError, match=r"m\.tif: the mask has mode F; save it as an 8-bit PNG"):
        open_mask(save(Image.new("F", (2, 2)), tmp_path / "m.tif"))
    with pytest.raises(InputError, match=r"m\.jpg: a JPEG mask"):
        open_mask(save(Image.new("L", (2, 2)), tmp_path / "m.jpg"))


@pytest.mark.parametrize("opener", [open_image, open_mask])
@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_broken_files_are_named_in_one_line(tmp_path, opener, suffix):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8))
    whole = save(noise, tmp_path / f"whole.{suffix}").read_bytes()
    cut, text, empty = tmp_path / f"cut.{suffix}", tmp_path / f"text.{suffix}", tmp_path / f"empty.{suffix}"
    cut.write_bytes(whole[: len(whole) // 2])
    text.write_text("hello")
    empty.write_bytes(b"")
    for file in (cut, text, empty, tmp_path / f"missing.{suffix}"):
        with pytest.raises(InputError) as caught:
            opener(file)
        assert str(caught.value).startswith(str(file))
        assert "\n" not in str(caught.value)


def test_truncated_jpeg_bytes_are_named(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    with pytest.raises(InputError, match="set train row 3: cannot be read"):
        open_image(buffer.getvalue()[:1500], "set train row 3")


def test_size_mismatch_says_both_sizes():
    with pytest.raises(InputError, match=r"m\.png: the mask is 4x2 .* a\.jpg is 4x3"):
        check_sizes(Image.new("RGB", (4, 3)), np.zeros((2, 4), np.uint8), "a.jpg", "m.png")


def test_greyscale_photographs_of_imagenet(real_data):
    files = sorted((real_data / "imagenet1k_sample").glob("*/*"))
    grey = [file for file in files if Image.open(file).mode == "L"]
    assert grey
    for file in grey + files[:3]:
        assert open_image(file).mode == "RGB"
