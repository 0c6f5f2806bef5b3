"""Sweep files that come with srloss."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def recipe_names() -> list[str]:
    """Names of the recipes."""
    return sorted(
        path.name.removesuffix(".yaml")
        for path in resources.files(__name__).iterdir()
        if path.name.endswith(".yaml")
    )


def recipe_path(name: str) -> Path:
    """Path of a recipe, e.g. `demo`."""
    return Path(str(resources.files(__name__) / f"{name}.yaml"))


def file_or_recipe(path: Path) -> Path:
    """The file itself, or the recipe of that name where there is no such file."""
    return recipe_path(str(path)) if not path.exists() and str(path) in recipe_names() else path
