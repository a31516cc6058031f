"""From weights or a foreign graph to a bundle."""
