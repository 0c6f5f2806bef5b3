"""Published weights are found in a fixed order, proved by hash, and never fetched unasked."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sr.checkpoint import load_weights
from sr.features import load_network
from sr.features.weights import FILES, download, export_features, exported_name, find, read
from sweeps.cli.features import app
from tests.unit.sr.features.stand_ins import install


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SRLOSS_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "served"
    folder.mkdir()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}", folder
    httpd.shutdown()
    httpd.server_close()


def test_published_names_and_hashes_are_torchvisions() -> None:
    from torchvision.models import AlexNet_Weights, SqueezeNet1_1_Weights, VGG16_Weights, VGG19_Weights

    enums = {
        "vgg19": VGG19_Weights,
        "vgg16": VGG16_Weights,
        "alexnet": AlexNet_Weights,
        "squeezenet1_1": SqueezeNet1_1_Weights,
    }
    for name, enum in enums.items():
        assert FILES[name].url == enum.IMAGENET1K_V1.url
        assert FILES[name].url.endswith(f"-{FILES[name].sha256}.pth")


def test_search_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = FILES["vgg19"].file
    cache, own = tmp_path / "torch" / "hub" / "checkpoints", tmp_path / "own"
    for folder in (cache, own):
        folder.mkdir(parents=True)
        (folder / file).write_bytes(b"x")
    explicit = tmp_path / "explicit.pth"
    explicit.write_bytes(b"x")
    assert find("vgg19") == cache / file
    monkeypatch.setenv("SRLOSS_WEIGHTS", str(own))
    assert find("vgg19") == own / file
    assert find("vgg19", path=str(explicit)) == explicit
    with pytest.raises(ValueError, match=r"there is no file .*nowhere\.pth"):
        find("vgg19", path=str(tmp_path / "nowhere.pth"))


def test_missing_weights_say_where_and_what_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SRLOSS_WEIGHTS", str(tmp_path / "own"))
    with pytest.raises(ValueError, match="weights of vgg19") as caught:
        load_network("vgg19")
    message = str(caught.value)
    for part in (
        FILES["vgg19"].file,
        FILES["vgg19"].url,
        str(tmp_path / "own"),
        str(tmp_path / "torch" / "hub" / "checkpoints"),
        *("effnet_lite0", "random_vgg", "dataset_vgg", "srloss features fetch vgg19"),
    ):
        assert part in message


def test_other_contents_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("squeezenet1_1", tmp_path, monkeypatch)
    path = tmp_path / FILES["squeezenet1_1"].file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="sha256 begins with"):
        load_network("squeezenet1_1")


def test_weights_of_another_network_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("squeezenet1_1", tmp_path, monkeypatch)
    other = FILES["squeezenet1_1"]
    monkeypatch.setitem(FILES, "alexnet", dataclasses.replace(FILES["alexnet"], sha256=other.sha256))
    with pytest.raises(ValueError, match="do not fit"):
        load_network("alexnet", path=str(tmp_path / other.file))


def test_no_code_is_run_from_a_file(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="cannot be read"):
        load_weights(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds a list"):
        load_weights(tmp_path / "list.pth")
    (tmp_path / "junk.pth").write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match="cannot be read"):
        load_weights(tmp_path / "junk.pth")


def test_download_only_if_allowed_and_genuine(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = server
    install("squeezenet1_1", folder, monkeypatch)
    monkeypatch.setenv("SRLOSS_WEIGHTS", str(tmp_path / "own"))
    known = FILES["squeezenet1_1"]
    monkeypatch.setitem(FILES, "squeezenet1_1", dataclasses.replace(known, url=f"{address}/{known.file}"))
    with pytest.raises(ValueError, match="is in none of"):
        load_network("squeezenet1_1")
    assert not (tmp_path / "own").exists()
    network = load_network("squeezenet1_1", allow_download=True)
    assert network.weights.sha256 == hashlib.sha256((folder / known.file).read_bytes()).hexdigest()
    assert [path.name for path in (tmp_path / "own").iterdir()] == [known.file]

    (folder / known.file).write_bytes(b"an error page")
    with pytest.raises(ValueError, match="another file or damaged"):
        download("squeezenet1_1", tmp_path / "other")
    (folder / known.file).unlink()
    with pytest.raises(ValueError, match=f"cannot download {address}"):
        download("squeezenet1_1", tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())


def test_export_is_smaller_and_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("squeezenet1_1", tmp_path, monkeypatch)
    source = tmp_path / FILES["squeezenet1_1"].file
    deployed = tmp_path / "deployed"
    export_features("squeezenet1_1", source, deployed / exported_name("squeezenet1_1"))
    monkeypatch.setenv("SRLOSS_WEIGHTS", str(deployed))
    whole, part = load_network("squeezenet1_1", path=str(source)), load_network("squeezenet1_1")
    assert part is not whole
    assert part.weights.source == str(deployed / exported_name("squeezenet1_1"))
    assert part.weights.sha256 == whole.weights.sha256
    picture = torch.rand(1, 3, 40, 40)
    assert torch.equal(part(picture, ("fire9",))["fire9"], whole(picture, ("fire9",))["fire9"])
    tensors, _ = read("squeezenet1_1", deployed / exported_name("squeezenet1_1"))
    assert all(key.startswith("features.") for key in tensors)
    with pytest.raises(ValueError, match="holds squeezenet1_1, not alexnet"):
        read("alexnet", deployed / exported_name("squeezenet1_1"))


def test_damaged_export_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("squeezenet1_1", tmp_path, monkeypatch)
    out = tmp_path / "a.safetensors"
    export_features("squeezenet1_1", tmp_path / FILES["squeezenet1_1"].file, out)
    content = bytearray(out.read_bytes())
    content[-10] ^= 1
    out.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        load_network("squeezenet1_1", path=str(out))


def test_fetch_and_export_by_command(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = server
    install("squeezenet1_1", folder, monkeypatch)
    monkeypatch.delenv("SRLOSS_WEIGHTS")
    known = FILES["squeezenet1_1"]
    monkeypatch.setitem(FILES, "squeezenet1_1", dataclasses.replace(known, url=f"{address}/{known.file}"))
    run = partial(CliRunner().invoke, app, catch_exceptions=True)
    assert run(["fetch", "squeezenet1_1", "--to", str(tmp_path / "own")]).exit_code == 0
    published = tmp_path / "own" / known.file
    assert published.read_bytes() == (folder / known.file).read_bytes()
    assert run(["export", "squeezenet1_1", str(tmp_path), "--path", str(published)]).exit_code == 0
    assert (tmp_path / exported_name("squeezenet1_1")).is_file()
    assert "Did you mean 'vgg19'" in str(run(["fetch", "vgg91"]).exception)
    assert "nothing to download" in str(run(["fetch", "effnet_lite0"]).exception)
    assert "is in none of" in str(run(["export", "squeezenet1_1", str(tmp_path)]).exception)
