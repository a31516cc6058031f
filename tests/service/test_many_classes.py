"""A model of 21,841 classes, as many as ImageNet-21k has, three of them with one label."""

import json
import re

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from support import toys
from support.browser import Visit, chromium
from support.images import draw, encode
from support.servers import Server

CLASSES, SHARED, COMMAS = 21_841, (3, 500, 20_000), 77
IMAGE = encode(draw("red", size=64))
PNG = {"content-type": "image/png"}


def labels_of_model():
    labels = [
        f"kind {index} of {'café' if index % 1000 == 7 else 'thing'}" for index in range(CLASSES)
    ]
    for index in SHARED:
        labels[index] = "crane"
    labels[COMMAS] = "great white shark, white shark"
    return labels


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A server of the model; its prediction sets hold almost all classes."""
    folder = tmp_path_factory.mktemp("many")
    bundle = toys.many_classes(folder, labels_of_model(), coverage_threshold=1e-300)
    with Server(folder, bundle=bundle, workers=1) as running:
        yield running


@pytest.fixture
def page(many):
    """The tab Why with an image of the page of that server."""
    with chromium() as browser:
        visit = Visit(browser, many.url)
        page = visit.open()
        page.locator("#files").set_input_files(
            {"name": "a.png", "mimeType": "image/png", "buffer": IMAGE}
        )
        page.wait_for_selector(".verdict")
        yield page
        visit.close()
        assert visit.errors == []


def ask(server, path, **query):
    response = server.client.post(path, content=IMAGE, headers=PNG, params=query)
    assert response.status_code == 200, response.text
    return response.json()


def infer(server, *outputs):
    """The outputs of /v2 by name."""
    size = {"binary_data_size": 4 + len(IMAGE)}
    image = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": size}
    body = {"inputs": [image], "outputs": outputs}
    head = json.dumps(body).encode()
    response = server.client.post(
        "/v2/models/many/infer",
        content=head + len(IMAGE).to_bytes(4, "little") + IMAGE,
        headers={"Inference-Header-Content-Length": str(len(head))},
    )
    assert response.status_code == 200, response.text
    return {output["name"]: output for output in response.json()["outputs"]}


def whole(server):
    """All probabilities, and the membership of the prediction set."""
    found = infer(server, {"name": "probabilities"}, {"name": "prediction_set"})
    return [np.array(output["data"]) for output in found.values()]


def test_an_answer_holds_the_top_the_named_classes_and_no_others(many):
    answer = ask(many, "/predict", classes=f"{COMMAS},kind 9 of thing,3", top_k=5)
    everything, _ = whole(many)
    order = np.argsort(-everything, kind="stable")
    assert [entry["index"] for entry in answer["top"]] == order[:5].tolist()
    assert [entry["index"] for entry in answer["classes"]] == [COMMAS, 9, 3]
    assert [entry["probability"] for entry in answer["classes"]] == pytest.approx(
        everything[[COMMAS, 9, 3]], rel=1e-5
    )
    assert len(many.client.post("/predict", content=IMAGE, headers=PNG).content) < 6_000


def test_a_set_lists_its_most_probable_classes_and_says_how_many_there_are(many):
    found = ask(many, "/predict")["prediction_set"]
    everything, members = whole(many)
    assert found["size"] == members.sum() > 20_000
    assert len(found["labels"]) == len(found["indices"]) == 100
    assert len(ask(many, "/predict", top_k=150)["prediction_set"]["labels"]) == 150
    order = np.argsort(-everything, kind="stable")
    assert set(found["indices"][:50]) <= set(order[:100].tolist())


@pytest.mark.parametrize(
    ("path", "query", "words"),
    [
        ("/predict", {"top_k": 1001}, "the model has 21,841 classes: ask for 1 to 1,000, or"),
        ("/explain", {"target": "crane"}, "the label of 3 classes: .* such as 3, 500, 20000"),
        ("/predict", {"classes": "9" * 5000}, "classes is '9+.*name a label"),
        ("/predict", {"classes": ",".join(["1"] * 101)}, "classes has more than 100 classes"),
    ],
)
def test_what_is_ambiguous_or_too_much_is_rejected_with_the_remedy(path, query, words, many):
    response = many.client.post(path, content=IMAGE, headers=PNG, params=query)
    assert response.status_code == 422, response.text
    assert re.search(words, response.json()["detail"])


def test_the_open_inference_protocol_gives_the_largest_values_by_tritons_extension(many):
    output = infer(many, {"name": "probabilities", "parameters": {"classification": 5}})
    found = output["probabilities"]
    assert (found["datatype"], found["shape"]) == ("BYTES", [1, 5])
    top = ask(many, "/predict", top_k=5)["top"]
    assert found["data"] == [
        f"{entry['probability']:f}:{entry['index']}:{entry['label']}" for entry in top
    ]
    body = {
        "inputs": [{"name": "a", "shape": [1, 1, 1, 3], "datatype": "UINT8", "data": [0] * 3}],
        "outputs": [{"name": "logits", "parameters": {"classification": 1001}}],
    }
    response = many.client.post("/v2/models/many/infer", json=body)
    assert response.status_code == 422
    assert "classification of logits is 1001; give 1 to 1,000" in response.text


def test_classes_of_one_label_are_explained_by_their_indices(many):
    answer = ask(many, "/explain", target="500,3", method="grad_cam", map="array")
    assert answer["explanation"]["target"] == {"label": "crane", "index": 500}
    assert answer["explanation"]["against"] == {"label": "crane", "index": 3}


def test_documents_and_metrics_do_not_grow_with_the_classes(many):
    sizes = {
        path: len(many.client.get(path).content)
        for path in ("/openapi.json", "/schema.json", "/v2/models/many", "/metrics")
    }
    assert max(sizes.values()) < 150_000, sizes
    series = [
        line
        for line in many.client.get("/metrics").text.splitlines()
        if line.startswith("candor_predictions_total")
    ]
    assert [line.partition(" ")[0] for line in series] == [
        'candor_predictions_total{label="*",model="many"}'
    ]
    model = many.client.get("/model", headers={"accept-encoding": "gzip"})
    assert int(model.headers["content-length"]) < 300_000
    assert model.json()["labels"] == labels_of_model()
    plain = many.client.get("/model", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.json() == model.json()


def test_the_page_searches_the_classes_by_a_part_of_the_name(page):
    expect(page.locator("#try .lead")).to_contain_text("21,841 classes")
    expect(page.locator(".trust")).to_contain_text(re.compile(r"One of 2\d,\d{3}: .+ more\."))
    page.locator("#tab-why").click()
    target = page.get_by_role("combobox", name="Explain")
    options = page.locator("#why .popup:visible [role=option]")
    target.click()
    expect(options).to_have_count(50)
    expect(options.first).to_contain_text("the prediction")
    target.fill("SHARK white")
    expect(options).to_have_text(["great white shark, white shark"])
    expect(page.locator("#why .search [role=status]").first).to_have_text("Classes that match: 1")
    target.press("Enter")
    expect(page.locator(".question")).to_have_text(
        "What in the image supports great white shark, white shark?"
    )
    target.fill("cafe")
    expect(options).to_have_count(22)
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    assert [each["id"] for each in found if each["impact"] in ("serious", "critical")] == []
    target.press("Escape")
    expect(target).to_have_value("great white shark, white shark")
    expect(options).to_have_count(0)
    assert page.locator("#why *").count() < 1000


def test_classes_of_one_label_are_told_apart_on_the_page(page):
    page.locator("#tab-why").click()
    target = page.get_by_role("combobox", name="Explain")
    against = page.get_by_role("combobox", name="rather than")
    options = page.locator("#why .popup:visible [role=option]")
    target.fill("crane")
    expect(options).to_have_text(["crane (3)", "crane (500)", "crane (20000)"])
    target.press("ArrowDown")
    assert target.get_attribute("aria-activedescendant") == options.nth(1).get_attribute("id")
    target.press("Enter")
    against.fill("20000")
    expect(options.first).to_have_text("crane (20000)")
    against.press("Tab")
    expect(page.locator(".question")).to_have_text("Why crane (500) rather than crane (20000)?")
    expect(page.locator("#why .panel .quality")).to_be_visible()
    page.get_by_role("button", name="Brush the strongest tenth").click()
    expect(page.locator(".result")).to_contain_text("What happened to crane (500)")
    target.fill("nothing is called so")
    expect(page.locator("#why .popup:visible")).to_contain_text("No class is called so.")
    target.blur()
    expect(target).to_have_value("crane (500)")
    target.fill("20000")
    target.press("Enter")
    expect(against).to_have_value("nothing")
