"""Checkpoints are whole or not there."""

import pickle
from pathlib import Path

import pytest
import torch

from sr import checkpoint


def save(folder: Path, step: int, keep: int = 2) -> Path:
    return checkpoint.save(folder, step=step, state={"w": torch.full((3,), float(step))}, keep=keep)


def silent(_message: str) -> None:
    pass


def test_the_newest_is_loaded_and_the_oldest_are_deleted(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save(tmp_path, step)
    state = checkpoint.latest(tmp_path, on_damaged=silent)
    assert state is not None
    assert state["step"] == 30
    assert state["w"].tolist() == [30.0] * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000020.pt", "step-00000020.sha256", "step-00000030.pt", "step-00000030.sha256",
    ]  # fmt: skip


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "no hash"])
def test_a_damaged_newest_falls_back_to_the_one_before_loudly(tmp_path: Path, damage: str) -> None:
    save(tmp_path, 10)
    newest = save(tmp_path, 20)
    content = bytearray(newest.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    newest.write_bytes({"truncate": content[:-7], "flip": content, "empty": b"", "no hash": content}[damage])
    if damage == "no hash":
        newest.with_suffix(".sha256").unlink()
    messages: list[str] = []
    state = checkpoint.latest(tmp_path, on_damaged=messages.append)
    assert state is not None
    assert state["step"] == 10
    assert len(messages) == 1
    assert "step-00000020" in messages[0]
    assert "falling back" in messages[0]


def test_none_is_found_where_there_is_none(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "nowhere", on_damaged=silent) is None


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 10)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sr.checkpoint.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 20)
    monkeypatch.undo()
    state = checkpoint.latest(tmp_path, on_damaged=silent)
    assert state is not None
    assert state["step"] == 10
    assert not list(tmp_path.glob(".*.tmp"))


class Attack:
    """Would create a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    import hashlib

    proof = tmp_path / "ran"
    path = tmp_path / "step-00000001.pt"
    torch.save({"format_version": 1, "step": 1, "x": Attack(proof)}, path)
    path.with_suffix(".sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises((ValueError, pickle.UnpicklingError)):
        checkpoint.load(path)
    assert not proof.exists()


def test_a_missing_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"step-00000001\.pt: cannot be read"):
        checkpoint.load(tmp_path / "step-00000001.pt")
