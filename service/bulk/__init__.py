"""A folder of images → a table."""
