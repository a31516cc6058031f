"""Small views of the reference images, for bundles that may pass them on.

reference.zip holds ROW.webp for each row of reference.npz, not compressed again. The same images
give the same bytes.
"""

import io
import zipfile

from PIL import Image

from service.bundle.reference import PICTURE
from training.data.images import Images

SIDE = 64  # pixels of the longer side, at most
QUALITY = 80
ROWS = 256  # that are decoded at a time
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time of a ZIP file, instead of today's


def pictures(images: Images) -> bytes:
    """The bytes of reference.zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        row = 0
        for part in images.parts(ROWS):
            for pixels in part:
                name = PICTURE.format(row=row)
                archive.writestr(zipfile.ZipInfo(name, EPOCH), _thumbnail(Image.fromarray(pixels)))
                row += 1
    return buffer.getvalue()


def _thumbnail(image: Image.Image) -> bytes:
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=QUALITY, method=4)
    return file.getvalue()
