"""The HTTP API. Nothing is imported here: `service.app` is imported by BentoML's supervisor, too,
which must stay small.
"""
