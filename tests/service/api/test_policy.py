"""Explanations that come along with predictions, by the request's condition or the service's."""

import pytest

from service.api.access.keys import make
from support.images import draw, encode
from support.requests import GOOD, answered, plain, problem
from support.servers import Server
from support.toys import linear

EXPLAINED = 'candor_explanations_total{method="grad_cam",outcome="answered"}'
IMAGES = [encode(draw("red", 32, seed)) for seed in range(30)]


def ask(server, query="", body=GOOD, **headers):
    headers = {"content-type": "image/png", **headers}
    return server.client.post(f"/predict{query}", content=body, headers=headers)


def test_an_explanation_comes_along_where_the_answer_is_unsure(server):
    answered(ask(server, "?explain=grad_cam"))  # so that there is a count
    kinds, before = list[bool](), server.metric(EXPLAINED)
    for image in IMAGES:
        found = answered(ask(server, "?when=unsure&explain=grad_cam&map=array", image))
        unsure = found["prediction_set"]["size"] != 1
        assert ("explanation" in found) == unsure
        if unsure:
            assert found["explanation"]["reason"] == "unsure"
            assert found["explanation"]["method"] == "grad_cam"
        kinds.append(unsure)
    assert set(kinds) == {True, False}
    assert server.metric(EXPLAINED) - before == sum(kinds), "no map is made for nobody"


def test_the_cheapest_method_explains_where_none_is_named(server):
    found = answered(ask(server, "?when=always"))["explanation"]
    assert (found["reason"], found["method"]) == ("always", "grad_cam")
    assert found["map"]["data"]
    assert "explanation" not in answered(ask(server, "?when=none"))
    assert answered(ask(server, "?explain=saliency"))["explanation"]["reason"] == "asked"


def test_what_is_no_condition_is_refused(server):
    detail = problem(ask(server, "?when=often"), 422, "invalid_parameter")
    assert "unsure" in detail


def test_each_image_of_a_batch_is_judged_by_itself(server):
    files = [("image", ("a.png", image, "image/png")) for image in IMAGES]
    form = server.client.post("/predict", files=files, data={"when": "unsure", "map": "array"})
    for found in answered(form)["results"]:
        assert ("explanation" in found) == (found["prediction_set"]["size"] != 1)


@pytest.fixture(scope="module")
def secrets():
    return {"both": make("both", ("predict", "explain")), "one": make("one", ("predict",))}


@pytest.fixture(scope="module")
def guarded(secrets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    keys = folder / "keys"
    keys.write_text("\n".join(line for _, line in secrets.values()))
    keys.chmod(0o600)
    with Server(folder, explain="always", workers=1, keys=keys, open="true") as server:
        yield server


def bearer(secrets, name):
    return {"authorization": f"Bearer {secrets[name][0]}"}


def test_the_policy_of_the_service_explains_what_nobody_asked_about(guarded, secrets):
    both = bearer(secrets, "both")
    found, without = (answered(ask(guarded, query, **both)) for query in ("", "?explain=none"))
    assert (found["explanation"]["reason"], "overlay" in found["explanation"]) == ("always", False)
    assert "explanation" not in without
    del found["explanation"]
    assert plain(found) == plain(without)
    assert answered(ask(guarded, "?map=overlay", **both))["explanation"]["overlay"]
    own = answered(ask(guarded, "?when=unfamiliar", **both))
    assert own["explanation"]["reason"] == "unfamiliar"


def test_the_policy_asks_no_more_of_a_key_than_before(guarded, secrets):
    one = bearer(secrets, "one")
    assert "explanation" not in answered(ask(guarded, **one))
    assert ask(guarded, "?when=always", **one).status_code == 403


def test_a_policy_that_the_bundle_cannot_follow_ends_the_start_with_a_sentence(tmp_path):
    toy = linear(tmp_path)
    bundle = tmp_path / "toy"
    refused = pytest.raises(AssertionError, match="CANDOR_EXPLAIN is unsure, and this model has no")
    with refused, Server(tmp_path, bundle=bundle, explain="unsure"):
        pass
    assert not toy.one_pass
