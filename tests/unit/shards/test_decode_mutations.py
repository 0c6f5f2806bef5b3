"""Whatever the bytes: pixels of the right shape or a reason, and the same whatever is installed."""

import contextlib
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.decode import Window, decode_member, picture_header, span_of
from shards.picture import PNG_SIGNATURE, UnusablePictureError
from shards.records import Member
from tests.unit.shards.picture_files import EXAMPLES, OPTIONAL, example, without


def outcome(data: bytes, member: Member, window: Window | None) -> bytes | None:
    start, stop = span_of(member, window)
    try:
        rgb = decode_member(data[start:stop], member, window)
    except UnusablePictureError:
        return None
    height, width = (member.height, member.width) if window is None else (window.height, window.width)
    assert rgb.shape == (height, width, 3)
    assert rgb.dtype == np.uint8
    return rgb.tobytes()


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    bent = bytearray(data)
    # Headers are a small part of a file, and the one where most can go wrong.
    reach = len(bent) if rng.random() < 0.5 else min(len(bent), 200)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(reach))
        how = rng.integers(4)
        if how == 0:
            bent[at] = int(rng.integers(256))
        elif how == 1:
            bent[at : at + 4] = struct.pack(">I", int(rng.choice([0, 1, 255, 65535, 2**31 - 1, 2**32 - 1])))
        elif how == 2:
            del bent[at : at + int(rng.integers(1, 40))]
        else:
            bent[at:at] = rng.bytes(int(rng.integers(1, 40)))
        reach = min(reach, len(bent))
        if not bent:
            return b""
    return bytes(bent)


def with_right_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have right CRCs as far as they can be told, so that decoders see what is inside."""
    out, at = bytearray(data), 8
    while at + 12 <= len(out):
        stop = at + 8 + int.from_bytes(out[at : at + 4], "big")
        if stop + 4 > len(out):
            break
        out[stop : stop + 4] = struct.pack(">I", zlib.crc32(out[at + 4 : stop]))
        at = stop + 4
    return bytes(out)


def check_mutations(name: str, rounds: int, seed: int) -> None:
    data, member, _ = example(name)
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        bent = mutated(data, rng)
        if name.startswith(("png", "banded")):
            bent = with_right_checksums(bent)
        bands = tuple(
            replace(band, crc32=zlib.crc32(bent[band.start : stop]))
            for band, stop in zip(
                member.bands,
                [*(b.start for b in member.bands[1:]), len(bent) - (12 if member.kind == "png" else 0)],
                strict=False,
            )
        )
        lie = replace(member, size=len(bent), crc32=zlib.crc32(bent), bands=bands)
        for window in (None, Window(30, 20, 50, 60)):
            found = outcome(bent, lie, window)
            with without("pyspng", "simplejpeg"):
                assert outcome(bent, lie, window) == found, f"{name}, seed {seed}"
            with without(*OPTIONAL):
                plain = outcome(bent, lie, window)
            # isal accepts a few streams that zlib refuses, see `shards.inflate`.
            assert plain == found or plain is None, f"{name}, seed {seed}"


@pytest.mark.parametrize("name", EXAMPLES)
def test_mutations(name: str) -> None:
    check_mutations(name, 25, seed=zlib.crc32(name.encode()))


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("seed", range(20))
def test_many_mutations(name: str, seed: int) -> None:
    check_mutations(name, 300, seed=seed)


@settings(deadline=None, max_examples=150)
@given(
    st.binary(max_size=200),
    st.sampled_from([b"", PNG_SIGNATURE, b"\xff\xd8\xff", b"RIFF0\0\0\0WEBP", b"\x93NUMPY"]),
)
def test_any_bytes_are_a_header_or_a_reason(data: bytes, beginning: bytes) -> None:
    with contextlib.suppress(UnusablePictureError):
        kind, width, height, channels = picture_header(beginning + data)
        assert kind in ("png", "jpg", "webp", "npy")
        assert min(width, height) > 0
        assert channels in (1, 3)
