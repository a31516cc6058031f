"""Image → batch → answer, within a deadline."""
