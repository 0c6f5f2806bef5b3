"""What is in a tar, and what is wrong with it, is told exactly; nothing in it is trusted."""

import io
import os
import resource
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from shards.scan import Entry, Problem, scan, unsafe
from tests.unit.shards.tar_maker import clips, header_at, info, tar_bytes, with_checksum, write_tar

SAMPLES = [("a.im1.png", b"x" * 700), ("a.json", b"{}"), ("b.im1.png", b"y" * 512), ("b.json", b"")]


def scanned(tmp_path: Path, data: bytes) -> list[Entry | Problem]:
    path = tmp_path / "some.tar"
    path.write_bytes(data)
    return list(scan(path))


def end_of(tmp_path: Path, data: bytes) -> Problem:
    last = scanned(tmp_path, data)[-1]
    assert isinstance(last, Problem)
    assert last.fatal
    return last


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_places_are_those_of_tarfile(tmp_path: Path, form: int) -> None:
    names = ["a.png", "d/" * 40 + "b.im1.png", "é.png", "c" * 240 + ".im2.png", "e.json", "~.png"]
    if form == tarfile.USTAR_FORMAT:
        names.remove("c" * 240 + ".im2.png")
    data = tar_bytes([(name, b"z" * (150 * n)) for n, name in enumerate(names)], form)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(m.name, m.offset, m.offset_data, m.size) for m in tar]
    assert [(e.name, e.header, e.offset, e.size) for e in scanned(tmp_path, data)] == expected  # type: ignore[union-attr]


def test_sizes_beyond_the_octal_digits_are_read(tmp_path: Path) -> None:
    made = info("big.bin", 700)
    data = made.tobuf(tarfile.GNU_FORMAT) + b"x" * 1024 + bytes(1024)
    binary = with_checksum(data[:124] + b"\x80" + (700).to_bytes(11, "big") + data[136:512])
    assert scanned(tmp_path, binary + data[512:]) == [Entry("big.bin", 0, 512, 700)]


def test_what_old_gnu_tars_keep_in_place_of_a_prefix_is_no_name(tmp_path: Path) -> None:
    header = bytearray(info("a.png", 0).tobuf(tarfile.GNU_FORMAT))
    header[345:357] = b"14573411007\0"
    assert scanned(tmp_path, with_checksum(bytes(header)) + bytes(1024)) == [Entry("a.png", 0, 512, 0)]


def test_the_three_truncations_are_told_apart(tmp_path: Path) -> None:
    data = tar_bytes(SAMPLES)
    at = header_at(data, "b.im1.png")
    assert (
        "truncated inside the tar header at byte 2560: ends at byte 2660"
        in end_of(tmp_path, data[: at + 100]).what
    )
    inside = end_of(tmp_path, data[: at + 600])
    assert "truncated inside member b.im1.png: reaches to byte 3584 of 3160" in inside.what
    assert inside.name == "b.im1.png"
    boundary = end_of(tmp_path, data[:at])
    assert "truncated at a member boundary (behind member a.json): ends at byte 2560" in boundary.what
    assert "empty file" in end_of(tmp_path, b"").what


@pytest.mark.parametrize("cut", range(0, 4097, 64))
def test_every_truncation_is_noticed(tmp_path: Path, cut: int) -> None:
    data = tar_bytes(SAMPLES)
    # The members end at 4096; one block of zeros is end mark enough for every reader.
    assert end_of(tmp_path, data[:cut]).what
    assert all(isinstance(part, Entry) for part in scanned(tmp_path, data[: 4096 + 512]))


def test_a_flip_of_any_bit_of_a_header_is_noticed(tmp_path: Path) -> None:
    data = bytearray(tar_bytes(SAMPLES))
    at = header_at(bytes(data), "b.im1.png")
    for byte in {*range(at, at + 512)} - {at + 155}:  # The last one of the checksum is filling.
        for bit in (1, 64):
            data[byte] ^= bit
            parts = scanned(tmp_path, bytes(data))
            assert isinstance(parts[-1], Problem), byte
            assert "damaged tar header at byte 2560" in parts[-1].what, byte
            assert [p.name for p in parts[:-1]] == ["a.im1.png", "a.json"]
            data[byte] ^= bit


def test_what_is_no_tar_is_called_so(tmp_path: Path) -> None:
    assert "not a tar" in end_of(tmp_path, b"hello" * 1000).what


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
def test_compressed_tars_are_recognised(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "some.tar"
    with tarfile.open(path, f"w:{mode}") as tar:  # type: ignore[call-overload]
        tar.addfile(info("a.png"))
    (problem,) = scan(path)
    assert isinstance(problem, Problem)
    assert "compressed by" in problem.what
    assert "uncompress it" in problem.what


def test_members_that_are_no_files_are_named(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for kind, name in [
            (tarfile.SYMTYPE, "soft.png"),
            (tarfile.LNKTYPE, "hard.png"),
            (tarfile.CHRTYPE, "char.png"),
            (tarfile.BLKTYPE, "block.png"),
            (tarfile.FIFOTYPE, "pipe.png"),
            (tarfile.DIRTYPE, "folder"),
        ]:
            tar.addfile(info(name, 0, kind, "/etc/passwd"))
        tar.addfile(info("a.png", 3), io.BytesIO(b"abc"))
    parts = scanned(tmp_path, buffer.getvalue())
    whats = [part.what for part in parts[:-1] if isinstance(part, Problem)]
    kinds = ["symbolic link", "hard link", "character device", "block device", "pipe", "folder"]
    assert all(kind in what for kind, what in zip(kinds, whats, strict=True))
    assert parts[-1] == Entry("a.png", 512 * 6, 512 * 7, 3)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../up.png",
        "a/../../up.png",
        "..\\up.png",
        "C:\\x.png",
        "a\nb.png",
        "\x1b[2J.png",
        "a\x9b2J.png",
        "\x7f.png",
        "a/",
        "",
    ],
)
def test_names_that_lead_astray_are_refused(name: str) -> None:
    assert unsafe(name)


@pytest.mark.parametrize("name", ["a.png", "d/a.im1.png", "./a.png", "a..png", "...png", "ü ß.png"])
def test_plain_names_are_not(name: str) -> None:
    assert unsafe(name) is None


def test_unsafe_names_are_problems_and_no_entries(tmp_path: Path) -> None:
    data = tar_bytes([("../a.png", b"x"), ("b.png", b"y")], tarfile.PAX_FORMAT)
    problem, entry = scanned(tmp_path, data)
    assert isinstance(problem, Problem)
    assert (problem.kind, problem.name) == ("name", "../a.png")
    assert isinstance(entry, Entry)


def test_a_nul_in_a_pax_name_is_refused(tmp_path: Path) -> None:
    made = info("x", 0)
    made.pax_headers = {"path": "a\0b.png"}
    (problem,) = scanned(tmp_path, made.tobuf(tarfile.PAX_FORMAT) + bytes(1024))
    assert isinstance(problem, Problem)
    assert "control characters" in problem.what


def test_a_second_member_of_a_name_is_a_problem(tmp_path: Path) -> None:
    parts = scanned(tmp_path, tar_bytes([*SAMPLES, SAMPLES[1]]))
    assert isinstance(parts[-1], Problem)
    assert (parts[-1].kind, parts[-1].name) == ("repeated", "a.json")
    assert "at bytes 1536 and 4096" in parts[-1].what


def edited(field: slice, value: bytes) -> bytes:
    data = tar_bytes(SAMPLES)
    header = bytearray(data[:512])
    header[field] = value
    return with_checksum(bytes(header)) + data[512:]


SIZE = slice(124, 136)


@pytest.mark.parametrize(
    ("size", "what"),
    [
        (b"-0000000001\0", "the size of a.im1.png is"),
        (b"9999999999\0\0", "the size of a.im1.png is"),
        (b"77777777777\0", "truncated inside member a.im1.png: reaches to byte 8589935103"),
        (b"\xff" * 12, "the size of a.im1.png is"),
        (b"\x80" + b"\xff" * 11, "truncated inside member a.im1.png"),
        (b"\x80" + b"\0\x7f" * 5 + b"\0", "truncated inside member a.im1.png"),
    ],
)
def test_sizes_that_cannot_be_are_damage(tmp_path: Path, size: bytes, what: str) -> None:
    assert what in end_of(tmp_path, edited(SIZE, size)).what


def test_bytes_behind_the_end_mark_are_damage(tmp_path: Path) -> None:
    data = tar_bytes(SAMPLES)
    assert "bytes follow the end mark, from byte 10240" in end_of(tmp_path, data + tar_bytes(SAMPLES)).what
    assert "bytes follow the end mark, from byte 20000" in end_of(tmp_path, data + bytes(9760) + b"x").what
    assert isinstance(scanned(tmp_path, data + bytes(3_000_001))[-1], Entry)


def test_sparse_members_are_damage(tmp_path: Path) -> None:
    assert "sparse" in end_of(tmp_path, edited(slice(156, 157), b"S")).what
    made = info("a.png", 10)
    made.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    assert "sparse" in end_of(tmp_path, made.tobuf(tarfile.PAX_FORMAT) + bytes(2048)).what


def extended(kind: bytes, content: bytes, claimed: int | None = None) -> bytes:
    """A header of some kind with content, and a member behind it."""
    made = info("././@LongLink", len(content) if claimed is None else claimed, kind)
    padding = bytes(-len(content) % 512)
    return made.tobuf(tarfile.GNU_FORMAT) + content + padding + tar_bytes([("a.png", b"x")])


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g", b"X"])
def test_a_name_of_4_gb_takes_no_memory(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "some.tar"
    path.write_bytes(extended(kind, b"", claimed=2**32))
    os.truncate(path, 2**33)  # Sparse on the disk: the bytes are "there".
    (problem,) = scan(path)
    assert isinstance(problem, Problem)
    assert "claims 4294967296 bytes" in problem.what


@pytest.mark.parametrize(
    "records",
    [
        b"12 path",
        b"999 path=a\n",
        b"0 path=a\n",
        b"10 path=abc",
        b"x path=a\n",
        b"11 size=-5\n",
        b"99999999999 a=b\n",
    ],
)
def test_damaged_pax_records_are_damage(tmp_path: Path, records: bytes) -> None:
    assert "damaged PAX header at byte 0" in end_of(tmp_path, extended(b"x", records)).what


def test_a_pax_header_for_all_members_may_not_name_them(tmp_path: Path) -> None:
    assert "gives all members one name" in end_of(tmp_path, extended(b"g", b"10 path=a\n")).what
    assert isinstance(scanned(tmp_path, extended(b"g", b"13 comment=a\n"))[-1], Entry)


def test_a_header_for_a_member_that_does_not_follow_is_damage(tmp_path: Path) -> None:
    data = extended(b"L", b"name.png\0")[:1024]
    assert "a member that does not follow" in end_of(tmp_path, data).what
    assert "a member that does not follow" in end_of(tmp_path, data + bytes(1024)).what


def test_endless_extended_headers_are_damage(tmp_path: Path) -> None:
    data = extended(b"L", b"name.png\0")[:1024] * 40 + tar_bytes(SAMPLES)
    assert "more than 8 extended headers" in end_of(tmp_path, data).what


def test_a_file_that_cannot_be_read_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        list(scan(tmp_path))


def test_a_large_tar_is_scanned_in_little_memory(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "some.tar", clips(4))
    data = path.read_bytes()
    end = data[: header_at(data, "clip3.im3.png")]
    big = info("clip3.im3.png", 2**33).tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(end + big)
    os.truncate(path, len(end) + 512 + 2**33 + 1024)
    limit = 300 * 2**20
    code = f"from shards.scan import scan; from pathlib import Path; print(sum(1 for _ in scan(Path({str(path)!r}))))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert done.stdout == "12\n", done.stderr
