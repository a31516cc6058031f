"""Colour scales that every eye can read, and their tables for the page."""

import json

import numpy as np
import pytest

from service.explain.colours import STEPS, ink, oklab, tables

STRENGTHS = np.linspace(0, 1, 256)
SIDES = [(1, "diverging"), (-1, "diverging"), (1, "sequential")]

# Linear RGB as eyes without one kind of cone see it, severity 1: Machado, Oliveira, Fernandes, "A
# Physiologically-based Model for Simulation of Color Vision Deficiency", IEEE TVCG 2009.
BLIND = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def seen(colours, kind):
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(BLIND[kind]).T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(("side", "scale"), SIDES)
def test_stronger_is_darker_in_equal_steps_and_zero_is_white(side, scale):
    colours = ink(side * STRENGTHS, scale).astype(np.float64)
    assert (colours[0] == 1).all()
    lightness = oklab(colours)[:, 0]
    assert (np.diff(lightness) < 0).all()
    steps = np.linalg.norm(np.diff(oklab(colours), axis=0), axis=1)
    assert steps.max() < 2.5 * steps.min()


def test_for_and_against_are_equally_light():
    favour, against = (
        oklab(ink(side * STRENGTHS, "diverging").astype(np.float64))[:, 0] for side in (1, -1)
    )
    assert np.abs(favour - against).max() < 0.01


@pytest.mark.parametrize("kind", BLIND)
@pytest.mark.parametrize("strength", [0.3, 0.6, 1.0])
def test_every_eye_distinguishes_for_from_against(strength, kind):
    favour, against = (
        oklab(seen(ink(np.array(side * strength), "diverging").astype(np.float64), kind))
        for side in (1, -1)
    )
    assert np.linalg.norm(favour - against) > 0.25 * strength  # 0.02 is just noticeable


@pytest.mark.parametrize("kind", BLIND)
def test_every_eye_sees_a_stronger_violet_darker(kind):
    assert (
        np.diff(oklab(seen(ink(STRENGTHS, "sequential").astype(np.float64), kind))[:, 0]) < 1e-4
    ).all()


@pytest.mark.parametrize("scale", ["diverging", "sequential"])
def test_the_tables_hold_the_inks_from_the_most_negative_to_the_most_positive(scale):
    table = json.loads(json.dumps(tables()))[scale]
    assert len(table) == 2 * STEPS - 1
    colours = np.array([list(bytes.fromhex(colour[1:])) for colour in table])
    expected = 255 * ink(np.linspace(-1, 1, len(table)), scale)
    assert np.abs(colours - expected).max() <= 0.5 + 1e-4
    assert table[STEPS - 1] == "#ffffff"
