"""Whatever the profile, the pixels come back, and what does not is refused before it is written."""

import io
import struct
import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from shards import profiles
from shards.banded import encode_banded
from shards.decode import Window, decode_member, span_of
from shards.formats.webp import MAX_SIDE
from shards.profiles import PROFILES, EncodedPicture
from shards.records import KINDS, Member
from shards.sources.base import RawFrame
from tests.unit.shards.picture_files import photo, saved

SIZES = [(1, 1), (1, 50), (50, 1), (16, 16), (64, 20), (65, 20), (150, 190)]


def member_of(encoded: EncodedPicture) -> Member:
    return Member(
        f"a.{encoded.ending}",
        0,
        len(encoded.data),
        zlib.crc32(encoded.data),
        encoded.kind,
        "frame",
        encoded.width,
        encoded.height,
        encoded.channels,
        encoded.band_height,
        encoded.bands,
    )


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("size", SIZES)
def test_the_pixels_come_back(profile: str, size: tuple[int, int]) -> None:
    rgb = photo(*size)
    encoded = PROFILES[profile](RawFrame(rgb, saved(rgb, "PNG"), "png"))
    assert encoded.note == ""
    assert encoded.kind in KINDS
    assert (encoded.height, encoded.width, encoded.channels) == (*size, 3)
    member = member_of(encoded)
    assert np.array_equal(decode_member(encoded.data, member, None), rgb)
    window = Window(size[0] // 2, size[1] // 2, 1, 1)
    start, stop = span_of(member, window)
    corner = rgb[size[0] // 2 :, size[1] // 2 :][:1, :1]
    assert np.array_equal(decode_member(encoded.data[start:stop], member, window), corner)


@pytest.mark.parametrize("profile", PROFILES)
def test_equal_frames_give_equal_bytes(profile: str) -> None:
    rgb = photo()
    strided = np.asfortranarray(rgb)
    assert PROFILES[profile](RawFrame(rgb)) == PROFILES[profile](RawFrame(strided))


@pytest.mark.parametrize(("profile", "kind"), [("png-banded", "png"), ("webp", "webp"), ("raw", "npy")])
def test_what_others_read(profile: str, kind: str) -> None:
    rgb = photo()
    encoded = PROFILES[profile](RawFrame(rgb))
    assert (encoded.kind, encoded.ending) == (kind, kind)
    if kind == "npy":
        found = np.load(io.BytesIO(encoded.data), allow_pickle=False)
        assert encoded.data[6:8] == b"\x01\x00"
    else:
        found = cv2.imdecode(np.frombuffer(encoded.data, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert np.array_equal(found, rgb)


def test_banded_is_the_default_and_can_be_read_in_parts() -> None:
    assert next(iter(PROFILES)) == "png-banded"
    encoded = PROFILES["png-banded"](RawFrame(photo(150, 40)))
    assert (encoded.band_height, len(encoded.bands)) == (64, 3)
    assert PROFILES["png-banded"](RawFrame(photo(20, 40))).band_height == 20


def test_raw_can_be_read_in_parts() -> None:
    encoded = PROFILES["raw"](RawFrame(photo(150, 40)))
    start, stop = span_of(member_of(encoded), Window(40, 0, 8, 40))
    assert stop - start == 16 * 40 * 3


@pytest.mark.parametrize(
    ("kind", "ending"), [("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp")], ids=["png", "jpg", "webp"]
)
def test_keep_keeps_every_byte(kind: str, ending: str) -> None:
    original = saved(photo(), kind)
    rgb = np.asarray(Image.open(io.BytesIO(original)).convert("RGB"))
    encoded = PROFILES["png-keep"](RawFrame(rgb, original, ending))
    assert encoded.data == original
    assert (encoded.kind, encoded.ending, encoded.note, encoded.bands) == (ending, ending, "", ())


def test_keep_finds_the_bands_of_files_that_have_them() -> None:
    data, bands = encode_banded(photo(), band_height=32)
    encoded = PROFILES["png-keep"](RawFrame(photo(), data, "png"))
    assert (encoded.data, encoded.band_height, encoded.bands) == (data, 32, bands)


def test_keep_of_a_grey_file_has_one_channel() -> None:
    grey = photo()[..., 0]
    rgb = np.repeat(grey[..., None], 3, axis=2)
    encoded = PROFILES["png-keep"](RawFrame(rgb, saved(grey, "PNG"), "png"))
    assert encoded.channels == 1
    assert np.array_equal(decode_member(encoded.data, member_of(encoded), None), rgb)


def wrong_end(data: bytes) -> bytes:
    """Without its last chunk, which most readers do not miss."""
    return data[:-12]


def few_scans_more(data: bytes) -> bytes:
    scan = data.index(b"\xff\xda")
    return data[:-2] + data[scan : scan + 14] * 120 + data[-2:]


@pytest.mark.parametrize(
    ("original", "reason"),
    [
        (None, "no file of its own"),
        (wrong_end(saved(photo(), "PNG")), "truncated PNG"),
        (few_scans_more(saved(photo(), "JPEG")), "scans"),
        (b"GIF89a", "not a PNG"),
    ],
    ids=["none", "truncated", "scans", "GIF"],
)
def test_keep_stores_anew_what_cannot_be_kept_and_says_so(original: bytes | None, reason: str) -> None:
    frame = RawFrame(photo(), original, "png")
    encoded = PROFILES["png-keep"](frame)
    assert encoded.note.startswith("stored as png-banded: ")
    assert reason in encoded.note
    assert replace(encoded, note="") == PROFILES["png-banded"](frame)


def test_keep_refuses_a_file_of_other_pixels() -> None:
    with pytest.raises(ValueError, match="png: other pixels came back"):
        PROFILES["png-keep"](RawFrame(photo(), saved(photo()[::-1], "PNG"), "png"))
    with pytest.raises(ValueError, match="jpg: other pixels came back"):
        PROFILES["png-keep"](RawFrame(photo(), saved(photo(), "JPEG"), "jpg"))


def test_webp_stores_what_is_too_wide_in_another_way() -> None:
    rgb = np.zeros((16, MAX_SIDE + 1, 3), np.uint8)
    encoded = PROFILES["webp"](RawFrame(rgb))
    assert (encoded.kind, encoded.ending) == ("png", "png")
    assert encoded.note == "stored as png-banded: WebP holds 16383 px a side, and this is 16384x16"
    assert PROFILES["webp"](RawFrame(rgb[:, :-1])).kind == "webp"


def test_webp_without_support_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.features.check", lambda name: name != "webp")
    with pytest.raises(ValueError, match="this Pillow cannot write WebP; install it with"):
        PROFILES["webp"](RawFrame(photo()))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    "rgb",
    [
        np.zeros((20, 20), np.uint8),
        np.zeros((20, 20, 4), np.uint8),
        np.zeros((0, 20, 3), np.uint8),
        np.zeros((20, 20, 3), np.uint16),
    ],
)
def test_what_is_no_frame_is_refused(profile: str, rgb: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"not uint8 of \(H, W, 3\)"):
        PROFILES[profile](RawFrame(rgb))


@pytest.mark.parametrize("profile", PROFILES)
def test_what_no_reader_decodes_is_not_written(profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.profiles.MAX_PIXELS", 1000)
    with pytest.raises(ValueError, match="190x150 pixels, more than"):
        PROFILES[profile](RawFrame(photo()))


def bent_banded(rgb: np.ndarray, *, band_height: int) -> tuple[bytes, object]:
    other = rgb.copy()
    other[-1, -1, 2] ^= 1
    return encode_banded(other, band_height=band_height)


def test_an_encoder_that_changes_a_pixel_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "encode_banded", bent_banded)
    with pytest.raises(ValueError, match="png: other pixels came back"):
        PROFILES["png-banded"](RawFrame(photo()))


def test_an_encoder_whose_bytes_cannot_be_decoded_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_bands(rgb: np.ndarray, *, band_height: int) -> tuple[bytes, object]:
        data, bands = encode_banded(rgb, band_height=band_height)
        return data, bands[:-1]

    monkeypatch.setattr(profiles, "encode_banded", without_bands)
    with pytest.raises(ValueError, match="png encoder: its bytes cannot be decoded"):
        PROFILES["png-banded"](RawFrame(photo()))


def test_a_banded_file_that_only_our_reader_reads_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    # Pillow sees the wrong pixels, our reader the right ones.
    monkeypatch.setattr(profiles, "_by_pillow", lambda data: np.zeros((150, 190, 3), np.uint8))
    with pytest.raises(ValueError, match="png: other pixels came back"):
        PROFILES["png-banded"](RawFrame(photo()))


def test_lossy_webp_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Image.Image.save

    def lossy(self: Image.Image, *args: object, **options: object) -> None:
        real(self, *args, **{**options, "lossless": False})

    monkeypatch.setattr(Image.Image, "save", lossy)
    with pytest.raises(ValueError, match="webp: other pixels came back"):
        PROFILES["webp"](RawFrame(photo()))


def test_a_kept_png_with_a_gamma_is_what_it_stores() -> None:
    rgb = photo(20, 30)
    data = saved(rgb, "PNG")
    gamma = b"gAMA" + struct.pack(">I", 100000)
    block = struct.pack(">I", 4) + gamma + struct.pack(">I", zlib.crc32(gamma))
    original = data[:33] + block + data[33:]
    assert PROFILES["png-keep"](RawFrame(rgb, original, "png")).data == original
