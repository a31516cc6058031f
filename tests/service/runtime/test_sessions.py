"""The sessions of a bundle are opened where they were asked to be, and tested before they serve."""

import gc
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from service.bundle import folder
from service.errors import BundleError, DeviceError
from service.runtime import providers
from service.runtime.choice import Choice
from service.runtime.cpu import shared_out
from service.runtime.engine import Engine
from service.runtime.graphs import QUICK
from service.runtime.openvino import OFTEN
from service.runtime.sessions import (
    CPU_ROWS,
    MEASURED_SECONDS,
    _warm_up,
    cpu_rows,
    open_sessions,
    rows_of,
    self_test_image,
)
from service.settings import EMBEDDED


def with_predict_alone(bundle, path, **changes):
    files = {folder.PREDICT: bundle.read(folder.PREDICT)}
    return folder.write(path, replace(bundle.manifest, **changes), files)


def cuda_works(bundle):
    try:
        ort.set_default_logger_severity(4)
        session = ort.InferenceSession(
            bundle.read(folder.PREDICT), providers=["CUDAExecutionProvider"]
        )
        return session.get_providers()[0] == "CUDAExecutionProvider"
    except Exception:  # noqa: BLE001 - onnxruntime raises what it likes
        return False


def test_cuda_is_rejected_where_it_does_not_work(embedded):
    if cuda_works(embedded):
        pytest.skip("a GPU is here: cuda works")
    with pytest.raises(DeviceError, match="set CANDOR_DEVICE to cpu or auto"):
        Engine(embedded, "cuda")


def test_auto_takes_a_device_that_works(embedded):
    engine = Engine(embedded, "auto")
    assert engine.device == ("cuda" if cuda_works(embedded) else "cpu")
    assert engine.provider.lower().startswith(engine.device)


def test_several_cores_have_sessions_of_their_own_and_a_single_core_has_not(embedded):
    several, single = (
        open_sessions(embedded, "cpu", threads, Choice(), alone=True) for threads in (2, 1)
    )
    assert several.all_cores.keys() == several.one_core.keys()
    assert all(several.all_cores[name] is not several.one_core[name] for name in several.one_core)
    assert single.all_cores is single.one_core
    assert several.most_rows == CPU_ROWS


def test_beside_other_workers_the_graphs_of_explanations_are_open_once(embedded):
    def opened():
        return sum(type(thing) is ort.InferenceSession for thing in gc.get_objects())

    before = opened()
    sessions = open_sessions(embedded, "cpu", 2, Choice(), alone=False)
    # predict.onnx for one core and for all, gradient.onnx, cam.onnx, and the head
    assert opened() - before == 5
    x = np.random.default_rng(0).standard_normal((5, 3, 32, 32)).astype(np.float32)
    feeds = {"x": x, "target": np.arange(5)}
    one, every = (
        sessions.run(folder.GRADIENT, feeds, all_cores=all_cores)["gradient"]
        for all_cores in (False, True)
    )
    assert np.abs(one - every).max() < 1e-5 * np.abs(one).max()


def threads():
    """The threads of this process."""
    return {int(path.name) for path in Path("/proc/self/task").iterdir()}


def test_an_engine_that_is_let_go_leaves_no_thread(embedded):
    gc.collect()
    gc.disable()
    try:
        before = threads()
        engine = Engine(embedded, "cpu", 3, alone=False)
        x = np.zeros((3, 3, 32, 32), np.float32)
        engine.gradient(x, np.zeros(3, np.int64))
        started = threads() - before
        assert len(started) >= 4  # two of predict.onnx for all cores, two or three of the rows
        del engine
        end = time.monotonic() + 30
        while started & threads() and time.monotonic() < end:
            time.sleep(0.01)  # a thread ends by itself once it hears that it may
        assert not started & threads()
    finally:
        gc.enable()


def test_threads_rest_after_a_run(embedded):
    engine = Engine(embedded, "cpu", 2)
    x, target = engine.normalise(self_test_image(32)), np.zeros(1, np.int64)
    spent = []
    for _ in range(5):
        engine.gradient(x, target)
        started = time.process_time()
        time.sleep(0.02)
        spent.append(time.process_time() - started)
    assert min(spent) < 0.002  # threads that spin take all of it


def test_the_parts_of_a_batch_run_at_once_and_keep_their_order():
    together = threading.Barrier(2)

    def double(feeds, _asked):
        together.wait(10)
        return {"y": 2 * feeds["x"]}

    run = shared_out(double, 2)
    assert run({"x": np.arange(5)})["y"].tolist() == [0, 2, 4, 6, 8]


def test_a_batch_with_a_row_for_each_thread_is_shared_out_and_a_smaller_one_is_not():
    sizes = {"one": [], "all": []}

    def noting(name):
        def run(feeds, _asked):
            sizes[name].append(len(feeds["x"]))
            return feeds

        return run

    one, every = noting("one"), noting("all")
    for rows in (1, 2, 3, 7):
        fed = {"x": np.arange(rows)}
        assert shared_out(one, 3, every)(fed, ())["x"].tolist() == [*range(rows)]
    assert sizes["all"] == [1, 2]
    assert sorted(sizes["one"]) == [1, 1, 1, 2, 2, 3]
    assert shared_out(one, 3)({"x": np.arange(2)}, ())["x"].tolist() == [0, 1]
    assert sorted(sizes["one"]) == [1, 1, 1, 1, 1, 2, 2, 3]
    assert shared_out(one, 3)({"x": np.arange(1)}, ())["x"].tolist() == [0]


def test_of_a_lone_engine_gradients_of_a_batch_are_shared_out(embedded):
    sessions = open_sessions(embedded, "cpu", 2, Choice(), alone=True)
    whole = sessions.all_cores[folder.GRADIENT]
    assert whole is not sessions.one_core[folder.GRADIENT]
    before = threads()
    x = np.zeros((2, 3, 32, 32), np.float32)
    whole({"x": x[:1], "target": np.zeros(1, np.int64)}, ())
    assert not threads() - before
    whole({"x": x, "target": np.zeros(2, np.int64)}, ())
    assert threads() - before


def test_of_large_images_fewer_run_together_on_a_cpu():
    assert cpu_rows(32) == CPU_ROWS
    assert cpu_rows(224) == 2
    assert cpu_rows(512) == 1


def test_of_large_images_more_are_answered_together_than_run_together_in_float32():
    engine = Engine(folder.load(EMBEDDED["imagenet"]), "cpu", 1)
    assert (engine.most_rows, engine.quick_rows, engine.batch_rows) == (2, 2, 4)


def test_a_session_keeps_no_copy_of_its_file(embedded):
    session = providers.open_session("predict.onnx", embedded.read(folder.PREDICT), "cpu", 1)
    assert not any(isinstance(value, bytes) for value in vars(session).values())


def test_the_seconds_of_a_run_are_measured_once(embedded):
    first = Engine(embedded, "cpu", 1, timings={})
    seconds = first.forward_seconds, first.quick_seconds, first.row_seconds(folder.GRADIENT)
    assert min(seconds) > 0
    assert seconds == (
        first.forward_seconds,
        first.quick_seconds,
        first.row_seconds(folder.GRADIENT),
    )


def test_an_engine_takes_the_seconds_of_one_like_it(embedded):
    known = {(folder.PREDICT, 1): (0.5, 0.5), (folder.PREDICT, CPU_ROWS): (8.0, 4.0)}
    engine = Engine(embedded, "cpu", 1, timings=known)
    assert engine.forward_seconds == 0.5
    assert engine.row_seconds(folder.PREDICT) == 4.0 / CPU_ROWS
    assert engine.quick_seconds < 0.5
    assert len(known) == 3  # an engine after it knows what this one has measured


@pytest.mark.parametrize("wall", [0.002, 0.02])
def test_who_waits_for_another_worker_takes_no_more_than_a_core(wall, embedded):
    engine = Engine(embedded, "cpu", 1, timings={(QUICK, 1): (wall, 0.004)})
    assert engine.quick_seconds == min(wall, 0.004)


def with_program(program, embedded):
    """Sessions whose predictions and gradients are by `program`."""
    opened = open_sessions(embedded, "cpu", 1, Choice(), alone=True)
    programs = dict.fromkeys((QUICK, folder.PREDICT, folder.GRADIENT), program)
    return replace(opened, all_cores=programs, one_core=programs, timings={})


def test_the_first_run_of_so_many_rows_is_not_the_measure(embedded):
    pauses = [2 * MEASURED_SECONDS, 0.1, 0.1]
    sessions = with_program(lambda _feeds, _asked: time.sleep(pauses.pop(0)) or {}, embedded)
    assert 0.1 <= sessions.forward_seconds < MEASURED_SECONDS


def test_predictions_are_warmed_up_with_the_rows_that_come_often_and_others(embedded):
    runs = []
    _warm_up(with_program(lambda feeds, _asked: runs.append(rows_of_first(feeds)) or {}, embedded))
    quick, predict, gradient = (
        [("image", rows) for rows in (2, *OFTEN)],
        ("image", 1),
        ("target", 1),
    )
    assert sorted(runs) == sorted([*quick, predict, gradient])


def rows_of_first(feeds):
    name = min(feeds)
    return name, len(feeds[name])


def test_a_wrong_class_in_the_self_test_stops_the_start(embedded, tmp_path):
    index, logit = embedded.manifest.self_test
    wrong = with_predict_alone(embedded, tmp_path / "b", self_test=(index + 1, logit))
    with pytest.raises(BundleError, match=rf"gives class {index} .* the manifest says class"):
        Engine(wrong, "cpu")


@pytest.mark.parametrize("error", [0.06, -0.06])
def test_a_wrong_logit_in_the_self_test_stops_the_start(error, embedded, tmp_path):
    index, logit = embedded.manifest.self_test
    wrong = with_predict_alone(embedded, tmp_path / "b", self_test=(index, logit + error))
    with pytest.raises(BundleError, match="the manifest says class"):
        Engine(wrong, "cpu")
    near = with_predict_alone(embedded, tmp_path / "c", self_test=(index, logit + error / 2))
    assert Engine(near, "cpu").device == "cpu"


def test_a_broken_graph_stops_the_start(embedded, tmp_path):
    broken = folder.write(tmp_path / "b", embedded.manifest, {folder.PREDICT: b"no graph"})
    with pytest.raises(BundleError, match=r"cannot open predict\.onnx"):
        Engine(broken, "cpu")


def test_the_cpu_opens_no_half_precision(embedded, tmp_path):
    half = folder.HALVES[folder.PREDICT]
    files = {folder.PREDICT: embedded.read(folder.PREDICT), half: b"no graph"}
    engine = Engine(folder.write(tmp_path / "b", embedded.manifest, files), "cpu")
    image = self_test_image(embedded.manifest.input.size)
    assert engine.predict(image).logits.shape == (1, 10)


def test_of_large_images_fewer_run_together_on_a_gpu():
    assert rows_of(32)[-1] == 64
    assert rows_of(224)[-1] == 16
    assert rows_of(512)[-1] == 2
    assert rows_of(4_096) == (1,)


def test_the_self_test_image_is_the_same_everywhere():
    image = self_test_image(3)
    assert image.dtype == np.uint8
    assert image[0, 1].tolist() == [[0, 127, 255], [127, 127, 128], [255, 127, 0]]
