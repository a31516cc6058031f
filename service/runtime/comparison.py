"""ONNX Runtime in float32 beside int8 and OpenVINO, on this machine: speed and agreement.

`service.runtime.decision` runs this once, before the workers start, in a process of its own.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from service.bundle import folder
from service.bundle.folder import Bundle
from service.errors import BundleError, PrecisionError
from service.image.resize import Size, sides
from service.runtime import openvino, trial
from service.runtime.choice import Choice, best, precisions, unchanged
from service.runtime.cpu import opener
from service.runtime.decision import plain
from service.runtime.engine import Engine
from service.runtime.graphs import Batch
from service.runtime.sessions import cpu_rows, self_test_image
from service.settings import Settings

IMAGES = 7  # beside the self-test image
LEAST_ROUNDS, MOST_ROUNDS, SECONDS = 5, 31, 0.25

Values = Float32[np.ndarray, "images *others"]

log = logging.getLogger("candor")


def compare(bundle: Bundle, settings: Settings) -> Choice:
    """The best choice for `bundle`, by a measurement on this machine.

    Raises:
        PrecisionError: CANDOR_PRECISION is not possible here.
        BundleError: the bundle cannot be used.
    """
    usual, forced = plain(settings), settings.wants_openvino
    if settings.precision == "bfloat16" and not openvino.has_bfloat16():
        raise PrecisionError(
            "CANDOR_PRECISION is 'bfloat16', and this CPU has neither AMX nor AVX-512 BF16: "
            "unset CANDOR_PRECISION"
        )
    comparison = Comparison(bundle, usual)
    measured = [] if forced else [unchanged(usual)]
    for choice in _candidates(bundle, settings):
        try:
            found = comparison.measure(choice, briefly=not forced)
        except (BundleError, RuntimeError) as error:  # OpenVINO has no class of its own
            reason = str(error).partition("\n")[0]
            log.warning("%s: %s cannot serve this bundle", reason, choice.title)
            continue
        log.info("%s", found.sentence)
        measured.append(found)
    return best(measured, forced=forced) or usual


class Comparison:
    """The choices for one bundle beside the `plain` one, all on one thread, as among workers."""

    def __init__(self, bundle: Bundle, plain: Choice) -> None:
        self._bundle, self._plain = bundle, plain
        size = bundle.manifest.input.size
        self._images = images(size)
        self._timed = self._images[: cpu_rows(size)]
        self._usual_quick = self._quick(plain)

    def measure(self, choice: Choice, *, briefly: bool = False) -> Choice:
        """`choice` with its ratios and cosines; if `briefly`, predictions must gain for more.

        Raises:
            BundleError: a graph cannot be opened, or fails its self-test.
            RuntimeError: OpenVINO cannot run a graph.
        """
        ratios = {"predictions": _mean_ratio(self._quick(choice), self._usual_quick, self._timed)}
        found = replace(choice, speed_ratio=ratios)
        if briefly and not found.is_worth_it:
            return found
        explains = self._bundle.has(folder.GRADIENT)
        if choice.runtime == "onnxruntime":
            # In int8: it was proven on test images when the bundle was made, and gradients stay.
            return replace(found, speed_ratio=ratios | ({"gradients": 1.0} if explains else {}))
        engine, usual = Engine(self._bundle, "cpu", 1, choice=choice), self._usual
        if engine.choice != choice:
            raise BundleError(f"{self._bundle.folder} cannot be opened by {choice.title}")
        if explains:
            ratios["gradients"] = _gradient_ratio(engine, usual, self._timed)
        found = replace(found, cosines=cosines_of(engine, usual, self._images))
        further = tuple(graph for graph in found.unproven if graph not in found.exact)
        if choice.precision == "bfloat16" and further:
            return self.measure(replace(choice, exact=(*choice.exact, *further)), briefly=briefly)
        return found

    @cached_property
    def _usual(self) -> Engine:
        return Engine(self._bundle, "cpu", 1, choice=self._plain)

    def _quick(self, choice: Choice) -> Callable[[Batch], Any]:
        file = folder.INT8 if choice.precision == "int8" else folder.PREDICT
        program = opener(choice)(file, self._bundle.read(file), 1)
        return lambda batch: program({"image": batch}, ())


def images(size: Size) -> UInt8[np.ndarray, "images H W 3"]:
    """The self-test image, and a few of smooth colours; the same everywhere."""
    height, width = sides(size)
    noise = np.random.default_rng(0).integers(0, 256, (IMAGES, 8, 8, 3), dtype=np.uint8)
    drawn = [
        np.asarray(Image.fromarray(each).resize((width, height), Image.Resampling.BICUBIC))
        for each in noise
    ]
    return np.concatenate([self_test_image(size), np.stack(drawn)])


def _candidates(bundle: Bundle, settings: Settings) -> Iterator[Choice]:
    with_openvino = settings.engine != "onnxruntime" and openvino.installed()
    wide = with_openvino and openvino.has_bfloat16()
    tried = precisions(bundle.manifest, settings.fixed_precision, bfloat16=wide)
    # Relevance is not compared, and so it stays in float32.
    unlike = (folder.LRP,) if bundle.has(folder.LRP) else ()
    for precision in tried if with_openvino else ():
        yield Choice("openvino", precision, exact=unlike if precision == "bfloat16" else ())
    if settings.precision == "auto" and settings.engine != "openvino" and "int8" in tried:
        yield Choice("onnxruntime", "int8")


def cosines_of(engine: Engine, usual: Engine, batch: Batch) -> dict[str, float]:
    """The median cosines over `batch` of the engines' `logits`, `gradient` and `cam`.

    Maps are of the class that `usual` predicts.
    """
    theirs = usual.predict(batch).logits
    x, target = usual.normalise(batch), theirs.argmax(1)
    found = {"logits": _cosine(engine.predict(batch).logits, theirs)}
    if usual.has(folder.GRADIENT):
        gradients = [each.gradient(x, target).gradient for each in (engine, usual)]
        found["gradient"] = _cosine(*gradients)
    if usual.has(folder.CAM):
        found["cam"] = _cosine(*(each.cam(x, target).cam for each in (engine, usual)))
    return found


def _cosine(ours: Values, theirs: Values) -> float:
    """The median over images; of a map that is zero everywhere in both, 1."""
    a, b = (values.reshape(len(values), -1).astype(np.float64) for values in (ours, theirs))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    same = np.where((a == b).all(1), 1.0, 0.0)
    cosines = np.divide((a * b).sum(1), norms, out=same, where=norms > 0)
    return float(np.median(cosines))


def _gradient_ratio(engine: Engine, usual: Engine, batch: Batch) -> float:
    def call(of: Engine) -> Callable[[Batch], Any]:
        x, target = of.normalise(batch), np.full(len(batch), -1, np.int64)
        return lambda part: of.gradient(x[: len(part)], target[: len(part)])

    return _mean_ratio(call(engine), call(usual), batch)


def _mean_ratio(
    ours: Callable[[Batch], Any], theirs: Callable[[Batch], Any], batch: Batch
) -> float:
    """The geometric mean of the ratios for one image and for the whole `batch`."""
    ratios = [speed_ratio(ours, theirs, part) for part in (batch[:1], batch)]
    return round(float(np.prod(ratios) ** (1 / len(ratios))), 3)


def speed_ratio(
    ours: Callable[[Batch], Any], theirs: Callable[[Batch], Any], batch: Batch
) -> float:
    """The median time of `theirs` divided by that of `ours`, runs interleaved."""
    ours(batch)  # the first run of a shape is slow
    theirs(batch)
    rounds: list[tuple[float, float]] = []
    started = time.perf_counter()
    while len(rounds) < LEAST_ROUNDS or (
        len(rounds) < MOST_ROUNDS and time.perf_counter() - started < SECONDS
    ):
        rounds.append((_seconds(theirs, batch), _seconds(ours, batch)))
    usual, found = np.median(np.array(rounds), axis=0)
    return float(usual / found)


def _seconds(call: Callable[[Batch], Any], batch: Batch) -> float:
    started = time.perf_counter()
    call(batch)
    return time.perf_counter() - started


class _Collector(logging.Handler):
    """Collects the records of Candor's log, for the process that has one."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelno, record.getMessage()))


def _main() -> dict[str, Any]:
    collector = _Collector()
    log.addHandler(collector)
    log.setLevel(logging.INFO)
    settings = Settings.from_environment()
    try:
        choice = compare(folder.load(settings.bundle, settings.bundle_digest), settings)
    except PrecisionError as error:
        return {"impossible": str(error)}
    return {"choice": json.dumps(asdict(choice)), "log": collector.lines}


if __name__ == "__main__":
    if sys.argv[1:]:
        trial.limit(*map(int, sys.argv[1:]))
    print(json.dumps(_main()))  # noqa: T201 - the answer to `_run`
