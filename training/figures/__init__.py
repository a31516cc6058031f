"""Figures of answers to labelled images, for the report of a run, of a bundle and of an audit."""
