"""The images that the page and the documents show."""
