"""What an audit measures, a subject a module."""
