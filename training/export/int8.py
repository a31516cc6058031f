"""The graph predict.int8.onnx for CPUs: ONNX Runtime's static quantisation, measured before use.

Activations are uint8, with the ranges that they have on held-out training images but for one value
in ten thousand; weights are int8 with a scale for each channel. The calibration of probabilities
stays that of the float32 graph: the limit `LARGEST_LOG_LOSS` makes sure that it serves both.

The first layer and the head stay in float32: they take little of the time and lose the most, and
behind a head in float32 a class activation map still adds up to its logit.
"""

import io
import math
import platform
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from sklearn.metrics import f1_score

from service.bundle import folder as contract
from service.bundle.calibration import Calibration
from service.bundle.folder import Bundle
from service.bundle.manifest import Int8
from service.runtime.engine import Engine
from service.runtime.graphs import Batch, OutputRow, Targets
from service.runtime.head import NAMED
from service.runtime.sessions import self_test_image
from training.data.images import Images
from training.data.read import Dataset, check_classes
from training.figures.outputs import outputs_of
from training.reliability.calibration import negative_log_likelihood
from training.reliability.familiarity import Reference, detach
from training.reliability.fitting import with_search

LARGEST_LOSS = 0.003  # of macro F1
LARGEST_LOG_LOSS = 0.01  # nats above float32
LEAST_SPEED_RATIO = 1.5
LAYERS = ("Conv", "Gemm", "MatMul")  # what has weights, and takes the time
PERCENTILE = 99.99  # of the values of an activation; rare ones would coarsen all others
CALIBRATION_ROWS, CALIBRATION_PIXELS = 100, 2**20  # that are in memory with their activations
BATCHES = (1, 16)
ROUNDS = 30
COMPARED, TINY = 500, 1e-30  # maps; the least product of their lengths
REMEDY = "calibrate on more images (--images), or serve the bundle in float32"


class Int8Error(Exception):
    """The quantised graph is not worth serving."""


class _Reader(CalibrationDataReader):  # type: ignore[misc] # onnxruntime.quantization is untyped
    """Hands images to the quantisation, few enough at a time to bound its memory."""

    def __init__(self, images: Images) -> None:
        self._rows = max(1, min(CALIBRATION_ROWS, CALIBRATION_PIXELS // math.prod(images.shape)))
        self._images = images
        self._batches = images.parts(self._rows)
        self._left = 0

    def __len__(self) -> int:
        """The number of batches."""
        return math.ceil(len(self._images) / self._rows)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Lets so many batches come before the activations of all of them are counted."""
        self._left = end_index - start_index

    def get_next(self) -> dict[str, Batch] | None:
        self._left -= 1
        return {"image": next(self._batches)} if self._left >= 0 else None


def quantised(predict: bytes, images: Images) -> bytes:
    """A file predict.onnx in 8-bit integers inside, with the ranges of activations on `images`."""
    with tempfile.TemporaryDirectory() as scratch:
        source, prepared, result = (
            Path(scratch) / name for name in ("source.onnx", "prepared.onnx", "result.onnx")
        )
        source.write_bytes(predict)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        model = onnx.load_model(prepared)
        for number, node in enumerate(model.graph.node):
            node.name = f"{number}"  # the ONNX standard leaves names to the exporter
        onnx.save_model(model, prepared)
        with redirect_stdout(io.StringIO()):  # onnxruntime.quantization prints its steps
            quantize_static(
                prepared,
                result,
                _Reader(images),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=LAYERS,
                nodes_to_exclude=_in_float32(model.graph),
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                # 7 of the 8 bits: CPUs without VNNI add pairs of products in 16 bits, which 8 bits
                # overflow, and the measured figures would not hold there.
                # https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
                reduce_range=True,
                calibrate_method=CalibrationMethod.Percentile,
                # The activations of one batch are in memory, whatever the method.
                extra_options={"CalibPercentile": PERCENTILE, "CalibStridedMinMax": 1},
            )
        return result.read_bytes()


def _in_float32(graph: onnx.GraphProto) -> list[str]:
    """The names of the first layer and of those behind the last activation, or of the last one."""
    layers = [node for node in graph.node if node.op_type in LAYERS]
    behind = {NAMED}
    for node in graph.node:
        if not behind.isdisjoint(node.input):
            behind.update(node.output)
    head = [node for node in layers if not behind.isdisjoint(node.input)]
    return [node.name for node in (*layers[:1], *(head or layers[-1:]))]


def add_int8(bundle: Bundle, dataset: Dataset, folder: Path) -> Bundle:
    """`bundle` with predict.int8.onnx and its figures, in `folder`; other files stay as they are.

    The graph is calibrated on the validation images and measured on the test images.

    Raises:
        DataError: the data set has other classes than the bundle.
        Int8Error: the graph loses too much or gains too little.
    """
    check_classes(dataset, bundle.manifest.labels)
    graph = _quantised(bundle, dataset.validation)
    plain = replace(bundle.manifest, self_test=None, int8=None)
    maps = {contract.CAM: bundle.read(contract.CAM)} if bundle.has(contract.CAM) else {}
    with tempfile.TemporaryDirectory() as scratch:
        full_engine, int8_engine = (
            Engine(
                contract.write(Path(scratch) / name, plain, maps | {contract.PREDICT: content}),
                "cpu",
                1,
            )
            for name, content in (("full", bundle.read(contract.PREDICT)), ("int8", graph))
        )
        figures = measure(full_engine, int8_engine, dataset.test, len(dataset.validation))
    check(figures)
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    manifest = replace(bundle.manifest, int8=figures)
    return contract.write(folder, manifest, files | {contract.INT8: graph})


def _quantised(bundle: Bundle, images: Images) -> bytes:
    """The network in 8 bits, with the search among reference images in float32."""
    # The search takes a small part of the time.
    model = onnx.load_model_from_string(bundle.read(contract.PREDICT))
    graph = quantised(detach(model).SerializeToString(), images)
    if not bundle.has(contract.REFERENCE):
        return graph
    return with_search(graph, Reference.read(bundle.read(contract.REFERENCE)))


def measure(
    full_engine: Engine, int8_engine: Engine, test: Images, calibration_images: int
) -> Int8:
    """The figures of `int8_engine` beside `full_engine` on the images `test`.

    Both engines must have one thread, because `_speed_ratio` reads the clock of one.
    """
    ours, theirs = (outputs_of(engine, test).logits for engine in (int8_engine, full_engine))
    calibration = full_engine.manifest.calibration
    logits = int8_engine.predict(self_test_image(int8_engine.manifest.input.size)).logits[0]
    return Int8(
        self_test=(int(logits.argmax()), float(logits.max())),
        calibration_pictures=calibration_images,
        test_pictures=len(test),
        macro_f1=macro_f1(ours, test),
        macro_f1_float32=macro_f1(theirs, test),
        log_loss=negative_log_likelihood(ours, test.labels, calibration),
        log_loss_float32=negative_log_likelihood(theirs, test.labels, calibration),
        agreement=float((ours.argmax(1) == theirs.argmax(1)).mean()),
        speed_ratio={
            str(rows): _speed_ratio(
                full_engine, int8_engine, test.rows(np.arange(min(rows, len(test))))
            )
            for rows in BATCHES
        },
        machine=_machine(),
        date=datetime.now(UTC).date().isoformat(),
        cam_cosine=_cam_cosine(full_engine, int8_engine, test),
    )


def losses(bundle: Bundle, calibration: Calibration, test: Images) -> tuple[float, float]:
    """The log losses of predict.int8.onnx and predict.onnx of `bundle` with another calibration."""
    plain = replace(bundle.manifest, self_test=None, int8=None)

    def loss(name: str) -> float:
        with tempfile.TemporaryDirectory() as scratch:
            files = {contract.PREDICT: bundle.read(name)}
            engine = Engine(contract.write(Path(scratch) / "draft", plain, files), "cpu")
            logits = outputs_of(engine, test).logits
        return negative_log_likelihood(logits, test.labels, calibration)

    return loss(contract.INT8), loss(contract.PREDICT)


def check(figures: Int8) -> None:
    """Checks that a graph with these figures is worth serving.

    Raises:
        Int8Error: a figure is beyond its limit.
    """
    loss, ratio = figures.macro_f1_float32 - figures.macro_f1, min(figures.speed_ratio.values())
    log_loss = figures.log_loss - figures.log_loss_float32
    if loss > LARGEST_LOSS:
        raise Int8Error(
            f"macro F1 in int8 is {100 * loss:.2f} points lower than in float32 "
            f"(limit {100 * LARGEST_LOSS:.1f}): {REMEDY}"
        )
    if log_loss > LARGEST_LOG_LOSS:
        raise Int8Error(
            f"the log loss in int8 is {log_loss:.4f} nats higher than in float32 "
            f"(limit {LARGEST_LOG_LOSS}): {REMEDY}"
        )
    if ratio < LEAST_SPEED_RATIO:
        raise Int8Error(
            f"int8 is {ratio:.2f} times as fast as float32 on one core "
            f"(limit {LEAST_SPEED_RATIO}): serve the bundle in float32"
        )


def macro_f1(logits: np.ndarray, images: Images) -> float:
    """The macro F1 of the classes with the largest `logits` (N, K)."""
    labels = range(logits.shape[1])
    return float(
        f1_score(images.labels, logits.argmax(1), labels=labels, average="macro", zero_division=0.0)
    )


def _cam_cosine(full_engine: Engine, int8_engine: Engine, test: Images) -> float | None:
    """The median cosine of the Grad-CAMs of some images, made of the prediction of either engine
    for the class of `full_engine`; None if a prediction gives none.
    """
    if not (full_engine.one_pass and int8_engine.one_pass):
        return None
    cosines = []
    for batch in test.take(np.arange(min(COMPARED, len(test)))).parts(CALIBRATION_ROWS):
        rows = (
            each.predict_quick(batch, activation=True).rows() for each in (full_engine, int8_engine)
        )
        for theirs, ours in zip(*rows, strict=True):
            target = np.array([theirs.logits.argmax()])
            a, b = _cam(full_engine, theirs, target), _cam(int8_engine, ours, target)
            cosines.append(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), TINY))
    return round(float(np.median(cosines)), 6)


def _cam(engine: Engine, row: OutputRow, target: Targets) -> np.ndarray:
    assert row.activation is not None
    seeing = engine.seeing(row.logits, row.activation)
    return seeing.cam_of(np.empty((1, 0, 0, 3), np.uint8), target).cam.ravel()


def _speed_ratio(full_engine: Engine, int8_engine: Engine, batch: Batch) -> float:
    """The median time of `full_engine` divided by that of `int8_engine`, runs interleaved."""
    engines = (full_engine, int8_engine)
    rounds = [[_seconds(engine.predict, batch) for engine in engines] for _ in range(ROUNDS)]
    full, int8 = np.median(np.array(rounds), axis=0)
    return round(float(full / int8), 2)


def _seconds(call: Callable[[Batch], object], batch: Batch) -> float:
    # The time of this thread: other processes on the machine do not lengthen it.
    started = time.thread_time()
    call(batch)
    return time.thread_time() - started


def _machine() -> str:
    source = Path("/proc/cpuinfo")
    lines = source.read_text().splitlines() if source.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
