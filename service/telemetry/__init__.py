"""Metrics, drift, traces and logs."""
