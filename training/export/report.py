"""First figures of a bundle on the test images, and its card, until an audit measures more."""

from collections.abc import Mapping
from typing import Any

from sklearn.metrics import classification_report

from service.bundle import folder as contract
from service.bundle.manifest import Manifest
from service.runtime.engine import Engine
from training.data.images import Images
from training.fit.recipes import Recipe
from training.fit.runs import Run
from training.reliability.fitting import held_out_sentence


def report(engine: Engine, test: Images) -> dict[str, Any]:
    """Scikit-learn's classification report of predict.onnx on the test images, one view of each."""
    predicted = engine.predict(test.pixels).logits.argmax(1)
    labels = engine.manifest.labels
    classes = classification_report(
        test.labels,
        predicted,
        labels=range(len(labels)),
        target_names=list(labels),
        output_dict=True,
        zero_division=0.0,
    )
    return {
        # The service refuses a report of another predict.onnx.
        "files": {contract.PREDICT: engine.manifest.files[contract.PREDICT].sha256},
        "test": {
            "pictures": len(test),
            "accuracy": float((predicted == test.labels).mean()),
            "classes": classes,
        },
    }


def card(run: Run, manifest: Manifest, figures: Mapping[str, Any]) -> str:
    """CARD.md of a bundle that no audit has measured; `figures` are those of `report`."""
    test, recipe, labels = figures["test"], run.recipe, ", ".join(manifest.labels)
    macro_f1 = test["classes"]["macro avg"]["f1-score"]
    return (
        f"# {manifest.name}\n\n"
        f"{recipe.network}, trained on {run.subject.name} ({len(manifest.labels)} classes: "
        f"{labels}) for {recipe.epochs} epochs, seed {recipe.seed}{_begun(recipe)}. "
        f"On {test['pictures']:,} test images, one view, predict.onnx has "
        f"accuracy {test['accuracy']:.4f} and macro F1 {macro_f1:.4f}. "
        "Probabilities are calibrated on held-out training images "
        f"(temperature {manifest.temperature:.3f}). {held_out_sentence(manifest)}\n\n"
        "It knows these classes only: an image of anything else gets one of them, too.\n"
    )


def _begun(recipe: Recipe) -> str:
    """The weights that the training began with, in words."""
    weights = recipe.weights
    return f", from the weights {weights['name']} ({weights['sha256'][:12]}…)" if weights else ""
