"""The manifest of a bundle: classifier, input, calibration, limits of trust, and digests of files.

The fields are the keys of manifest.json, which are stable; `pictures` counts images.

Law: `Manifest.parse(m.canonical())` equals `m`, and so does the parse of any JSON text of
`m.document()`.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeVar, get_args

from service.bundle import presentation, types
from service.bundle.calibration import Calibration, Head
from service.bundle.prediction_sets import PredictionSets
from service.bundle.presentation import Sample, Texts
from service.errors import ManifestError, SchemaVersionError, short
from service.image.colour import Colour
from service.image.resize import Input, Resize

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
FILE_NAME = re.compile(r"\w[\w.+-]{0,199}")  # no path leads out of the folder
SHA256 = re.compile("[0-9a-f]{64}")
MAX_FILE_BYTES = 2**31  # of a protobuf message, and so of a graph
MAX_FEATURES = 2**20
# Keys that older bundles lack. A manifest leaves them out where they have no value, so that older
# bundles keep their versions.
LATER = (
    *("head", "entropy_power", "int8", "prediction_sets", "familiarity", "distribution"),
    *("title", "description", "samples", "platt", "layers", "unrelated", "class_temperatures"),
    *("bfloat16", "map_distribution"),
)
# The layers of class activation maps, last first; tensors and parity have these names, too.
LAST = "last"
LAYERS = (LAST, "middle", "early")

Evidence = Literal["neighbours", "energy"]


@dataclass(frozen=True)
class Parity:
    """The agreement of a method computed from the bundle with `against`, over `pictures` images.

    `relative_difference`: the median over images of max |ours − theirs| / max |theirs|.
    `cosine`: the median over images of the cosine of the two maps.
    `left_out`: further images with constant logits, up to rounding, which have no slope to compare.
    """

    against: str
    pictures: int
    # Medians, because rounding flips the mask of a ReLU or a max pool now and then, in any runtime.
    relative_difference: float
    cosine: float
    left_out: int = 0


@dataclass(frozen=True)
class Int8:
    """A comparison of predict.int8.onnx with predict.onnx, and its own self-test.

    `agreement`: share of the `test_pictures` test images that get the same class.
    `log_loss`: mean of −log p(label), in nats, with the manifest's calibration, which serves both.
    `speed_ratio`: by batch size, times as fast as predict.onnx on one core of `machine`.
    `cam_cosine`: the median cosine of the Grad-CAMs of either for the class that predict.onnx gives
    the test images; None if that was not measured, or there is no such map.
    """

    self_test: tuple[int, float]
    calibration_pictures: int
    test_pictures: int
    macro_f1: float
    macro_f1_float32: float
    log_loss: float
    log_loss_float32: float
    agreement: float
    speed_ratio: Mapping[str, float]
    machine: str
    date: str
    cam_cosine: float | None = None


@dataclass(frozen=True)
class Bfloat16:
    """A comparison of predict.onnx, each tensor rounded to bfloat16, with float32.

    `agreement`: share of the `test_pictures` test images that get the same class.
    """

    test_pictures: int
    macro_f1: float
    macro_f1_float32: float
    agreement: float
    date: str


@dataclass(frozen=True)
class Platt:
    """The calibration of each class of a multi-label model, fitted on `pictures` held-out images.

    Its probability is sigmoid(`scale` · logit / temperature + `bias`), in the labels' order.
    """

    pictures: int
    scale: tuple[float, ...]
    bias: tuple[float, ...]


@dataclass(frozen=True)
class Familiarity:
    """The score of an image's likeness to the training images, and the `threshold` of unfamiliar.

    `evidence` "neighbours": the cosine, −1…1, of the image's features and those of the last of its
    `neighbours` nearest among `references` training images. "energy": log Σ exp(logits).
    95 % of `pictures` held-out images are not below the threshold.
    """

    evidence: Evidence
    threshold: float
    pictures: int
    neighbours: int = 0
    references: int = 0


@dataclass(frozen=True)
class Bins:
    """A distribution: the `shares` of its bins, which sum to 1, and the `edges` between them.

    A value on an edge belongs to the bin above.
    """

    edges: tuple[float, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.shares) != len(self.edges) + 1 or sorted(set(self.edges)) != list(self.edges):
            raise ManifestError(
                f"distribution has {len(self.shares)} shares and the edges {self.edges}: "
                "edges ascend, and there is one share more"
            )
        if min(self.shares) < 0 or not math.isclose(sum(self.shares), 1, abs_tol=1e-6):
            raise ManifestError(
                f"distribution has the shares {self.shares}: "
                "they must not be negative and must sum to 1"
            )


@dataclass(frozen=True)
class Distribution:
    """The distribution of the answers to `pictures` held-out images.

    `service.telemetry.drift` measures drift against it. `confidence`: the probability of the
    predicted class. `familiarity`: the score. `classes`: the index of the predicted class.
    """

    pictures: int
    confidence: Bins
    familiarity: Bins
    classes: Bins


@dataclass(frozen=True)
class MapDistribution:
    """The distribution of the maps of `pictures` held-out images: Grad-CAMs of predicted classes.

    `service.telemetry.drift` measures their drift against it. `service.explain.maps.mass` defines
    `extent`, `edge`, `across`, `down` and `strength`; `class_cosine` is the map's own measure.
    """

    pictures: int
    extent: Bins
    edge: Bins
    across: Bins
    down: Bins
    strength: Bins
    class_cosine: Bins


Held = TypeVar("Held", Distribution, MapDistribution)


@dataclass(frozen=True)
class Layer:
    """A layer for class activation maps, of `height` × `width` cells; `name` is one of LAYERS."""

    name: str
    height: int
    width: int


@dataclass(frozen=True)
class Unrelated:
    """Cosines of a method's maps of different images, as of two classes of one image.

    One map is about its image's predicted class, the other about the next class of another image.
    `median` and `high`, the 95th percentile, over all pairs of `pictures` test images. Maps of two
    classes of one image that are no more alike than `high` differ as much as unrelated ones.
    """

    pictures: int
    median: float
    high: float


@dataclass(frozen=True)
class Digest:
    """A file of the bundle: its sha256 in hex and its `length` in bytes."""

    sha256: str
    length: int

    @classmethod
    def of(cls, content: bytes) -> "Digest":
        """The digest of `content`."""
        return cls(hashlib.sha256(content).hexdigest(), len(content))


@dataclass(frozen=True)
class Manifest:
    """A classifier, its calibration and the digests of its files.

    The calibration: `temperature`, `entropy_power` and `class_temperatures`, of which a bundle has
    none, or one for each class.

    `labels`: those of the classes in their order. Several classes may share one, as in ImageNet.
    `head`: "softmax" if an image has one class, "sigmoid" if it may have several or none
    (multi-label): each class then has a probability for itself.
    `features`: the D of predict.onnx, or None.
    `self_test`: the class index that predict.onnx gives to the self-test image of
    `service.runtime.sessions`, and its logit.
    `parity`: an entry for each method that was compared, and `half/logits`, `half/probabilities`,
    `half/features`, `half/saliency` and `half/grad_cam` for the float16 graphs against the float32
    ones of the same bundle. `exact/…`: the graphs evaluated in float64, with the largest difference
    and the least cosine over images in place of medians; `float64/…`: the same by medians.
    `bfloat16/…`: the graphs with each tensor rounded to bfloat16, against those in float32.
    `int8`: given with predict.int8.onnx. `bfloat16`: given if it was measured.
    `prediction_sets`, `familiarity`, `distribution`: given if there were held-out images to fit
    them on. `platt`: the same, for sigmoids. `map_distribution`: the same, if a map comes in the
    pass of a prediction.
    `title`, `description`, `samples`: for the page.
    `layers`: those for class activation maps, last first, if there are several.
    `unrelated`: by method, written by an audit.
    """

    name: str
    labels: tuple[str, ...]
    input: Input
    temperature: float = 1.0
    entropy_power: float = 0.0
    features: int | None = None
    self_test: tuple[int, float] | None = None
    parity: Mapping[str, Parity] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Digest] = field(default_factory=dict)
    int8: Int8 | None = None
    prediction_sets: PredictionSets | None = None
    familiarity: Familiarity | None = None
    distribution: Distribution | None = None
    title: Texts = field(default_factory=dict)
    description: Texts = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    head: Head = "softmax"
    platt: Platt | None = None
    layers: tuple[Layer, ...] = ()
    unrelated: Mapping[str, Unrelated] = field(default_factory=dict)
    class_temperatures: tuple[float, ...] = ()
    bfloat16: Bfloat16 | None = None
    map_distribution: MapDistribution | None = None

    def __post_init__(self) -> None:
        if len(self.labels) < 2:  # noqa: PLR2004
            raise ManifestError(f"labels has {len(self.labels)} entries; at least 2 are needed")
        if not self.temperature > 0:
            raise ManifestError(f"temperature is {self.temperature}; it must be above 0")
        if not 0 <= self.entropy_power <= 1:
            raise ManifestError(f"entropy_power is {self.entropy_power}; it must be in 0…1")
        classes = len(self.class_temperatures)
        if classes and (classes != len(self.labels) or not min(self.class_temperatures) > 0):
            raise ManifestError(
                f"class_temperatures has {classes} numbers, of which the least is "
                f"{min(self.class_temperatures)}; {len(self.labels)} above 0 are needed, or none"
            )
        self._check_head()
        self._check_trust()
        self._check_layers()
        presentation.check({"title": self.title, "description": self.description}, self.samples)
        for name in self.files:
            if not FILE_NAME.fullmatch(name) or name == MANIFEST:
                raise ManifestError(
                    f"files names {name!r}; it must be the name of a file in the bundle's folder"
                )

    def _check_head(self) -> None:
        promises = ("entropy_power", "class_temperatures", "familiarity", "distribution")
        given = [name for name in promises if getattr(self, name)]
        if self.is_multi_label and given:
            raise ManifestError(
                f"head is sigmoid and there is {', '.join(given)}, which is fitted on images of "
                "one class each: leave it out"
            )
        if self.platt is None:
            return
        counts = {len(self.platt.scale), len(self.platt.bias)}
        if not self.is_multi_label or counts != {len(self.labels)}:
            raise ManifestError(
                f"platt has {' and '.join(map(str, sorted(counts)))} numbers and head is "
                f"{self.head}: it is for sigmoids, a scale and a bias for each of the "
                f"{len(self.labels)} labels"
            )
        if not min(self.platt.scale) > 0:
            raise ManifestError(f"platt.scale has {min(self.platt.scale)}; it must be above 0")

    def _check_trust(self) -> None:
        sets = self.prediction_sets
        if sets and any(
            len(thresholds) != len(self.labels) for thresholds in sets.by_class.values()
        ):
            raise ManifestError(
                f"prediction_sets.by_class needs lists of {len(self.labels)} thresholds, "
                "one for each label"
            )
        if sets and set(sets.marginal) != (set() if self.is_multi_label else set(sets.by_class)):
            raise ManifestError(
                "prediction_sets.marginal has thresholds, which sigmoids do without"
                if self.is_multi_label
                else "prediction_sets.marginal and by_class have different coverages; "
                "both need the same"
            )
        if self.familiarity and self.familiarity.evidence not in get_args(Evidence):
            raise ManifestError(
                f"familiarity.evidence is {self.familiarity.evidence!r}, "
                f"not one of {', '.join(get_args(Evidence))}"
            )

    def _check_layers(self) -> None:
        names = tuple(layer.name for layer in self.layers)
        if names != LAYERS[: len(names)] or len(names) == 1:
            raise ManifestError(
                f"layers names {short(', '.join(names))}; several are needed, or none, in the "
                f"order of {', '.join(LAYERS)}"
            )

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The layers that a class activation map can weigh, last first."""
        return tuple(layer.name for layer in self.layers) or (LAST,)

    @cached_property
    def calibration(self) -> Calibration:
        """The calibration of its logits."""
        by_class = (self.platt.scale, self.platt.bias) if self.platt else ((), ())
        return Calibration(
            *(self.temperature, self.entropy_power, self.head, *by_class),
            class_temperatures=self.class_temperatures,
        )

    @property
    def is_multi_label(self) -> bool:
        """True if an image may have several of the classes, or none."""
        return self.head == "sigmoid"

    # Computed once, as the digest is: of thousands of classes both take milliseconds.
    @cached_property
    def classes_of(self) -> Mapping[str, tuple[int, ...]]:
        """The indices of the classes of each label."""
        found: dict[str, list[int]] = {}
        for index, label in enumerate(self.labels):
            found.setdefault(label, []).append(index)
        return {label: tuple(indices) for label, indices in found.items()}

    def name_of(self, index: int) -> str:
        """The label of a class; its index follows where other classes have the same label."""
        label = self.labels[index]
        return label if len(self.classes_of[label]) == 1 else f"{label} ({index})"

    @property
    def version(self) -> str:
        """The first 12 hex digits of the sha256 of the canonical manifest."""
        return self.digest[:12]

    @cached_property
    def digest(self) -> str:
        """The sha256 of the canonical manifest in hex, which covers every file."""
        return hashlib.sha256(self.canonical()).hexdigest()

    def served_as(self, name: str | None) -> "Manifest":
        """This manifest under another `name`, if one is given; version and digest stay."""
        if name is None:
            return self
        renamed = replace(self, name=name)
        vars(renamed)["digest"] = self.digest  # where cached_property looks first
        return renamed

    def canonical(self) -> bytes:
        """The canonical JSON text: sorted keys, no spaces, UTF-8."""
        return json.dumps(
            self.document(), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        ).encode()

    def document(self) -> dict[str, Any]:
        """This manifest as JSON values."""
        document = {"schema_version": SCHEMA_VERSION} | asdict(self)
        document["head"] = "sigmoid" if self.is_multi_label else None
        document["prediction_sets"] = self.prediction_sets and self.prediction_sets.document()
        if self.input.colour == "as-sent":
            del document["input"]["colour"]  # as in older bundles
        if self.int8 is not None and self.int8.cam_cosine is None:
            del document["int8"]["cam_cosine"]  # as in older bundles
        for entry in document["parity"].values():
            if not entry["left_out"]:
                del entry["left_out"]  # as in older bundles
        return {key: value for key, value in document.items() if value or key not in LATER}

    @classmethod
    def parse(cls, text: bytes) -> "Manifest":
        """Reads a manifest from JSON `text`.

        Raises:
            ManifestError: `text` is no JSON, or a field is missing, unknown or out of range.
            SchemaVersionError: `schema_version` is not the one that this code reads.
        """
        try:
            document = json.loads(text)
            schema_version = document.pop("schema_version")
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
            raise ManifestError(
                f"{MANIFEST} is no manifest ({error!r}): export the bundle again"
            ) from None
        if schema_version != SCHEMA_VERSION:
            raise SchemaVersionError(
                f"{MANIFEST} has schema version {schema_version!r}; "
                f"this Candor reads {SCHEMA_VERSION}: export the bundle again, "
                "or serve it with the Candor that wrote it"
            )
        try:
            manifest = cls(**_typed(document))
            types.check(manifest, cls, MANIFEST)
            _check_counts(manifest)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ManifestError(
                f"{MANIFEST} breaks the contract ({error}): export the bundle again"
            ) from None
        return manifest


def _check_counts(manifest: Manifest) -> None:
    """Checks sizes that memory is taken for, and the files of samples; raises ValueError."""
    for name, digest in manifest.files.items():
        if not SHA256.fullmatch(digest.sha256) or not 0 <= digest.length <= MAX_FILE_BYTES:
            raise ValueError(
                f"files.{name} has sha256 {short(digest.sha256)} and length {digest.length:,}; "
                f"64 hex digits and 0 to {MAX_FILE_BYTES:,} bytes are needed"
            )
    for sample in manifest.samples:
        if sample.file not in manifest.files:
            raise ValueError(f"samples names {short(sample.file)}, which files does not name")
    if not 1 <= (manifest.features or 1) <= MAX_FEATURES:
        raise ValueError(f"features is {manifest.features:,}, not in 1…{MAX_FEATURES:,}")


def _typed(document: dict[str, Any]) -> dict[str, Any]:
    """The arguments of Manifest for the JSON values of a manifest."""
    if not isinstance(document["labels"], list):
        raise TypeError(f"labels is {type(document['labels']).__name__}, not list")
    # JSON has lists; the fields are tuples, so that a manifest cannot change.
    spec = dict(document["input"])
    spec |= {key: tuple(float(value) for value in spec[key]) for key in ("mean", "std")}
    if isinstance(spec["size"], list):
        spec["size"] = tuple(spec["size"])
    int8, sets, platt, familiarity = (
        document.get(key) for key in ("int8", "prediction_sets", "platt", "familiarity")
    )
    if spec["resize"] not in get_args(Resize):
        raise ValueError(
            f"input.resize is {spec['resize']!r}, not one of {', '.join(get_args(Resize))}"
        )
    if spec.get("colour", "as-sent") not in get_args(Colour):
        raise ValueError(
            f"input.colour is {spec['colour']!r}, not one of {', '.join(get_args(Colour))}"
        )
    return document | {
        "labels": tuple(document["labels"]),
        "class_temperatures": tuple(document.get("class_temperatures", ())),
        "input": Input(**spec),
        "self_test": _self_test(document.get("self_test")),
        "int8": None
        if int8 is None
        else Int8(**int8 | {"self_test": _self_test(int8["self_test"])}),
        "bfloat16": Bfloat16(**document["bfloat16"]) if document.get("bfloat16") else None,
        "prediction_sets": None if sets is None else PredictionSets.parse(**sets),
        "platt": None if platt is None else _platt(**platt),
        "familiarity": None if familiarity is None else Familiarity(**familiarity),
        "distribution": _distribution(Distribution, document.get("distribution")),
        "map_distribution": _distribution(MapDistribution, document.get("map_distribution")),
        "parity": {
            method: Parity(**values) for method, values in document.get("parity", {}).items()
        },
        "files": {name: Digest(**values) for name, values in document["files"].items()},
        "samples": tuple(Sample(**values) for values in document.get("samples", ())),
        "layers": tuple(Layer(**values) for values in document.get("layers", ())),
        "unrelated": {
            method: Unrelated(**values) for method, values in document.get("unrelated", {}).items()
        },
    }


def _platt(pictures: int, scale: Iterable[float], bias: Iterable[float]) -> Platt:
    return Platt(pictures, tuple(scale), tuple(bias))


def _distribution(kind: type[Held], entry: Any) -> Held | None:
    if entry is None:
        return None
    bins = {
        name: Bins(tuple(each["edges"]), tuple(each["shares"]))
        for name, each in entry.items()
        if name != "pictures"
    }
    return kind(pictures=entry["pictures"], **bins)


def _self_test(entry: Any) -> Any:
    return None if entry is None else (int(entry[0]), float(entry[1]))
