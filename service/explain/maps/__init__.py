"""The arithmetic of maps: a family of methods a module, and what they share."""
