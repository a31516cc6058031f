"""An image as it was sent: what it takes, how it fits the network, and what is drawn over it.

Pixels are uint8 (height, width, 3) RGB; the network's input is uint8 (H, W, 3).
"""

from typing import NamedTuple

from service.errors import ImageTooLarge
from service.explain import Attribution, Question, legend, masked, render
from service.explain.encoding import Format, picture
from service.explain.legend import Legend
from service.explain.maps import segments
from service.image import budget, decode, resize
from service.image import mask as image_mask
from service.image.budget import Budget, Lease
from service.image.decode import Opened
from service.image.resize import Input, Pixels
from service.runtime.engine import Engine
from service.schedule.inference import Fitted

PIXELS = "pixels"  # the format of an image that came as pixels


class Sent(NamedTuple):
    """An image as it arrived: `fitted` for the network, its own `width`, `height` and `format`.

    `ground` are the pixels under an overlay, if they were kept. `lease` is the memory that the
    image still needs: release it when the image is answered.
    """

    fitted: Fitted
    width: int
    height: int
    format: str
    ground: Pixels | None
    lease: Lease | None = None

    def release(self) -> None:
        """Gives the memory of the image back."""
        if self.lease is not None:
            self.lease.release()


def cost_of(opened: Opened, spec: Input, *, keep: bool = False, masked: bool = False) -> int:
    """The peak of memory of an image, to the end of its overlay (`keep`) and of its mask."""
    width, height = opened.width, opened.height
    drawn = render.MAX_PIXELS if keep else 0
    costs = [
        budget.image_bytes(
            width, height, opened.bytes_a_pixel, input_width=spec.shape[1], drawn_pixels=drawn
        )
    ]
    if keep:
        costs.append(budget.overlay_bytes(width, height, drawn))
    if masked:
        costs.append(budget.MASK_BYTES * opened.pixel_count + 3 * min(opened.pixel_count, drawn))
    return max(costs)


def check_cost(opened: Opened, cost: int, images: Budget) -> None:
    """Checks that the budget of `images` can ever hold `cost`.

    Raises:
        ImageTooLarge: it cannot.
    """
    if cost > images.largest_bytes:
        images.count(budget.TOO_LARGE)
        raise ImageTooLarge(
            f"the image is {opened.width}×{opened.height} px and takes {cost / 1e6:,.4g} MB of "
            f"memory; the limit is {images.largest_bytes / 1e6:,.4g} MB: send a smaller one"
        )


def fit_image(
    body: bytes, spec: Input, max_pixels: int, *, keep: bool, images: Budget | None = None
) -> Sent:
    """Decodes an image and fits it to the network; `keep` keeps the ground of an overlay. With a
    budget of `images` the thread waits for its turn.

    Raises:
        RequestError: the image cannot be decoded.
    """
    opened = decode.open_header(body, max_pixels, spec.colour)
    if images is None:
        return fit_opened(opened, spec, keep=keep)
    cost = cost_of(opened, spec)
    check_cost(opened, cost, images)
    with images.wait(cost):
        return fit_opened(opened, spec, keep=keep)


def question_on_mask(sent: Sent, mask: bytes, question: Question, spec: Input) -> Question:
    """`question`, about the segments of the file `mask`.

    Raises:
        InvalidParameter: the mask does not go with the image.
    """
    labels = resize.mask_to_input(image_mask.decode(mask, sent.width, sent.height), spec)
    return masked(question, segments.of_labels(labels))


def draw_overlay(
    engine: Engine,
    ground: Pixels,
    sent: Sent,
    attribution: Attribution,
    below: Legend | None = None,
    form: Format = "png",
) -> bytes:
    """The map over `ground` as a file, with the legend `below` it if there is one.

    Without one, a line below the image names a method that was not asked for.
    """
    below = below or legend.of_replacement(attribution)
    if below is not None:
        ground = render.ground(ground, legend.LEAST_WIDTH)
    box = resize.visible_box(sent.width, sent.height, engine.manifest.input)
    across, down = ground.shape[1] / sent.width, ground.shape[0] / sent.height
    placed = resize.Box(box.left * across, box.top * down, box.right * across, box.bottom * down)
    overlay = render.overlay(
        ground,
        attribution.shown,
        placed,
        attribution.question.method.scale,
        attribution.limit,
    )
    return picture(overlay if below is None else legend.below(overlay, below), form)


def fit_opened(opened: Opened, spec: Input, *, keep: bool) -> Sent:
    """Decodes an opened image and fits it to the network."""
    image = opened.decode()
    ground = render.ground(image.pixels) if keep else None
    return Sent(
        resize.to_input(image.pixels, spec), image.width, image.height, image.format, ground
    )


def fit_pixels(pixels: Pixels, spec: Input, *, keep: bool) -> Sent:
    """Fits an image that came as pixels to the network."""
    height, width = pixels.shape[:2]
    ground = render.ground(pixels) if keep else None
    return Sent(resize.to_input(pixels, spec), width, height, PIXELS, ground)
