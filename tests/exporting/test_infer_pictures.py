"""Pictures in the runtime of a bundle: read, resized, put back and boxed as by prediction."""

import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from configs.errors import UserError
from diffad_jax.exporting import infer
from diffad_jax.predicting import predictor, results
from input_pipeline.decoding import pictures, resizing
from tests.input_pipeline.decoding import odd_formats as odd

# What prediction reads, and a bundle asks for in another format.
NOT_READ = {
    *("tiff 1 bit, last bit first", "tiff 12 bit", "tiff 16 bit, min is white", "tiff planar"),
    *("tiff planar by hand", "tiff cmyk", "tiff thumbnail first", "tiff with its transparency"),
}


def noise(name, *shape, dtype=np.uint8):
    """Any levels of an integer type."""
    rng = np.random.default_rng(sum(name.encode()))
    return rng.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def photograph(height, width):
    """Soft shapes with grain."""
    rng = np.random.default_rng(height + width)
    soft = ndimage.gaussian_filter(rng.normal(size=(height, width, 3)), (6, 6, 0)) * 900
    return np.clip(128 + soft + rng.normal(0, 6, soft.shape), 0, 255).astype(np.uint8)


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# Decoding


@pytest.mark.parametrize("name", [*odd.FORMATS, *odd.REFUSED])
def test_a_format_is_read_as_prediction_reads_it_or_refused(tmp_path, name):
    path = write(tmp_path / "it.png", (odd.FORMATS | odd.REFUSED)[name][0])
    if name in NOT_READ or name in odd.REFUSED:
        with pytest.raises(infer.Refused) as error:
            infer.read_picture(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    else:
        np.testing.assert_array_equal(infer.read_picture(path), pictures.decode_rgb(path))


def adam7(deep):
    """A PNG in seven passes, of 16-bit colours."""

    def chunk(kind, body):
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    places = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4)]
    places += [(2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)]
    passes = [deep[y::down, x::right].astype(">u2") for y, down, x, right in places]
    rows = b"".join(b"\0" + row.tobytes() for one in passes for row in one)
    header = struct.pack(">IIBBBBB", deep.shape[1], deep.shape[0], 16, 2, 0, 0, 1)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


DEEP = noise("deep", 37, 53, 4, dtype=np.uint16)
SHALLOW = (DEEP >> 8).astype(np.uint8)
MORE = {
    "png rgba, 16 bit": imagecodecs.png_encode(DEEP),
    "png in passes, 16 bit": adam7(DEEP[..., :3]),
    "jpeg": odd.saved(photograph(97, 131), "JPEG", quality=70),
    "webp": odd.saved(photograph(97, 131), "WEBP"),
    "tiff of jpeg": odd.saved(photograph(97, 131), "TIFF", compression="jpeg", quality=80),
} | {
    f"tiff {name}, {packed}, {order}, tile {tile}": odd.by_tifffile(
        levels,
        photometric="rgb" if levels.ndim == 3 else "minisblack",
        compression=packed,
        byteorder=order,
        extrasamples=["unassalpha"] if levels.shape[2:] == (4,) else None,
        **({"tile": tile} if tile else {"rowsperstrip": 7}),
    )
    for name, levels in {
        "rgba 16": DEEP,
        "rgb 16": DEEP[..., :3].copy(),
        "grey 16": DEEP[..., 0].copy(),
        "rgba": SHALLOW,
        "grey": SHALLOW[..., 0].copy(),
        "1 bit": SHALLOW[..., 0] > 99,
    }.items()
    for packed in (None, "lzw", "zlib")
    for order in "<>"
    for tile in (None, (16, 32))
}
for _turn in range(10):
    _exif = Image.Exif()
    _exif[0x0112] = _turn
    MORE[f"jpeg turned {_turn}"] = odd.saved(photograph(20, 30), "JPEG", exif=_exif)
    MORE[f"tiff turned {_turn}"] = odd.one(odd.RGB, (8,) * 3, 2, t274=_turn)
    MORE[f"deep tiff turned {_turn}"] = odd.one(odd.DEEP, (16,) * 3, 2, t274=_turn)
_XMP = b'<x:xmpmeta tiff:Orientation="6"/>'  # which prediction does not ask
_TAGS = [(700, 1, len(_XMP), _XMP, True)]
MORE["tiff with xmp"] = odd.by_tifffile(SHALLOW, photometric="rgb", extratags=_TAGS)
MORE["deep tiff with xmp"] = odd.by_tifffile(DEEP, photometric="rgb", extratags=_TAGS)


@pytest.mark.parametrize("name", MORE)
def test_decoding_is_that_of_prediction(tmp_path, name):
    path = write(tmp_path / "it", MORE[name])
    np.testing.assert_array_equal(infer.read_picture(path), pictures.decode_rgb(path))


WHOLE = {
    **{name: odd.saved(photograph(120, 90), name) for name in ("PNG", "JPEG", "BMP", "WEBP")},
    "progressive": odd.saved(photograph(120, 90), "JPEG", progressive=True),
    "TIFF": odd.saved(photograph(120, 90), "TIFF"),
    "LZW": odd.saved(photograph(120, 90), "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", WHOLE)
def test_a_file_that_was_cut_is_refused(tmp_path, name, share):
    data = WHOLE[name]
    infer.read_picture(write(tmp_path / "whole", data))
    with pytest.raises(infer.Refused, match="cannot be read as a picture"):
        infer.read_picture(write(tmp_path / "cut", data[: int(len(data) * share)]))


def test_a_wrong_checksum_of_a_png_is_refused(tmp_path):
    data = bytearray(odd.saved(photograph(60, 50), "PNG"))
    data[len(data) // 2] ^= 1
    with pytest.raises(infer.Refused, match="cannot be read as a picture"):
        infer.read_picture(write(tmp_path / "x.png", bytes(data)))


def test_a_header_that_claims_too_much_is_refused(tmp_path):
    data = bytearray(odd.saved(photograph(9, 9), "BMP"))
    struct.pack_into("<ii", data, 18, 2**15, 2**14)
    with pytest.raises(infer.Refused, match="it claims 32768x16384 px"):
        infer.read_picture(write(tmp_path / "x.bmp", bytes(data)))


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint8)]
)
def test_another_array_is_refused_with_both_kinds(array):
    shape = str(array.shape).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(infer.Refused, match=rf"must be uint8 .*got {array.dtype} {shape}"):
        infer.read_picture(array)
    with pytest.raises(UserError):
        predictor.read_picture(array)


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 3)])
def test_arrays_are_taken_as_by_prediction(shape):
    array = noise("array", *shape)
    np.testing.assert_array_equal(infer.read_picture(array), predictor.read_picture(array))


# Resizing, and back


SHAPES = [(1, 1), (2, 300), (17, 9), (33, 65), (64, 64), (301, 517), (48, 31), (500, 20)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_resizing_is_that_of_prediction(shape, fit):
    picture = noise("resize", *shape, 3)
    for resize in ("bilinear", "antialias"):
        for size in (32, 64):
            ours = infer.resize_picture(picture, size, resize, fit)
            theirs = resizing.resize_picture(picture, size, resize, fit)
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_putting_back_is_that_of_prediction(shape, fit):
    square, nothing = noise("map", 32, 32) / np.float32(255), np.zeros(shape, np.float32)
    colours, picture = noise("colours", 32, 32, 3), noise("picture", *shape, 3)
    for values, under in ((square, nothing), (colours, picture)):
        ours, theirs = infer.put_back(values, under, fit), predictor.put_back(values, under, fit)
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("sigma", [0, 0.7, 2, 6])
@pytest.mark.parametrize("seed", range(6))
def test_boxes_are_those_of_prediction(seed, sigma):
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.random(rng.integers(1, 90, 2)), sigma)
    field = ((field - field.min()) / (np.ptp(field) + 1e-9)).astype(np.float32)
    for threshold in (None, 0.0, 0.3, 0.5, 0.6, 0.8, 1.0):
        ours, theirs = infer.find_boxes(field, threshold), results.find_boxes(field, threshold)
        assert [tuple(box) for box in ours] == [
            (box.x, box.y, box.width, box.height, box.area, box.peak) for box in theirs
        ]
