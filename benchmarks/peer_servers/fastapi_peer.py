"""FastAPI on uvicorn: the image is the body."""

from typing import Any

import uvicorn
from common import PORT, PROCESSES, Classifier, answer
from fastapi import FastAPI, Request

app, classifier = FastAPI(), Classifier()


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    """One image."""
    return answer(classifier.logits(classifier.decode(await request.body())[None])[0])


if __name__ == "__main__":
    uvicorn.run(
        "fastapi_peer:app",
        host="127.0.0.1",
        port=PORT,
        workers=PROCESSES,
        access_log=False,
        log_level="warning",
    )
