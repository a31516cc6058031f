"""The report of a run reads well, ranks doubtful labels, and warns of a network that guesses."""

import json

import numpy as np
import pytest
import torch

from training.fit import report
from training.fit.report import Answers

CLASSES = ("cat", "dog", "owl")


def answers(each, names, wrong=(), doubtful=()):
    """Sure answers to `each` images a class; `wrong` rows get the next class.

    `doubtful` rows carry the label of the next class.
    """
    labels = np.repeat(np.arange(len(CLASSES)), each)
    predicted = labels.copy()
    predicted[list(wrong)] = (predicted[list(wrong)] + 1) % len(CLASSES)
    given = labels.copy()
    given[list(doubtful)] = (given[list(doubtful)] + 1) % len(CLASSES)
    logits = 4 * torch.eye(len(CLASSES))[torch.from_numpy(predicted)]
    return Answers(logits, given, np.array([f"{names}/{row}.jpg" for row in range(len(labels))]))


@pytest.fixture(scope="module")
def made():
    held_out = {
        "validation": answers(20, "photos", doubtful=[25]),
        "test": answers(20, "more", wrong=[0, 1, 45]),
    }
    return report.report_of(held_out, CLASSES, seed=0)


def test_it_is_json_with_intervals_confusions_and_suspects(made):
    assert json.loads(json.dumps(made)) == made
    assert made["test"]["accuracy"] == pytest.approx(57 / 60)
    assert made["confusions"][0] == {"truth": "cat", "answer": "dog", "images": 2, "support": 20}
    suspects = {(entry["split"], entry["name"]) for entry in made["label_issues"]}
    assert ("validation", "photos/25.jpg") in suspects
    entry = next(one for one in made["label_issues"] if one["split"] == "validation")
    assert (entry["label"], entry["likely"]) == ("owl", "dog")
    assert entry["likely_probability"] > 0.9
    assert entry["label_probability"] < 0.1


def test_its_text_names_figures_confusions_and_paths(made):
    text = report.text_of(made)
    low, high = made["test"]["accuracy_interval"]
    assert f"accuracy   0.9500  (95 % interval {low:.4f}–{high:.4f})" in text
    assert "2 of 20 images of cat are taken for dog" in text
    assert "photos/25.jpg (validation): labelled owl (0.0" in text
    assert "Beware" not in text


def test_of_many_classes_the_text_shows_the_worst():
    count = 60
    names = [f"kind {number}" for number in range(count)]
    labels = np.repeat(np.arange(count), 2)
    logits = torch.eye(count)[torch.from_numpy(labels)]
    logits[118:] = torch.eye(count)[0]  # the last class is always wrong
    held_out = {"test": Answers(logits, labels, labels.astype(np.str_))}
    text = report.text_of(report.report_of(held_out, names, seed=0))
    assert "kind 59" in text
    assert "kind 58" not in text
    assert "… the lowest F1 of 60 classes; report.json has all" in text


def test_a_network_that_guesses_is_named():
    held_out = {"test": answers(10, "more", wrong=range(15))}
    text = report.text_of(report.report_of(held_out, CLASSES, seed=0))
    assert "Beware: the network is no better than guessing: accuracy 0.500" in text
    assert "always answering cat would have 0.333" in text
    assert "Labels to look at" not in text


def test_the_confusion_image_of_many_classes_stays_small(made):
    assert report.confusion_image(made).shape == (1, 1, 48, 48)
    wide = {"test": {"confusion": np.eye(200, dtype=int).tolist()}}
    assert report.confusion_image(wide).shape == (1, 1, 1000, 1000)
    assert report.confusion_image({"test": {"confusion": []}}) is None
