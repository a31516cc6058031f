"""A bundle calibrated again, on images that its network was not trained on; its graphs stay.

Images of the training data are those that the training held out, as the recipe in the manifest
says. Images of other data are all taken: nobody trained on them.
"""

from dataclasses import replace
from pathlib import Path

from service.bundle import folder as contract
from service.bundle.folder import INT8, Bundle
from service.bundle.manifest import Manifest
from training.data import DataError, read
from training.data.images import Images
from training.export.int8 import losses
from training.reliability.fitting import fit_reliability


def recalibrate(bundle: Bundle, source: str, folder: Path) -> tuple[Bundle, bool]:
    """`bundle` in `folder`, calibrated on `source`; and True if its predict.int8.onnx is left out.

    The losses of that graph are measured again on the test images of the training data. Other
    data have none, so nobody knows what it loses.

    Raises:
        DataError: the images or the classes do not go with the bundle.
    """
    manifest = bundle.manifest
    read.check_head(manifest)
    held_out, test = _images(manifest, source)
    files = {name: bundle.read(name) for name in manifest.files}
    manifest, files = fit_reliability(manifest, files, held_out, None)
    stale = test is None and files.pop(INT8, None) is not None
    if stale:
        manifest = replace(manifest, int8=None)
    elif manifest.int8 is not None and test is not None:
        ours, theirs = losses(bundle, manifest.calibration, test)
        measured = replace(manifest.int8, log_loss=ours, log_loss_float32=theirs)
        manifest = replace(manifest, int8=measured)
    return contract.write(folder, manifest, files), stale


def _images(manifest: Manifest, source: str) -> tuple[Images, Images | None]:
    """The images to calibrate on, and the test images of the training data, if it is these."""
    recipe, trained = manifest.provenance.get("recipe"), manifest.provenance.get("data", {})
    if recipe:
        dataset = read.read(source, manifest.input, recipe["held_out"], recipe["seed"])
        if dataset.fingerprint == trained.get("fingerprint"):
            return dataset.validation, dataset.test
        if dataset.name == trained.get("name"):
            raise DataError(
                f"{dataset.name} has fingerprint {dataset.fingerprint[:12]}…, and the bundle was "
                f"trained on {trained['fingerprint'][:12]}… of that name: it may hold images that "
                "the network was trained on, give that data, or other images"
            )
    held_out, skipped = read.read_labelled(Path(source), manifest.input, manifest.labels)
    if skipped:
        raise DataError(f"{read.describe(skipped)}: remove them")
    return held_out, None
