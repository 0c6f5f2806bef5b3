"""Which storage a path or URL gets."""

import subprocess
import sys
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest

from shards.storage import open_storage
from shards.storage.errors import MissingError, StorageError
from shards.storage.generic import FsspecStorage
from shards.storage.local import LocalStorage
from shards.storage.retry import Limits
from tests.unit.shards.unkind_server import UnkindServer

DATA = np.random.default_rng(9).bytes(100_000)
QUICK = Limits(total_s=0.3, tries=2, first_wait_s=0.01)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SRLOSS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("form", ["path", "text", "file", "file of this machine", "odd name"])
def test_local_folders(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "a").write_bytes(DATA)
    (tmp_path / "a::b").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    root = {
        "path": folder,
        "text": str(folder),
        "file": folder.as_uri(),
        "file of this machine": f"file://localhost{folder}".replace(" ", "%20"),
        "odd name": "a::b",
    }[form]
    storage = open_storage(root)
    assert isinstance(storage, LocalStorage)
    assert storage.read("a", 5, 50) == DATA[5:50]


def test_the_web_is_read_through_the_cache(cache: Path) -> None:
    with UnkindServer({"/folder/a": DATA}) as server:
        storage = open_storage(f"{server.url}/folder/")
        assert storage.url == f"{server.url}/folder"
        assert storage.size("a") == len(DATA)
        assert storage.read("a", 5, 50) == storage.read("a", 5, 50) == DATA[5:50]
        assert storage.local_copy("a").read_bytes() == DATA
        assert len(server.requests) == 3
    assert len(list(cache.rglob("*.block"))) == 1
    assert len(list(cache.rglob("*.copy"))) == 1


@pytest.mark.parametrize(
    ("root", "reason"),
    [
        ("pipe:cat /etc/passwd", "commands and chained URLs are never run"),
        ("PIPE:rm -rf x", "commands and chained URLs are never run"),
        ("simplecache::https://host/x", "commands and chained URLs are never run"),
        ("zip://x.zip::s3://bucket/x", "commands and chained URLs are never run"),
        ("gopher://host/x", "gopher:// is no known kind of place; use a folder, https://, s3://"),
        ("file://me:secret@other/x", "file://other/...: a folder of another machine"),
        ("http:///x", "not a URL with a host"),
        ("s3:///x", "not the URL of a bucket"),
        ("s3://key:secret@bucket/x", "not the URL of a bucket"),
        ("gs://bucket/x", "a package is missing"),
    ],
)
def test_what_cannot_be_read_is_refused(root: str, reason: str) -> None:
    if root.startswith("gs:") and "gcsfs" in sys.modules:
        pytest.skip("gcsfs is installed")
    with pytest.raises(ValueError, match=reason) as caught:
        open_storage(root)
    assert "secret" not in str(caught.value)
    assert "passwd" not in str(caught.value)


def test_the_missing_package_for_s3_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "shards.storage.s3", raising=False)
    monkeypatch.setitem(sys.modules, "botocore", None)
    with pytest.raises(
        ValueError, match=r"s3://: the package botocore is missing; .*pip install 'srloss\[s3\]'"
    ):
        open_storage("s3://bucket/x")


def test_other_protocols_of_fsspec_are_read_through_the_cache(cache: Path) -> None:
    files = fsspec.filesystem("memory")
    files.pipe_file("/folder/a", DATA)
    storage = open_storage("memory://folder")
    assert storage.size("a") == len(DATA)
    assert storage.read("a", 5, 50) == DATA[5:50]
    assert storage.local_copy("a").read_bytes() == DATA
    assert len(list(cache.rglob("*.block"))) == 1
    with pytest.raises(MissingError, match="memory://folder/b: no such file"):
        storage.size("b")
    with pytest.raises(StorageError, match="truncated: ends at byte 100000, 100001 are needed"):
        storage.read("a", 5, 100_001)
    with pytest.raises(StorageError, match="not the name of a file of this folder"):
        storage.read("../x", 0, 1)
    with pytest.raises(StorageError, match="this is no file"):
        open_storage("memory://").size("folder")


class Unkind(fsspec.AbstractFileSystem):
    """A file system that fails, gives too little, or hangs."""

    protocol = "unkind"
    cachable = False

    def info(self, path: str, **_: object) -> dict[str, object]:
        return {"name": path, "size": len(DATA), "type": "file"}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: object) -> bytes:
        match path.rpartition("/")[2]:
            case "hangs":
                time.sleep(20)
            case "refuses":
                raise PermissionError("with signature=geheim")
            case "fails":
                raise RuntimeError("https://host/?signature=geheim")
            case "short":
                return DATA[start:end][:-1]
        return DATA[start:end]


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("hangs", r"no answer came for 0\.4 s \(tried 2 times"),
        ("refuses", "access was refused"),
        ("fails", r"it cannot be read \(RuntimeError\) \(tried 2 times"),
        ("short", r"10000 bytes were asked for, 9999 came \(tried 2 times"),
    ],
)
def test_an_unkind_file_system_ends_in_a_clear_error(file: str, reason: str) -> None:
    fsspec.register_implementation("unkind", Unkind, clobber=True)
    storage = FsspecStorage("unkind://user:pass@host/x?token=geheim", QUICK)
    assert storage.url == "unkind://user@host/x"
    assert storage.read("good", 3, 10_003) == DATA[3:10_003]
    with pytest.raises(StorageError, match=f"unkind://user@host/x/{file}: {reason}") as caught:
        storage.read(file, 3, 10_003)
    assert "geheim" not in str(caught.value)


def test_local_data_needs_no_network_package() -> None:
    program = (
        "import sys\nfrom shards.storage import open_storage\nopen_storage('.')\n"
        "print(*(name for name in ('urllib3', 'fsspec', 'botocore', 's3fs') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
