"""What `srloss losses` prints."""

from __future__ import annotations

from sr.components import parameters_of
from sr.losses import LOSSES
from sweeps.cli.show import say, say_json


def listed(*, as_json: bool) -> None:
    """Prints the dictionary of losses."""
    table = {
        name: {
            "what": (factory.__doc__ or "").strip().splitlines()[0],
            "parameters": {
                key: p.default for key, p in parameters_of(factory, given_elsewhere=frozenset()).items()
            },
        }
        for name, factory in LOSSES.items()
    }
    if as_json:
        say_json(table)
        return
    width = max(map(len, table))
    for name, entry in table.items():
        say(f"{name:{width}}  {entry['what']}")
        parameters = ", ".join(f"{key}={_short(value)}" for key, value in entry["parameters"].items())
        if parameters:
            say(f"{'':{width}}  ({parameters})")
    say("\nWrite a weighted sum in a config as  loss: 0.8*l1 + 0.2*ssim  or  l1 + 0.1*vgg(preset=esrgan)")


def _short(value: object) -> str:
    return "none" if value is None else str(value)
