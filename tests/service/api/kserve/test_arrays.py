"""Tensors of numbers become images, or an error that says what would."""

import numpy as np
import pytest

from service.api.kserve import arrays
from service.errors import InvalidParameter, MalformedRequest
from service.image.resize import Input

SPEC = Input(size=(4, 6), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), np.uint8)


def read(values, datatype):
    shape = values.shape
    arrays.check_shape(shape, SPEC, 10**6, is_float=datatype.startswith("FP"))
    packed = memoryview(np.ascontiguousarray(values, arrays.DTYPES[datatype]).tobytes())
    flat = values.astype(arrays.DTYPES[datatype]).ravel().tolist()
    found = arrays.images(packed, shape, datatype, SPEC)
    assert np.array_equal(found, arrays.images(flat, shape, datatype, SPEC))
    assert (found.dtype, found.flags.c_contiguous) == (np.uint8, True)
    return found


@pytest.mark.parametrize("datatype", [each for each in arrays.DTYPES if each != "INT8"])
@pytest.mark.parametrize("first", [False, True], ids=["channels last", "channels first"])
def test_images_come_back_exactly(datatype, first):
    values = IMAGES
    if datatype.startswith("FP"):
        values = (IMAGES / 255 - np.array(SPEC.mean)) / np.array(SPEC.std)
    values = np.moveaxis(values, 3, 1) if first else values
    assert np.array_equal(read(values, datatype), IMAGES)


SCALINGS = {
    "INCEPTION": (lambda p: p / 127.5 - 1, (0.5,) * 3, (0.5,) * 3, 0),
    "INCEPTION, of a network of 127 and 128": (
        lambda p: p / 127.5 - 1,
        (127 / 255,) * 3,
        (128 / 255,) * 3,
        1,
    ),
    "VGG": (
        lambda p: p - np.array((123, 117, 104)),
        (123 / 255, 117 / 255, 104 / 255),
        (1 / 255,) * 3,
        0,
    ),
    "NONE": (lambda p: p * 1.0, (0.0,) * 3, (1 / 255,) * 3, 0),
}


@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS)
def test_the_scalings_of_tritons_image_client_fit_networks_that_are_normalised_so(scaling):
    scale, mean, std, most = scaling
    pixels = np.arange(0, 72, dtype=np.float32).reshape(1, 4, 6, 3)
    pixels[0, 0, 0], pixels[0, 3, 5] = 0, 255
    values = scale(pixels).astype("<f4")
    spec = Input(size=(4, 6), mean=mean, std=std)
    found = arrays.images(memoryview(values.tobytes()), values.shape, "FP32", spec)
    assert np.abs(found.astype(int) - pixels).max() <= most


@pytest.mark.parametrize("first", [False, True])
def test_one_channel_is_grey(first):
    grey = IMAGES[..., :1]
    found = read(np.moveaxis(grey, 3, 1) if first else grey, "UINT8")
    assert np.array_equal(found, np.repeat(grey, 3, 3))


def test_whole_numbers_may_have_any_size():
    assert read(np.zeros((2, 9, 5, 3)), "INT32").shape == (2, 9, 5, 3)


@pytest.mark.parametrize(
    ("shape", "is_float", "words"),
    [
        ((240, 320, 3), False, r"has no axis of images: give \[1, 240, 320, 3\]"),
        ((3, 240, 320), False, r"give \[1, 3, 240, 320\]"),
        ((1, 2, 2, 4), False, "give .N, H, W, 3., .N, 3, H, W., or with 1 channel"),
        ((1, 0, 4, 3), False, "give .N, H, W, 3."),
        ((4, 6), False, "give .N, H, W, 3."),
        ((1, 3, 5, 6), True, "is 5 × 6, and floats are the network's own input of 4 × 6"),
    ],
)
def test_another_shape_is_refused_with_the_right_one(shape, is_float, words):
    with pytest.raises(InvalidParameter, match=words):
        arrays.check_shape(shape, SPEC, 10**6, is_float=is_float)


@pytest.mark.parametrize(
    ("value", "datatype"), [(256, "INT16"), (-1, "INT8"), (-1, "INT64"), (65_000, "UINT16")]
)
def test_a_whole_number_that_is_no_pixel_is_refused(value, datatype):
    with pytest.raises(MalformedRequest, match=r"reach from .*: whole numbers are pixels"):
        read(np.full((1, 4, 6, 3), value), datatype)


@pytest.mark.parametrize("value", [3.0, -2.3, 127.0, float("nan"), float("inf")])
def test_a_float_that_is_no_normalised_pixel_is_refused(value):
    values = np.zeros((1, 3, 4, 6), np.float32)
    values[0, 1, 2, 3] = value
    packed = memoryview(values.tobytes())
    with pytest.raises(InvalidParameter, match=r"mean \(0.485, 0.456, 0.406\) and std"):
        arrays.images(packed, values.shape, "FP32", SPEC)


@pytest.mark.parametrize("data", [[1] * 11, [1] * 13, memoryview(bytes(13))])
def test_as_many_values_as_the_shape_says(data):
    with pytest.raises(MalformedRequest, match="values, but its shape has 12: make them agree"):
        arrays.images(data, (1, 2, 2, 3), "UINT8", SPEC)


@pytest.mark.parametrize("strange", [None, True, "1", 0.5, [1]])
def test_a_value_that_is_no_whole_number_is_refused(strange):
    with pytest.raises(MalformedRequest, match="whole numbers are pixels, give 0 to 255"):
        arrays.images([1] * 11 + [strange], (1, 2, 2, 3), "INT32", SPEC)
