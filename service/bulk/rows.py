"""Image files → rows of the table, on an engine; a run of a folder and a `Predictor` share them.

An image that cannot be read is a row with an error. `service.bulk.parquet` describes the rows.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from jaxtyping import Float32

from service.bulk.job import target_text
from service.bulk.places import File, check_length
from service.errors import RequestError
from service.explain import Question, explain
from service.image.budget import Budget
from service.image.resize import InputPixels
from service.predictions import Calibrated, PredictionOptions, calibrate, prediction_of
from service.runtime.engine import Engine
from service.schedule.sent import fit_image

UNREADABLE = "unreadable_file"

Record = dict[str, Any]
Map = Float32[np.ndarray, "H W"]


class Rows:
    """Makes the rows of images. Safe for threads."""

    def __init__(
        self,
        engine: Engine,
        question: Question | None,
        top_k: int,
        max_pixels: int,
        images: Budget,
    ) -> None:
        """With a `question`, every prediction is explained.

        Images of more than `max_pixels` are errors; `images` is the memory that decoded ones take.
        """
        # Every thread uses sessions of one thread, or the threads would share cores.
        self._engine, self._question = engine.on_one_core(), question
        self._options = PredictionOptions(top_k)
        self._max_pixels, self._images = max_pixels, images
        self.most = engine.most_rows

    def of(
        self, files: Iterable[File], keep: Callable[[int, Map], None] | None = None
    ) -> list[Record]:
        """The rows of `files`, in order, which are best at most `most`.

        `keep` is called with the place of each file that is explained, and its map.

        Raises:
            Unavailable: the device fails.
        """
        records: list[Record] = []
        good: list[tuple[int, InputPixels]] = []
        for number, file in enumerate(files):
            records.append({"path": file.path})
            pixels = self._read(file, records[-1])
            if pixels is not None:
                good.append((number, pixels))
        if not good:
            return records
        outputs = self._engine.predict(np.stack([pixels for _, pixels in good]))
        results = calibrate(outputs.rows(), outputs.logits, self._engine.manifest)
        for (number, pixels), result in zip(good, results, strict=True):
            records[number].update(self._prediction(result))
            if self._question is not None:
                record, found = self._explanation(pixels, self._question, result.row.logits)
                records[number].update(record)
                if keep is not None:
                    keep(number, found)
        return records

    def _read(self, file: File, record: Record) -> InputPixels | None:
        """The network's input; notes the image's size and format in `record`, or the error."""
        try:
            content = file.read()
            check_length(len(content))
            sent = fit_image(
                content,
                self._engine.manifest.input,
                self._max_pixels,
                keep=False,
                images=self._images,
            )
        except OSError as error:
            reason = error.strerror or error
            detail = f"the file cannot be read ({reason}): correct that and run again"
            record |= {"error_code": UNREADABLE, "error_detail": detail}
            return None
        except RequestError as error:
            record |= {"error_code": error.code, "error_detail": error.detail}
            return None
        record |= {"width": sent.width, "height": sent.height, "format": sent.format}
        return sent.fitted

    def _prediction(self, result: Calibrated) -> Record:
        prediction = prediction_of(result, self._engine.manifest, self._options)
        familiarity, members = prediction.familiarity, prediction.prediction_set
        labels = self._engine.manifest.labels
        return {
            "label": prediction.best.label,
            "index": prediction.best.index,
            "probability": prediction.best.probability,
            "top_labels": [entry.label for entry in prediction.top],
            "top_probabilities": [entry.probability for entry in prediction.top],
            "logits": prediction.logits,
            "likely": prediction.likely and [entry.label for entry in prediction.likely],
            "prediction_set": members and [labels[index] for index in members.indices.tolist()],
            "familiarity": familiarity and familiarity.score,
            "familiar": familiarity and familiarity.familiar,
        }

    def _explanation(
        self, pixels: InputPixels, question: Question, logits: Float32[np.ndarray, " classes"]
    ) -> tuple[Record, Map]:
        attribution = explain(self._engine, pixels, question, logits)
        record = {
            "method": question.method.name,
            "target": target_text(attribution.target, self._engine.manifest),
            "quality": list(attribution.quality.items()),
            "warnings": list(attribution.warnings),
        }
        return record, attribution.map
