"""The forward passes of a request have a limit, whichever protocol asks for them."""

import pytest

from support.requests import GOOD, answered, b64, problem
from support.servers import Server

LIMIT = 2_000
DEAR = {"method": "kernel_shap", "samples": 4096}
CHEAP = {"method": "kernel_shap", "samples": 16}
PNG = {"content-type": "image/png"}
EXCESS = "kernel_shap with these parameters takes up to 4,098 forward passes, and"


@pytest.fixture(scope="module")
def strict(embedded, tmp_path_factory):
    with Server(tmp_path_factory.mktemp("strict"), workers=1, max_passes=LIMIT) as server:
        yield server


def infer(strict, model, parameters):
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [b64(GOOD)]}
    outputs = [{"name": "attribution", "parameters": parameters}]
    return strict.client.post(
        f"/v2/models/{model}/infer", json={"inputs": [tensor], "outputs": outputs}
    )


def answers(strict, model, parameters):
    """The answers of every protocol to a question with `parameters` about one image."""
    explain, query = (
        f"/explain?samples={parameters['samples']}&method=kernel_shap",
        {"content": GOOD},
    )
    raw = strict.client.post(explain, headers=PNG, **query)
    overlay = strict.client.post(explain, headers=PNG | {"accept": "image/png"}, **query)
    instances = {"instances": [b64(GOOD)], **parameters}
    return [
        raw,
        overlay,
        strict.client.post(f"/v1/models/{model}:explain", json=instances),
        infer(strict, model, parameters),
    ]


def test_every_protocol_rejects_a_question_above_the_limit(strict, embedded):
    for response in answers(strict, embedded.manifest.name, DEAR):
        assert response.status_code == 422, response.text
        assert EXCESS in response.text
        assert "1 × 4,098 = 4,098; the limit is 2,000 a request: ask for fewer" in response.text
    for response in answers(strict, embedded.manifest.name, CHEAP):
        assert response.status_code == 200, response.text


def test_the_images_of_a_request_are_charged_together(strict):
    one = {"method": "rise", "samples": 1000, "map": "array"}
    answered(strict.client.post("/explain", json={"images": [b64(GOOD)] * 2, **one}))
    response = strict.client.post("/explain", json={"images": [b64(GOOD)] * 3, **one})
    assert "3 × 1,000 = 3,000; the limit is 2,000" in problem(response, 422, "invalid_parameter")


def test_predictions_need_no_forward_passes_beyond_their_own(strict):
    answered(strict.client.post("/predict", json={"images": [b64(GOOD)] * 64}))
