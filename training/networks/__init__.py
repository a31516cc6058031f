"""Networks, and how they are folded."""
