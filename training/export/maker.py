"""An ONNX file and what a caller says of it → its bundle, and the manifest to begin with."""

from pathlib import Path

from service.bundle.manifest import Manifest
from service.image.colour import Colour
from service.image.resize import Input, Resize, Size
from training.autodiff import DifferentiationError
from training.export import foreign
from training.export import labels as labels_of
from training.export.ends import ForeignError, Names
from training.export.foreign import ForeignCore
from training.export.foreign_bundle import make_foreign_bundle
from training.export.progress import Progress, Say
from training.export.source import Asked


def make(
    file: Path,
    place: Path,
    say: Say,
    labels: Path | None,
    size: Size | None,
    resize: Resize,
    asked: Asked,
    colour: Colour = "as-sent",
) -> None:
    """Makes the bundle of `file` in `place`; `say` gets a sentence for each step.

    Raises:
        ForeignError: no bundle can be made of the file.
    """
    progress = Progress(say)
    progress(f"makes a bundle of {file}, once")
    given = labels_of.of_file(file) if labels is None else labels_of.read(labels)
    classes = None if given is None else len(given)
    core = foreign.read_core(file, size, classes, Names(), asked)
    source = core.source
    assert source is not None
    for note in source.notes:
        say(note)
    if given is None:
        say(f"neither --labels nor the file names the classes: they are 0 to {core.classes - 1}")
    spec = Input(source.size, source.mean, source.std, resize, colour=colour)
    manifest = manifest_of(file, core, given, None, spec)
    try:
        make_foreign_bundle(core, manifest, place, say=progress)
    except DifferentiationError as error:
        say(f"{error}; makes the bundle without the methods that need gradients")
        make_foreign_bundle(core, manifest, place, gradients=False, say=progress)
    progress("is done")


def manifest_of(
    file: Path, core: ForeignCore, given: labels_of.Labels | None, name: str | None, spec: Input
) -> Manifest:
    """The manifest of a file's bundle before anything is measured; None: labels are numbers.

    Raises:
        ForeignError: there are more labels than classes.
    """
    provenance = {"file": file.name, **foreign.weights_of(file)}
    if core.source is not None and core.source.colours != "rgb":
        provenance["channels"] = core.source.colours
    names = labels_of.numbered(core.classes) if given is None else given
    if len(names) != core.classes:
        raise ForeignError(
            "the file gives one value for an image, which is that of the second of two classes: "
            f"give two labels, not {len(names)}"
        )
    return Manifest(name or file.stem, names, spec, provenance=provenance)
