"""First figures of a bundle on the test images, and its card, until an audit measures more."""

from collections.abc import Mapping
from typing import Any

from service.bundle import folder as contract
from service.bundle.manifest import Manifest
from service.runtime.engine import Engine
from training.data.images import Images
from training.figures.accuracy import accuracy
from training.figures.guessing import guessing
from training.figures.outputs import outputs_of
from training.fit.recipes import Recipe
from training.fit.runs import Run
from training.reliability.fitting import held_out_sentence


# Sentences of a card: with held-out images, and without.
def report(engine: Engine, test: Images, seed: int) -> dict[str, Any]:
    """Accuracy and F1 of predict.onnx on the test images, one view of each."""
    predicted = outputs_of(engine, test).logits.argmax(1)
    return {
        # The service refuses a report of another predict.onnx.
        "files": {contract.PREDICT: engine.manifest.files[contract.PREDICT].sha256},
        "test": accuracy(predicted, test.labels, engine.manifest.labels, seed),
    }


def card(run: Run, manifest: Manifest, figures: Mapping[str, Any]) -> str:
    """CARD.md of a bundle that no audit has measured; `figures` are those of `report`."""
    test, recipe, labels = figures["test"], run.recipe, ", ".join(manifest.labels)
    accuracy_interval, macro_f1_interval = (
        f"{low:.4f}–{high:.4f}"
        for low, high in (test["accuracy_interval"], test["macro_f1_interval"])
    )
    remark = guessing(test)
    factors = ", times a factor for each class" if manifest.class_temperatures else ""
    return (
        f"# {manifest.name}\n\n"
        f"{recipe.network}, trained on {run.subject.name} ({len(manifest.labels)} classes: "
        f"{labels}) for {recipe.epochs} epochs, seed {recipe.seed}{_begun(recipe)}. "
        f"On {test['pictures']:,} test images, one view, predict.onnx has "
        f"accuracy {test['accuracy']:.4f} ({accuracy_interval}) and macro F1 "
        f"{test['macro_f1']:.4f} ({macro_f1_interval}). "
        "Probabilities are calibrated on held-out training images "
        f"(temperature {manifest.temperature:.3f}{factors}). {held_out_sentence(manifest)}\n\n"
        + ("" if remark is None else f"**Do not rely on it:** it is {remark}.\n\n")
        + "It knows these classes only: an image of anything else gets one of them, too.\n"
    )


def _begun(recipe: Recipe) -> str:
    """The weights that the training began with, in words."""
    weights = recipe.weights
    return f", from the weights {weights['name']} ({weights['sha256'][:12]}…)" if weights else ""
