"""Fifteen corruptions of images that occur in practice, each in five severities.

"CIFAR-10-C-style" (Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261): code and strengths are
our own, so figures compare between our models, not with published ones.

A corruption takes float64 (H, W, 3) in 0…1, a severity 1…5 and a generator, and returns the same
shape, which is clipped to 0…1 afterwards. Lengths are shares of the side, so that small and large
inputs are corrupted alike.
"""

import io
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image
from scipy import ndimage
from scipy.signal import fftconvolve

Values = Float64[np.ndarray, "H W 3"]
Corruption = Callable[[Values, int, np.random.Generator], Values]
SEVERITIES = (1, 2, 3, 4, 5)


def corrupted(
    name: str, severity: int, pixels: UInt8[np.ndarray, "rows H W 3"], seed: int
) -> UInt8[np.ndarray, "rows H W 3"]:
    """Every image with the corruption `name`; the same seed gives the same result."""
    # draws of their own for each kind and severity, in whatever order they are measured
    rng = np.random.default_rng((seed, sorted(CORRUPTIONS).index(name), severity))
    changed = np.empty_like(pixels)
    # one at a time: in float64 they take eight times the memory
    for row, image in enumerate(pixels):
        values = CORRUPTIONS[name](image / 255.0, severity, rng)
        changed[row] = np.rint(np.clip(values, 0, 1) * 255)
    return changed


def _gaussian_noise(x: Values, severity: int, rng: np.random.Generator) -> Values:
    return x + rng.normal(0, (0.03, 0.05, 0.08, 0.11, 0.15)[severity - 1], x.shape)


def _shot_noise(x: Values, severity: int, rng: np.random.Generator) -> Values:
    # photons of a white pixel
    photons = (300, 150, 75, 40, 20)[severity - 1]
    return rng.poisson(x * photons) / photons


def _impulse_noise(x: Values, severity: int, rng: np.random.Generator) -> Values:
    replaced = rng.uniform(size=x.shape) < (0.01, 0.02, 0.04, 0.07, 0.11)[severity - 1]
    return np.where(replaced, rng.integers(0, 2, x.shape), x)


def _speckle_noise(x: Values, severity: int, rng: np.random.Generator) -> Values:
    return x * (1 + rng.normal(0, (0.08, 0.12, 0.18, 0.25, 0.35)[severity - 1], x.shape))


def _gaussian_blur(x: Values, severity: int, _rng: np.random.Generator) -> Values:
    return _blurred(x, _side(x) * (0.012, 0.018, 0.025, 0.035, 0.05)[severity - 1])


def _defocus_blur(x: Values, severity: int, _rng: np.random.Generator) -> Values:
    radius = _side(x) * (0.02, 0.03, 0.045, 0.06, 0.08)[severity - 1]
    reach = int(np.ceil(radius))
    y, z = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.clip(radius + 0.5 - np.hypot(y, z), 0, 1)
    return _convolved(x, disc / disc.sum())


def _motion_blur(x: Values, severity: int, rng: np.random.Generator) -> Values:
    length = max(2, round(_side(x) * (0.06, 0.1, 0.14, 0.18, 0.24)[severity - 1]))
    line, angle = np.zeros((2 * length + 1, 2 * length + 1)), rng.uniform(0, np.pi)
    for place in np.linspace(-length / 2, length / 2, 4 * length):
        line[round(length + place * np.sin(angle)), round(length + place * np.cos(angle))] = 1
    return _convolved(x, line / line.sum())


def _zoom_blur(x: Values, severity: int, _rng: np.random.Generator) -> Values:
    most = (1.06, 1.1, 1.15, 1.2, 1.27)[severity - 1]
    return np.asarray(
        np.mean([x, *(_zoomed(x, zoom) for zoom in np.linspace(1, most, 6)[1:])], axis=0)
    )


def _fog(x: Values, severity: int, rng: np.random.Generator) -> Values:
    share = (0.15, 0.25, 0.35, 0.45, 0.55)[severity - 1]
    cloud = _cloud(x, rng)[..., None]
    return x * (1 - share) + share * (0.7 + 0.3 * cloud)


def _snow(x: Values, severity: int, rng: np.random.Generator) -> Values:
    flakes = (rng.uniform(size=x.shape[:2]) < (0.02, 0.035, 0.05, 0.07, 0.1)[severity - 1]).astype(
        float
    )
    streaks = np.clip(
        3 * ndimage.gaussian_filter(flakes, (_side(x) * 0.03, _side(x) * 0.01)), 0, 1
    )[..., None]
    return np.asarray(np.maximum(x * 0.9 + 0.1 * x.mean(-1, keepdims=True), streaks))


def _brightness(x: Values, severity: int, _rng: np.random.Generator) -> Values:
    return x + (0.08, 0.14, 0.2, 0.27, 0.35)[severity - 1]


def _contrast(x: Values, severity: int, _rng: np.random.Generator) -> Values:
    mean = x.mean((0, 1))
    return np.asarray(mean + (x - mean) * (0.7, 0.55, 0.42, 0.3, 0.2)[severity - 1])


def _saturation(x: Values, severity: int, _rng: np.random.Generator) -> Values:
    grey = x.mean(-1, keepdims=True)
    return np.asarray(grey + (x - grey) * (0.6, 0.4, 0.2, 1.8, 2.5)[severity - 1])


def _pixelation(x: Values, severity: int, _rng: np.random.Generator) -> Values:
    share, (height, width) = (0.85, 0.7, 0.6, 0.5, 0.4)[severity - 1], x.shape[:2]
    small = Image.fromarray(np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)).resize(
        (max(2, round(width * share)), max(2, round(height * share))), Image.Resampling.BOX
    )
    return np.asarray(small.resize((width, height), Image.Resampling.NEAREST)) / 255.0


def _jpeg(x: Values, severity: int, _rng: np.random.Generator) -> Values:
    buffer = io.BytesIO()
    Image.fromarray(np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)).save(
        buffer, "JPEG", quality=(50, 35, 25, 15, 8)[severity - 1]
    )
    return np.asarray(Image.open(buffer)) / 255.0


def _side(x: Values) -> int:
    """The shorter side, in pixels."""
    return int(min(x.shape[:2]))


def _blurred(x: Values, sigma: float) -> Values:
    return np.asarray(ndimage.gaussian_filter(x, (sigma, sigma, 0), mode="nearest"))


def _convolved(x: Values, kernel: Float64[np.ndarray, "height width"]) -> Values:
    """The image convolved with a kernel of odd sides; beyond its border its edge goes on."""
    down, right = (side // 2 for side in kernel.shape)
    padded = np.pad(x, ((down, down), (right, right), (0, 0)), mode="edge")
    # by Fourier: kernels grow with the image, and sums would take side⁴ products
    return np.asarray(fftconvolve(padded, kernel[..., None], mode="valid", axes=(0, 1)))


def _zoomed(x: Values, zoom: float) -> Values:
    """The middle of the image, `zoom` times as large."""
    middle = (np.array(x.shape[:2]) - 1) / 2
    return np.asarray(
        ndimage.affine_transform(
            x, [1 / zoom, 1 / zoom, 1], [*(middle * (1 - 1 / zoom)), 0], order=1, mode="nearest"
        )
    )


def _cloud(x: Values, rng: np.random.Generator) -> Float64[np.ndarray, "H W"]:
    """Smooth noise of several scales in 0…1, as large as `x`."""
    layers = [
        ndimage.gaussian_filter(rng.normal(size=x.shape[:2]), _side(x) * share, mode="wrap")
        for share in (0.03, 0.08, 0.2)
    ]
    total = np.sum([layer / layer.std() for layer in layers], axis=0)
    return np.asarray((total - total.min()) / np.ptp(total))


CORRUPTIONS: Mapping[str, Corruption] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "speckle_noise": _speckle_noise,
    "gaussian_blur": _gaussian_blur,
    "defocus_blur": _defocus_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "fog": _fog,
    "snow": _snow,
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "pixelation": _pixelation,
    "jpeg": _jpeg,
}
