"""Images and their classes, from files to arrays.

Pixels are uint8 (N, H, W, 3), RGB. Class indices are int64 (N,) in 0…K−1. Imports run: files,
layout, table of a CSV, scan, split, read.
"""

import numpy as np
from jaxtyping import Int64, UInt8

Pixels = UInt8[np.ndarray, "rows H W 3"]
ClassIndices = Int64[np.ndarray, " rows"]


class DataError(Exception):
    """The source holds no data set that can be trained on."""
