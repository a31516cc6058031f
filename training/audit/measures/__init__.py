"""The measurements of an audit, one subject a module."""
