"""What a tar really holds, by its headers, and everything that is wrong with them.

Python's tarfile takes a damaged header for the end of the file, and readers built on it lose samples without
a word. Here a tar is a file from a stranger: every number is checked before it is used.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BLOCK = 512
MAX_NAME_BYTES = 4096
"""Longer names cannot be file names anywhere."""
MAX_EXTENSION_BYTES = 2**20
"""Of a header that holds a long name or PAX records; it is read into memory."""
MAX_EXTENSIONS = 8
"""Such headers in front of one member."""
ZEROS = bytes(2**20)

COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\0": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
    b"\x04\x22\x4d\x18": ("lz4", "unlz4"),
    b"PK\x03\x04": ("zip", "unzip"),
}
OLD_REGULAR = b"\0"
REGULAR = (b"0", OLD_REGULAR, b"7")
DIRECTORY = b"5"
WITHOUT_DATA = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    DIRECTORY: "a folder",
    b"6": "a pipe",
}
"""Types of members that have no data, whatever their size says."""
LONG_NAME, LONG_LINK, SPARSE = b"L", b"K", b"S"
PAX, PAX_SOLARIS, PAX_GLOBAL = b"x", b"X", b"g"
EXTENSIONS = (LONG_NAME, LONG_LINK, PAX, PAX_SOLARIS, PAX_GLOBAL)


@dataclass(frozen=True, slots=True)
class Entry:
    """A regular file in a tar, with a name that is safe; positions in bytes."""

    name: str
    header: int
    """Where its first header begins: it may have several."""
    offset: int
    """Where its data begins."""
    size: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong with a tar."""

    offset: int
    """Byte of the file."""
    what: str
    name: str = ""
    """The member it is about, where it is about one."""
    fatal: bool = False
    """Nothing behind it can be read."""
    kind: str = "damage"
    """"damage", "behind" (the end mark; all in front of it is whole), "name" (not safe to use), "repeated" (a second
    one of that name), or "type" (no regular file)."""


@dataclass(slots=True)
class _Header:
    """One block of 512 bytes, understood."""

    at: int
    name: str
    kind: bytes
    size: int


@dataclass(slots=True)
class _Extension:
    """What the headers in front of a member say of it."""

    name: str | None = None
    size: int | None = None
    sparse: bool = False


class _DamageError(Exception):
    def __init__(self, offset: int, what: str, name: str = "", kind: str = "damage") -> None:
        super().__init__(what)
        self.problem = Problem(offset, what, name, fatal=True, kind=kind)


def scan(path: Path) -> Iterator[Entry | Problem]:
    """All regular members of a plain tar (USTAR, PAX or GNU), in order, and all problems where they are met.

    The last thing is a fatal problem, or the tar ends with its end mark and nothing but zeros behind it.
    Reads headers only; needs little memory, whatever the file says.

    Raises:
        ValueError: The file cannot be opened or read.
    """
    try:
        with path.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            yield from _Tar(file.fileno(), status.st_size).parts()
    except _DamageError as damage:
        yield damage.problem
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be read ({error.strerror}); check the file and its permissions"
        ) from error


def unsafe(name: str) -> str | None:
    """Why a member's name must not be used as a path or key; None where it may."""
    parts = re.split(r"[/\\]", name)
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in name):
        return "its name holds control characters"
    if parts[0] == "" or re.match(r"[A-Za-z]:", name):
        return "its name is an absolute path" if name else "it has no name"
    if parts[-1] == "":
        return "its name is that of a folder"
    if ".." in parts:
        return "its name climbs out of its folder ('..')"
    return f"its name has {len(encoded)} bytes" if len(encoded) > MAX_NAME_BYTES else None


def shown(name: str) -> str:
    """A name for a message: on one line, printable and not too long."""
    text = name if name.isprintable() and name else ascii(name)
    return text if len(text) <= 200 else f"{text[:200]}..."


class _Tar:
    """Reads one tar from its begin to its end."""

    def __init__(self, descriptor: int, total: int) -> None:
        self.descriptor = descriptor
        self.total = total
        self.position = 0
        self.last_name = ""
        self.first_of_name: dict[str, int] = {}

    def parts(self) -> Iterator[Entry | Problem]:
        self.check_start()
        while True:
            start = self.position
            if start >= self.total:
                behind = f" (behind member {shown(self.last_name)})" if self.last_name else ""
                raise _DamageError(
                    start,
                    f"truncated at a member boundary{behind}: ends at byte {self.total} without the end mark "
                    "of a tar",
                )
            header = self.header()
            if header is None:
                self.check_rest()
                return
            yield from self.member(start, header)

    def check_start(self) -> None:
        if self.total == 0:
            raise _DamageError(0, "truncated: an empty file (0 bytes)")
        begin = os.pread(self.descriptor, 6, 0)
        for magic, (compression, tool) in COMPRESSED.items():
            if begin.startswith(magic):
                raise _DamageError(
                    0,
                    f"compressed by {compression}, so no member can be read alone; uncompress it ({tool}) to "
                    "a plain .tar",
                )

    def check_rest(self) -> None:
        """Behind the end mark only zeros may follow: readers see nothing but the first of joined tars."""
        while self.position < self.total:
            chunk = os.pread(self.descriptor, len(ZEROS), self.position)
            if not chunk:
                return
            if chunk != ZEROS[: len(chunk)]:
                at = self.position + len(chunk) - len(chunk.lstrip(b"\0"))
                raise _DamageError(
                    at,
                    f"bytes follow the end mark, from byte {at} to {self.total}, which no tar reader sees "
                    "(tars joined without removing the end marks?)",
                    kind="behind",
                )
            self.position += len(chunk)

    def header(self) -> _Header | None:
        """The block at the position, which moves behind it; None for the end mark."""
        at = self.position
        block = os.pread(self.descriptor, BLOCK, at)
        if len(block) < BLOCK:
            raise _DamageError(
                at,
                f"truncated inside the tar header at byte {at}: ends at byte {at + len(block)}",
                self.last_name,
            )
        self.position = at + BLOCK
        if block == ZEROS[:BLOCK]:
            return None
        if not _checksum_holds(block):
            what = f"damaged tar header at byte {at}: its checksum is wrong"
            raise _DamageError(at, what if at else f"not a tar, or {what}")
        name, size = _name(block), _number(block[124:136])
        if size is None or size < 0:
            raise _DamageError(
                at, f"damaged tar header at byte {at}: the size of {shown(name)} is {block[124:136]!r}", name
            )
        return _Header(at, name, block[156:157], size)

    def member(self, start: int, header: _Header) -> Iterator[Entry | Problem]:
        extension = _Extension()
        for _ in range(MAX_EXTENSIONS + 1):
            if header.kind not in EXTENSIONS:
                break
            self.extend(extension, header)
            following = self.header() if self.position < self.total else None
            if following is None:
                raise _DamageError(
                    self.position,
                    f"truncated: the tar header at byte {start} announces a member that does not follow",
                )
            header = following
        else:
            raise _DamageError(start, f"damaged: more than {MAX_EXTENSIONS} extended headers at byte {start}")
        name = header.name if extension.name is None else extension.name
        self.last_name = name
        if header.kind == SPARSE or extension.sparse:
            raise _DamageError(
                start,
                f"member {shown(name)} at byte {start} is sparse, which tar readers disagree about",
                name,
            )
        size = header.size if extension.size is None else extension.size
        yield from self.take(start, name, header.kind, size)

    def take(self, start: int, name: str, kind: bytes, size: int) -> Iterator[Entry | Problem]:
        """Moves behind the data of a member and says what the member is."""
        offset = self.position
        if kind in WITHOUT_DATA or (kind == OLD_REGULAR and name.endswith("/")):
            what = WITHOUT_DATA.get(kind, "a folder")
            yield Problem(start, f"{shown(name)} is {what}, not a regular file", name, kind="type")
            return
        end = offset + size
        self.position = -(-end // BLOCK) * BLOCK
        if end > self.total:
            raise _DamageError(
                start,
                f"truncated inside member {shown(name)}: reaches to byte {end} of {self.total}",
                name,
            )
        reason = unsafe(name)
        if kind not in REGULAR:
            yield Problem(start, f"{shown(name)} is of unknown type {kind!r}", name, kind="type")
        elif reason:
            yield Problem(start, f"{shown(name)} at byte {start}: {reason}", name, kind="name")
        elif (first := self.first_of_name.setdefault(name, start)) != start:
            what = f"{shown(name)} is there twice, at bytes {first} and {start}"
            yield Problem(start, what, name, kind="repeated")
        else:
            yield Entry(name, start, offset, size)

    def extend(self, extension: _Extension, header: _Header) -> None:
        """Reads the data of a header that is about the member behind it."""
        if header.size > MAX_EXTENSION_BYTES:
            raise _DamageError(
                header.at,
                f"damaged: the extended tar header at byte {header.at} claims {header.size} bytes of names",
            )
        data = os.pread(self.descriptor, header.size, self.position)
        if len(data) < header.size:
            raise _DamageError(
                header.at,
                f"truncated inside the extended tar header at byte {header.at}: ends at byte {self.total}",
            )
        self.position += -(-header.size // BLOCK) * BLOCK
        if header.kind == LONG_NAME:
            extension.name = _text(data)
        elif header.kind in (PAX, PAX_SOLARIS, PAX_GLOBAL):
            self.extend_by_pax(extension, header, data)

    def extend_by_pax(self, extension: _Extension, header: _Header, data: bytes) -> None:
        records = _pax_records(data)
        if records is None:
            raise _DamageError(header.at, f"damaged PAX header at byte {header.at}")
        if header.kind == PAX_GLOBAL:
            if records.keys() & {"path", "size"}:
                raise _DamageError(
                    header.at, f"the PAX header at byte {header.at} gives all members one name or size"
                )
            return
        if "path" in records:
            extension.name = records["path"].decode("utf-8", "surrogateescape")
        if "size" in records:
            if not re.fullmatch(rb"[0-9]{1,19}", records["size"]):
                raise _DamageError(
                    header.at, f"damaged PAX header at byte {header.at}: size {records['size'][:40]!r}"
                )
            extension.size = int(records["size"])
        extension.sparse = extension.sparse or any(key.startswith("GNU.sparse") for key in records)


def _checksum_holds(block: bytes) -> bool:
    stored = _number(block[148:156])
    # The checksum itself counts as 8 spaces. Some old writers summed signed bytes.
    total = sum(block) - sum(block[148:156]) + 8 * 32
    if stored == total:
        return True
    high = sum(byte > 127 for byte in block[:148]) + sum(byte > 127 for byte in block[156:])
    return stored == total - 256 * high


def _number(field: bytes) -> int | None:
    """Octal digits, or GNU's binary form for what does not fit; None where it is neither."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ~(0x80 << 8 * (len(field) - 1))
        return value - (1 << 8 * len(field) - 1) if field[0] & 0x40 else value
    digits = field.partition(b"\0")[0].strip(b" ")
    if not re.fullmatch(rb"[0-7]*", digits):
        return None
    return int(digits or b"0", 8)


def _name(block: bytes) -> str:
    name = _text(block[:100])
    # Only POSIX headers have a prefix; GNU's keep times at its place.
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _pax_records(data: bytes) -> dict[str, bytes] | None:
    """Records such as "12 path=a.b" and a newline, whose length counts the whole record."""
    records: dict[str, bytes] = {}
    position = 0
    while position < len(data):
        head = re.match(rb"([0-9]{1,9}) ([^=]+)=", data[position : position + 1024])
        if head is None:
            # Some writers fill up with zeros.
            return records if not data[position:].strip(b"\0") else None
        end = position + int(head[1])
        if end > len(data) or end < position + head.end() + 1 or data[end - 1 : end] != b"\n":
            return None
        records[head[2].decode("utf-8", "replace")] = data[position + head.end() : end - 1]
        position = end
    return records
