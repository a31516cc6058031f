"""Bytes → image."""
