"""A Predictor makes of Arrow batches the rows that a bulk run makes of files."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.bulk import arrow
from service.bulk.arrow import Predictor
from service.bulk.job import Job
from service.bulk.run import Run
from service.errors import BulkError, DigestError, InvalidParameter, ManifestError
from service.explain import ask
from support.images import draw, encode
from support.tables import agree

MAX_PIXELS = 10_000
DAMAGED = b"\xff\xd8 no more than the beginning of a JPEG"


def table_of(engine, folder, out, **settings):
    started = Run(engine, Job(folder, out, **settings), MAX_PIXELS, workers=2)
    assert sum(started.work()) == started.total
    started.finish()
    return pq.read_table(out)


def carried(value):
    """`value`, as an engine sends it to another process."""
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - of our own


def batch_of(folder, paths):
    """A batch of files, as an engine reads them."""
    contents = [(folder / path).read_bytes() for path in paths]
    return pa.table({"path": [f"{folder}/{path}" for path in paths], "bytes": contents})


@pytest.mark.parametrize(("explained", "threads"), [(False, 1), (True, 1), (False, 3)])
def test_the_rows_are_those_of_a_bulk_run(tmp_path, engine, images, explained, threads):
    question = ask(engine.manifest, "grad_cam", "ship", {}) if explained else None
    expected = table_of(engine, images, tmp_path / "out.parquet", question=question, top_k=5)
    asked = {"explain": "grad_cam", "target": "ship"} if explained else {}
    predictor = Predictor(
        root=str(images), max_pixels=MAX_PIXELS, top_k=5, threads=threads, **asked
    )
    found = predictor(batch_of(images, expected["path"].to_pylist()))
    assert found.schema == predictor.schema == expected.schema
    assert found.schema.metadata == {
        name: value for name, value in expected.schema.metadata.items() if name != b"candor.job"
    }
    agree(found, expected)
    assert found["error_code"].null_count == len(found) - 2


def test_a_record_batch_becomes_one_and_the_order_stays(images):
    table = batch_of(images, ["large.png", "a/bad.jpeg", "a/00.jpg"] * 30)
    (batch,) = table.combine_chunks().to_batches()
    (found,) = Predictor(max_pixels=MAX_PIXELS).map([batch])
    assert isinstance(found, pa.RecordBatch)
    assert found["path"].to_pylist() == batch["path"].to_pylist()
    assert found["label"].to_pylist()[:3] == [None, None, found["label"][-1].as_py()]
    assert found["label"][2].is_valid


def test_no_image_is_an_exception():
    batch = {
        "id": [1, 2, 3, 4],
        "content": [DAMAGED, b"", None, encode(draw(size=32))],
    }
    found = Predictor(content="content", path="id")(pa.table(batch))
    assert found["path"].to_pylist() == ["1", "2", "3", "4"]
    assert [code is None for code in found["error_code"].to_pylist()] == [False] * 3 + [True]
    assert (
        Predictor()(
            pa.table({"path": pa.array([], "string"), "bytes": pa.array([], "binary")})
        ).num_rows
        == 0
    )


def test_a_predictor_pickles_small_and_a_process_opens_a_bundle_once(images, monkeypatch):
    monkeypatch.setattr(arrow, "_bundles", {})
    predictor = Predictor(parameters={"steps": 4}, explain="integrated_gradients")
    assert len(pickle.dumps(predictor)) < 1_000
    copies = [carried(predictor) for _ in range(4)]
    batch = batch_of(images, ["a/00.jpg"])
    with ThreadPoolExecutor(4) as pool:
        rows = [found.to_pylist() for found in pool.map(lambda copy: copy(batch), copies)]
    assert rows[0][0]["method"] == "integrated_gradients"
    assert rows == rows[:1] * 4
    assert len(arrow._bundles) == 1
    Predictor(top_k=1)(batch)
    assert len(arrow._bundles) == 2


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"name": ["a"], "bytes": [b""]}, r"no column 'path', it has name, bytes: name the col"),
        ({"path": ["a"], "bytes": [[1]]}, r"'bytes' is of type list<.*int64>, which is no large_b"),
        ({"path": [None], "bytes": [b""]}, r"'path' has nulls: give every image a path or an id"),
    ],
)
def test_a_batch_without_its_columns_is_a_sentence(columns, message):
    with pytest.raises(BulkError, match=message):
        Predictor()(pa.table(columns))


@pytest.mark.parametrize(
    ("predictor", "error", "message"),
    [
        (Predictor(digest="0" * 64), DigestError, "serve the bundle that was pinned"),
        (Predictor("nowhere"), ManifestError, "nowhere is no bundle"),
        (Predictor(explain="grad_cma"), InvalidParameter, "grad_cam"),
        (Predictor(top_k=99), InvalidParameter, "top_k"),
    ],
)
def test_a_mistake_is_a_sentence_that_an_engine_can_carry(images, predictor, error, message):
    with pytest.raises(error, match=message) as caught:
        predictor(batch_of(images, ["a/00.jpg"]))
    arrived = carried(caught.value)
    assert (type(arrived), str(arrived)) == (error, str(caught.value))


def test_the_schema_takes_no_bundle():
    assert "method" not in Predictor("nowhere").schema.names
    assert "method" in replace(Predictor("nowhere"), explain="grad_cam").schema.names
