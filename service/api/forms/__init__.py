"""Forms: a body in parts or in pairs → a payload."""
