"""The engine calls the graphs of a bundle, any number of rows at a time."""

import numpy as np
import pytest

from service.bundle import folder
from service.errors import MethodUnavailable
from service.runtime.engine import Engine, Piece
from service.runtime.graphs import QUICK
from service.runtime.sessions import CPU_ROWS
from support.images import draw

BATCH = np.stack([draw(seed=seed) for seed in range(37)])


def test_a_batch_answers_as_its_rows_do(engine):
    together = engine.predict(BATCH).logits
    alone = np.concatenate([engine.predict(row[None]).logits for row in BATCH])
    assert together.shape == (37, 10)
    assert np.abs(together - alone).max() < 1e-4, np.abs(together - alone).max()


def test_normalisation_is_the_same_inside_the_graph_and_outside(engine):
    target = np.full(len(BATCH), -1)
    inside, outside = (
        engine.predict(BATCH).logits,
        engine.gradient(engine.normalise(BATCH), target).logits,
    )
    assert np.abs(inside - outside).max() < 1e-4, np.abs(inside - outside).max()


def test_minus_one_explains_the_predicted_class(engine):
    x = engine.normalise(BATCH[:5])
    predicted = engine.predict(BATCH[:5]).logits.argmax(1)
    assert np.array_equal(
        engine.gradient(x, np.full(5, -1)).gradient, engine.gradient(x, predicted).gradient
    )
    assert np.array_equal(engine.cam(x, np.full(5, -1)).cam, engine.cam(x, predicted).cam)


def test_the_gradient_is_the_slope_of_the_logit(engine):
    x = engine.normalise(BATCH[:1])
    target = np.array([3])
    direction = engine.gradient(x, target).gradient
    direction /= np.linalg.norm(direction)
    step = np.float32(1e-2)
    ahead, behind = (
        engine.gradient(x + sign * step * direction, target).logits[0, 3] for sign in (1, -1)
    )
    slope = (float(ahead) - float(behind)) / (2 * float(step))
    gradient = float((engine.gradient(x, target).gradient * direction).sum())
    assert gradient == pytest.approx(slope, rel=0.05, abs=0.05)


def test_the_cam_is_its_activation_weighted_by_the_mean_gradient(engine):
    cam = engine.cam(engine.normalise(BATCH[:3]), np.array([0, 1, 2]))
    weights = cam.activation_gradient.mean((2, 3), keepdims=True)
    expected = (weights * cam.activation).sum(1, keepdims=True)
    assert np.abs(cam.cam - expected).max() < 1e-5


def test_the_mean_logits_are_those_of_the_mean_colour_and_computed_once(engine):
    size = engine.manifest.input.size
    zero = engine.gradient(np.zeros((1, 3, size, size), np.float32), np.array([0])).logits[0]
    assert np.array_equal(engine.mean_logits, zero)
    assert engine.paced(lambda rows: Piece(rows, True)).mean_logits is engine.mean_logits


def test_an_engine_asks_its_pacer_before_every_piece(engine):
    requests = []

    def pacer(remaining):
        requests.append(remaining)
        return Piece(min(remaining, 3), True)

    logits = engine.paced(pacer).predict(BATCH[:8]).logits
    assert requests == [8, 5, 2]
    assert np.abs(logits - engine.predict(BATCH[:8]).logits).max() < 1e-4


def test_a_pacer_that_gives_up_stops_the_call_between_two_pieces(engine):
    def pacer(remaining):
        if remaining < len(BATCH):
            raise TimeoutError
        return Piece(3, True)

    with pytest.raises(TimeoutError):
        engine.paced(pacer).predict(BATCH)


def test_a_view_leaves_the_engine_as_it_is(engine):
    engine.paced(lambda _remaining: Piece(1, False))
    engine.on_one_core()
    assert engine._next_piece(100) == Piece(CPU_ROWS, True)


def test_predictions_may_run_in_larger_pieces(embedded):
    engine, rows = Engine(embedded, "cpu", threads=1), []
    program = engine._sessions.one_core[QUICK]
    engine._sessions.one_core[QUICK] = lambda feeds, asked: (
        rows.append(len(feeds["image"])) or program(feeds, asked)
    )
    assert engine.quick_rows == CPU_ROWS
    batch = np.resize(BATCH, (2 * CPU_ROWS + 1, *BATCH.shape[1:]))
    engine.quick_rows = 2 * CPU_ROWS
    assert len(engine.predict_quick(batch[:-1]).logits) == 2 * CPU_ROWS
    assert len(engine.predict_quick(batch).logits) == 2 * CPU_ROWS + 1
    assert rows == [2 * CPU_ROWS, CPU_ROWS, CPU_ROWS, 1]


def test_one_core_and_all_cores_answer_alike(engine):
    one, every = engine.on_one_core().predict(BATCH[:4]), engine.predict(BATCH[:4])
    assert np.abs(one.logits - every.logits).max() < 1e-4


def test_the_number_of_cores_chooses_the_sessions(embedded):
    engine = Engine(embedded, "cpu", threads=2)
    calls = []
    sessions = engine._sessions
    for name in ("all_cores", "one_core"):
        program = getattr(sessions, name)[folder.PREDICT]
        getattr(sessions, name)[folder.PREDICT] = lambda *given, name=name, program=program: (
            calls.append(name) or program(*given)
        )
    engine.predict(BATCH[:1])
    engine.on_one_core().predict(BATCH[:1])
    engine.paced(lambda rows: Piece(rows, True)).predict(BATCH[:1])
    engine.paced(lambda rows: Piece(rows, False)).predict(BATCH[:1])
    assert calls == ["all_cores", "one_core", "all_cores", "one_core"]


def test_a_bundle_with_prediction_alone_names_the_missing_graph(embedded, tmp_path):
    files = {folder.PREDICT: embedded.read(folder.PREDICT)}
    engine = Engine(folder.write(tmp_path / "b", embedded.manifest, files), "cpu")
    assert engine.predict(BATCH[:1]).logits.shape == (1, 10)
    assert not engine.has(folder.GRADIENT)
    with pytest.raises(MethodUnavailable, match=r"no gradient.onnx"):
        engine.gradient(engine.normalise(BATCH[:1]), np.array([0]))
    with pytest.raises(MethodUnavailable, match=r"no gradient.onnx"):
        _ = engine.mean_logits
