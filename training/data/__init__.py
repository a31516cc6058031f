"""Images and their classes in memory.

Pixels are uint8 (N, S, S, 3), RGB. Class indices are int64 (N,) in 0…K−1.
"""

import numpy as np
from jaxtyping import Int64, UInt8

Pixels = UInt8[np.ndarray, "rows size size 3"]
ClassIndices = Int64[np.ndarray, " rows"]
