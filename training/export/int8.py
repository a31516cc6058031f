"""predict.onnx in 8-bit integers, for CPUs: made by ONNX Runtime's static quantisation, and measured before it is written.

The ranges of activations are those of held-out training images; activations are uint8, weights int8 with a scale a channel. Weights use
7 of their 8 bits: CPUs without VNNI add pairs of products in 16 bits, which 8 bits overflow
(onnxruntime.ai/docs/performance/model-optimizations/quantization.html), and the figures would not hold there.

The calibration stays that of the float32 graph: `MOST_LOG_LOSS` is the proof that it serves both.
"""

import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from sklearn.metrics import f1_score

from service.bundle import folder as contract
from service.bundle.folder import Bundle
from service.bundle.manifest import Int8
from service.runtime.engine import Batch, Engine, self_test_image
from training.data.read import Dataset, Images, check_classes
from training.reliability.calibration import negative_log_likelihood
from training.reliability.familiarity import Reference, detach
from training.reliability.fitting import with_search

MOST_LOSS = 0.003  # of macro F1
LEAST_RATIO = 1.5  # of speed
MOST_LOG_LOSS = 0.01  # nats, more than in float32
CALIBRATION_ROWS = 100
BATCHES = (1, 16)
ROUNDS = 30
REMEDY = "calibrate on more images (--images), or serve the bundle in float32"


class Int8Error(Exception):
    """The quantised graph is not worth serving."""


class _Reader(CalibrationDataReader):  # type: ignore[misc] # onnxruntime.quantization is untyped
    """Hands `pixels` to the calibration, `CALIBRATION_ROWS` at a time."""

    def __init__(self, pixels: Batch) -> None:
        self._pieces = iter(
            [
                pixels[start : start + CALIBRATION_ROWS]
                for start in range(0, len(pixels), CALIBRATION_ROWS)
            ]
        )

    def get_next(self) -> dict[str, Batch] | None:
        piece = next(self._pieces, None)
        return None if piece is None else {"image": piece}


def quantised(graph: bytes, pixels: Batch) -> bytes:
    """`graph`, a predict.onnx, in 8-bit integers inside, with the ranges that activations have on `pixels`."""
    with tempfile.TemporaryDirectory() as scratch:
        given, prepared, made = (
            Path(scratch) / name for name in ("given.onnx", "prepared.onnx", "made.onnx")
        )
        given.write_bytes(graph)
        quant_pre_process(given, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            made,
            _Reader(pixels),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
        )
        return made.read_bytes()


def add_int8(bundle: Bundle, dataset: Dataset, folder: Path) -> Bundle:
    """`bundle` with predict.int8.onnx and its figures, in `folder`; every other file stays as it is.

    It is calibrated on the validation images of `dataset` and measured on its test images.

    Raises:
        DataError: the data set has other classes than the bundle.
        Int8Error: the graph loses too much or gains too little.
    """
    check_classes(dataset, bundle.manifest.labels)
    graph = _quantised(bundle, dataset.validation.pixels)
    plain = replace(bundle.manifest, self_test=None, int8=None)
    with tempfile.TemporaryDirectory() as scratch:
        full, near = (
            Engine(
                contract.write(Path(scratch) / name, plain, {contract.PREDICT: content}), "cpu", 1
            )
            for name, content in (("full", bundle.read(contract.PREDICT)), ("near", graph))
        )
        figures = measure(full, near, dataset.test, len(dataset.validation))
    check(figures)
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    return contract.write(
        folder, replace(bundle.manifest, int8=figures), files | {contract.INT8: graph}
    )


def _quantised(bundle: Bundle, pixels: Batch) -> bytes:
    """The network in 8 bits; the search among reference images, which is a small part of the time, stays as it is."""
    model = onnx.load_model_from_string(bundle.read(contract.PREDICT))
    graph = quantised(detach(model).SerializeToString(), pixels)
    return (
        with_search(graph, Reference.read(bundle.read(contract.REFERENCE)))
        if bundle.has(contract.REFERENCE)
        else graph
    )


def measure(full: Engine, near: Engine, test: Images, calibration_images: int) -> Int8:
    """What `near`, the quantised graph, is worth beside `full` on the images `test`; both engines have one thread."""
    ours, theirs = (engine.predict(test.pixels).logits for engine in (near, full))
    calibration = full.manifest.calibration
    logits = near.predict(self_test_image(near.manifest.input.size)).logits[0]
    return Int8(
        self_test=(int(logits.argmax()), float(logits.max())),
        calibration_pictures=calibration_images,
        test_pictures=len(test),
        macro_f1=_macro_f1(ours, test),
        macro_f1_float32=_macro_f1(theirs, test),
        log_loss=negative_log_likelihood(ours, test.labels, calibration),
        log_loss_float32=negative_log_likelihood(theirs, test.labels, calibration),
        agreement=float((ours.argmax(1) == theirs.argmax(1)).mean()),
        speed_ratio={str(rows): _speed_ratio(full, near, test.pixels[:rows]) for rows in BATCHES},
        machine=_machine(),
        date=datetime.now(UTC).date().isoformat(),
    )


def check(figures: Int8) -> None:
    """Nothing, if the figures are good enough to serve.

    Raises:
        Int8Error: one is beyond its limit.
    """
    loss, ratio = figures.macro_f1_float32 - figures.macro_f1, min(figures.speed_ratio.values())
    worse = figures.log_loss - figures.log_loss_float32
    if loss > MOST_LOSS:
        raise Int8Error(
            f"macro F1 in int8 is {100 * loss:.2f} points lower than in float32 (limit {100 * MOST_LOSS:.1f}): {REMEDY}"
        )
    if worse > MOST_LOG_LOSS:
        raise Int8Error(
            f"the log loss in int8 is {worse:.4f} nats higher than in float32 (limit {MOST_LOG_LOSS}): {REMEDY}"
        )
    if ratio < LEAST_RATIO:
        raise Int8Error(
            f"int8 is {ratio:.2f} times as fast as float32 on one core (limit {LEAST_RATIO}): serve the bundle in float32"
        )


def _macro_f1(logits: np.ndarray, images: Images) -> float:
    labels = range(logits.shape[1])
    return float(
        f1_score(images.labels, logits.argmax(1), labels=labels, average="macro", zero_division=0.0)
    )


def _speed_ratio(full: Engine, near: Engine, batch: Batch) -> float:
    """The median time of `full` by that of `near`, runs interleaved; of the one thread, for neighbours change what the clock says."""
    times = np.array(
        [[_seconds(engine.predict, batch) for engine in (full, near)] for _ in range(ROUNDS)]
    )
    slow, quick = np.median(times, axis=0)
    return round(float(slow / quick), 2)


def _seconds(call: Callable[[Batch], object], batch: Batch) -> float:
    started = time.thread_time()
    call(batch)
    return time.thread_time() - started


def _machine() -> str:
    source = Path("/proc/cpuinfo")
    lines = source.read_text().splitlines() if source.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
