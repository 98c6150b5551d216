"""Serves a model over HTTP: an image in, JSON or a drawing out.

    pip install 'xcit-dense[serve]'
    python examples/serve.py work_dirs/mine --port 8000
    curl -F image=@street.jpg 'localhost:8000/predict?score_thr=0.5'
    curl -F image=@street.jpg localhost:8000/draw --output drawn.png

The model is anything that ``xcit_dense.load`` takes, also an exported model. ``localhost:8000/docs`` describes the
interface.
The server has no access control: put a proxy with one in front of it before others can reach it.
"""

from __future__ import annotations

import argparse
import io
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, File, HTTPException, Query, Response, UploadFile
from fastapi.responses import JSONResponse
from PIL import Image, UnidentifiedImageError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import xcit_dense
from xcit_dense.inference.model import Model
from xcit_dense.media.arrays import to_rgb
from xcit_dense.media.images import UNREADABLE
from xcit_dense.predictions import Prediction
from xcit_dense.structures import Pixels

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_BYTES = 20_000_000
MAX_PIXELS = 25_000_000
MAX_REQUESTS = 16  # at once; more requests get status 503

Upload = Annotated[UploadFile, File(description="A JPEG, PNG or WebP file")]
Score = Annotated[float, Query(ge=0, le=1, description="The lowest score of an object")]


def make_app(model: Model, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS) -> FastAPI:
    """Makes the server's application.

    Args:
        model: The model.
        max_bytes: The largest request.
        max_pixels: The largest image, after decompression.
    """
    app = FastAPI(title="xcit_dense", version=xcit_dense.__version__)
    app.add_middleware(LimitedBody, max_bytes=max_bytes)

    # FastAPI runs plain functions in threads, so the server answers other requests while the model computes.
    @app.get("/")
    def describe() -> dict[str, Any]:
        """Returns what the model finds."""
        return {"task": "segmentation" if model.segments else "detection", "classes": list(model.classes)}

    @app.post("/predict")
    def predict(image: Upload, score_thr: Score = 0.3) -> dict[str, Any]:
        """Finds objects or classes. Masks are run-length codes of COCO."""
        return to_json(model.predict(read_image(image, max_pixels), score_thr=score_thr))

    @app.post("/draw", response_class=Response, responses={200: {"content": {"image/png": {}}}})
    def draw(image: Upload, score_thr: Score = 0.3) -> Response:
        """Draws what the model finds over the image."""
        file = io.BytesIO()
        found = model.predict(read_image(image, max_pixels), score_thr=score_thr)
        Image.fromarray(found.plot()).save(file, "PNG")
        return Response(file.getvalue(), media_type="image/png")

    return app


def read_image(upload: UploadFile, max_pixels: int) -> Pixels:
    """Reads an uploaded image as RGB. The size is checked before the image is decompressed.

    Args:
        upload: The file.
        max_pixels: The largest number of pixels.

    Raises:
        HTTPException: 415 for another format, 413 for a too large image, 400 for a damaged file.
    """
    try:
        image = Image.open(upload.file, formats=FORMATS)
        width, height = image.size
    except UnidentifiedImageError:
        raise HTTPException(415, f"The file is not an image of the formats {', '.join(FORMATS)}.") from None
    except UNREADABLE as error:
        raise HTTPException(413 if isinstance(error, Image.DecompressionBombError) else 400, str(error)) from None
    if width * height > max_pixels:
        raise HTTPException(413, f"The image has {width} x {height} pixels; at most {max_pixels:,} are allowed.")
    try:
        return to_rgb(image)
    except UNREADABLE as error:
        raise HTTPException(400, f"The image is damaged ({error}).") from None


def to_json(found: Prediction) -> dict[str, Any]:
    """Converts a prediction to what the server sends.

    Args:
        found: The prediction.

    Returns:
        The size of the image, and one entry for each object or class: the name, and the values of COCO's result format.
    """
    height, width = found.image.shape[:2]
    results = [{"name": name, **result} for name, result in zip(found.names, found.to_coco())]
    return {"width": width, "height": height, "results": results}


class LimitedBody:
    """Refuses requests above a number of bytes with status 413, before they fill the memory or the disk.

    Args:
        app: The application behind the limit.
        max_bytes: The number of bytes.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        message = f"The request has more than {self.max_bytes:,} bytes."
        length = dict(scope.get("headers", ())).get(b"content-length", b"")
        if length.isdigit() and int(length) > self.max_bytes:
            await JSONResponse({"detail": message}, 413)(scope, receive, send)
            return
        received = 0

        async def limited() -> Message:
            nonlocal received
            part = await receive()
            received += len(part.get("body", b""))
            if received > self.max_bytes:  # a request without a length
                raise HTTPException(413, message)
            return part

        await self.app(scope, limited, send)


def main() -> None:
    """Reads the command line and serves until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a work directory, checkpoint, published name, saved or exported model")
    parser.add_argument("--config", help="the config, if the model does not lead to one")
    parser.add_argument("--host", default="127.0.0.1", help="default 127.0.0.1, this machine only")
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args()
    app = make_app(xcit_dense.load(args.model, args.config))
    uvicorn.run(app, host=args.host, port=args.port, limit_concurrency=MAX_REQUESTS)


if __name__ == "__main__":
    main()
