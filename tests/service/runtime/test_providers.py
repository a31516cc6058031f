"""Each device has its provider, its files and its errors."""

import pytest

from service.bundle import folder
from service.errors import BundleError
from service.runtime.providers import check, file_of, is_half, open_session

FULL, HALF = folder.CAM, folder.HALVES[folder.CAM]


@pytest.mark.parametrize(
    ("device", "expected"), [("cpu", FULL), ("cuda", HALF), ("tensorrt", HALF)]
)
def test_half_precision_serves_gpus_alone(device, expected):
    assert file_of(FULL, {FULL, HALF}, device) == expected
    assert file_of(FULL, {FULL, folder.HALVES[folder.PREDICT]}, device) == FULL


def test_a_file_in_half_precision_is_known_by_its_name():
    assert is_half(HALF)
    assert not is_half(FULL)


def test_every_onnx_runtime_has_a_cpu():
    check("cpu")


def test_a_file_without_a_graph_cannot_be_opened():
    with pytest.raises(BundleError, match=r"ONNX Runtime cannot open predict\.onnx: "):
        open_session("predict.onnx", b"no graph", "cpu", 1)
