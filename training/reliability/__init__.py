"""Calibration, prediction sets and familiarity, fitted on held-out images."""
