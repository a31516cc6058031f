"""CARD.md of the bundle of an ONNX file."""

from service.bundle.manifest import Manifest
from service.image.resize import described

UNMEASURED = """\
- Probabilities are not calibrated: nobody has measured how often such answers are right.
- There are no prediction sets: which other classes are possible is not known.
- There is no measure of familiarity: the energy of the logits has no threshold without such images.
"""
FITTED = "- Probabilities, prediction sets and familiarity are fitted on {images:,} images.\n"
MULTI_LABEL = """\
- An image may have several of the classes, or none: each has a probability for itself.
{calibrated}\
- There is no measure of familiarity, which is fitted on images of one class each.
"""
EACH_UNCALIBRATED = """\
- Probabilities are not calibrated: nobody has measured how often such answers are right.
"""
EACH_CALIBRATED = """\
- Each class is calibrated for itself, and has a threshold of its own for prediction sets, on \
{images:,} held-out images{same}. A class that few of them have is in every set.
"""
SAME = ", the same ones for both: the figures below flatter"
ONE_OF_ALL = "- It knows these classes only: an image of anything else gets one of them, too.\n"


def foreign_card(manifest: Manifest, table: str = "") -> str:
    """CARD.md of the bundle of an ONNX file, which no audit has measured.

    `table` has the figures of each class of a multi-label model on held-out images.
    """
    sets = manifest.prediction_sets
    trust = UNMEASURED if sets is None else FITTED.format(images=sets.pictures)
    if manifest.is_multi_label:
        trust = MULTI_LABEL.format(calibrated=_each(manifest))
    weights = manifest.provenance.get("weights")
    origin = f" Its weights are {weights['name']} sha256 {weights['sha256']}." if weights else ""
    return (
        f"# {manifest.name}\n\n"
        f"A classifier of {len(manifest.labels):,} classes for images of "
        f"{described(manifest.input.size)} pixels, "
        f"from the file {manifest.provenance['file']}.{origin}\n\n"
        f"{trust}"
        "- No audit has measured it: neither its accuracy nor bias, corrupted images or attacks.\n"
        + ("" if manifest.is_multi_label else ONE_OF_ALL)
        + (f"\n## Each class on held-out images\n\n{table}" if table else "")
    )


def _each(manifest: Manifest) -> str:
    """The calibration of a multi-label model."""
    if manifest.platt is None:
        return EACH_UNCALIBRATED
    counts = manifest.provenance["held_out"]
    images = counts["temperature"] + (0 if counts["same_images"] else counts["prediction_sets"])
    return EACH_CALIBRATED.format(images=images, same=SAME if counts["same_images"] else "")
