"""Bytes → image: decoding, the one resize, and masks."""
