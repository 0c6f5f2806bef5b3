"""A generator as ONNX: exported with free height, width and batch where it can be, and compared with torch."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sr.config import TrialConfig, to_plain
from sr.exported import srloss_version

TOLERANCE = 1e-4
"""Largest difference to torch on pictures in [0, 1]: a fortieth of a grey level."""

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_SIZES = ((2, 34, 26), (1, 24, 32), (3, 16, 48))
"""Batch, height and width of the LR pictures on which an export with free sizes is compared.

The first is traced: its sides are multiples of 2 only, so that what a network does to other sizes is in the graph too."""


@dataclass(frozen=True)
class OnnxOptions:
    """How to export."""

    opset: int = 18
    """Version of the operators; runtimes of 2023 and later know 18."""
    clip: int | None = None
    """Frames of the input, (batch, clip, 3, height, width); None: pictures, (batch, 3, height, width)."""
    height: int | None = None
    """Fixed height of the LR pictures, together with `width`; None: any size."""
    width: int | None = None


@dataclass(frozen=True)
class OnnxModel:
    """An exported network."""

    content: bytes
    opset: int
    input_shape: tuple[int | str, ...]
    """Axes of the input; a word is an axis of any length."""
    max_difference: float
    """Largest absolute difference to torch."""
    compared_on: tuple[tuple[int, ...], ...]
    """Shapes of the inputs that were compared."""


def onnx_bytes(generator: nn.Module, config: TrialConfig, *, name: str, options: OnnxOptions) -> OnnxModel:
    """Exports a generator and compares the result with it.

    Args:
        generator: In evaluation mode, on the CPU.
        config: Of its trial; goes into the file's metadata.
        name: For people: which trial, at which step.
        options: How.

    Raises:
        ValueError: The packages are missing, the network cannot be exported so, or the result differs by more than TOLERANCE.
    """
    _check(options)
    shapes = _shapes(options)
    _check_input(generator, config, shapes[0])
    content = _with_metadata(_exported(generator, config, shapes[0], options), config, name)
    session = _session(content)
    difference = max(_difference(generator, session, shape, config) for shape in shapes)
    if not difference <= TOLERANCE:
        raise ValueError(
            f"export of {config.model.type} to ONNX: differs from torch by {difference:.2g}, more than {TOLERANCE:g}; nothing "
            "was written. Use --format safetensors, or another --opset"
        )
    axes = tuple(session.get_inputs()[0].shape)
    return OnnxModel(content, options.opset, axes, difference, tuple(shapes))


def _check(options: OnnxOptions) -> None:
    missing = [package for package in _PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(
            f"export to ONNX: needs {', '.join(missing)}, which is not installed; install it with: pip install 'srloss[onnx]'"
        )
    if (options.height is None) != (options.width is None):
        raise ValueError(
            "export to ONNX: --height and --width go together; give both for a fixed size, or neither"
        )
    for flag, value in (("--clip", options.clip), ("--height", options.height), ("--width", options.width)):
        if value is not None and value < 1:
            raise ValueError(f"export to ONNX: {flag} is {value}; give 1 or more")
    if options.opset < 18:
        raise ValueError(f"export to ONNX: --opset is {options.opset}; the exporter writes 18 and later")


def _shapes(options: OnnxOptions) -> list[tuple[int, ...]]:
    frames = () if options.clip is None else (options.clip,)
    if options.height is None or options.width is None:
        return [(batch, *frames, 3, height, width) for batch, height, width in _SIZES]
    return [(batch, *frames, 3, options.height, options.width) for batch in (2, 1)]


def _check_input(generator: nn.Module, config: TrialConfig, shape: tuple[int, ...]) -> None:
    """Tells a network that needs clips from one that cannot be exported."""
    try:
        with torch.no_grad():
            generator(torch.zeros(shape))
    except (ValueError, RuntimeError, AssertionError) as error:
        advice = (
            "give clips of as many frames as it needs: --clip T"
            if len(shape) == 4
            else "change --clip, --height or --width"
        )
        raise ValueError(
            f"export of {config.model.type} to ONNX: it does not take {shape} ({_first_line(error)}); {advice}"
        ) from None


def _exported(
    generator: nn.Module, config: TrialConfig, shape: tuple[int, ...], options: OnnxOptions
) -> bytes:
    axes = {0: "batch"}
    if options.height is None:
        axes |= {len(shape) - 2: "height", len(shape) - 1: "width"}
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                generator,
                (torch.rand(shape, generator=torch.Generator().manual_seed(0)),),
                input_names=["lr"],
                output_names=["sr"],
                opset_version=options.opset,
                dynamo=True,
                dynamic_shapes=(axes,),
                verbose=False,
            )
            assert program is not None
            return program.model_proto.SerializeToString()
    except Exception as error:
        # Whatever the exporter dies of, its traceback is of no use to who wants a file.
        advice = (
            "give a fixed size of the LR pictures: --height H --width W"
            if options.height is None
            else "use --format safetensors"
        )
        raise ValueError(
            f"export of {config.model.type} to ONNX: the exporter cannot do it ({_first_line(_root(error))}); {advice}"
        ) from error


def _with_metadata(content: bytes, config: TrialConfig, name: str) -> bytes:
    import onnx

    model = onnx.load_from_string(content)
    # The exporter notes for every operator where in whose source folders it comes from.
    for part in (
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
        model.graph,
    ):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    facts = {
        "srloss": srloss_version(),
        "name": name,
        "scale": str(config.scale),
        "config": json.dumps(to_plain(config), sort_keys=True),
    }
    onnx.helper.set_model_props(model, facts)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _session(content: bytes) -> Any:  # noqa: ANN401 - onnxruntime has no types
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # What fails is told as an exception.
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _difference(
    generator: nn.Module,
    session: Any,  # noqa: ANN401 - onnxruntime has no types
    shape: tuple[int, ...],
    config: TrialConfig,
) -> float:
    lr = _picture(shape)
    with torch.no_grad():
        wanted = generator(lr).numpy()
    try:
        got = session.run(None, {"lr": lr.numpy()})[0]
    except Exception as error:
        raise ValueError(
            f"export of {config.model.type} to ONNX: onnxruntime cannot run it on {shape} ({_first_line(error)}); nothing was "
            "written. Give a fixed size of the LR pictures: --height H --width W"
        ) from error
    if got.shape != wanted.shape:
        raise ValueError(
            f"export of {config.model.type} to ONNX: gives {got.shape} for {shape}, torch {wanted.shape}; nothing was "
            "written. Give a fixed size of the LR pictures: --height H --width W"
        )
    return float(np.abs(got - wanted).max())


def _picture(shape: tuple[int, ...]) -> Tensor:
    """Noise over smooth shades: all frequencies, and borders that are not alike."""
    random = torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))
    return (random + torch.linspace(0, 1, shape[-1]) + torch.linspace(0, 1, shape[-2])[:, None]) / 3


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter talks on every channel there is; what matters comes as an exception."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0][:200] if lines else "") or type(error).__name__
