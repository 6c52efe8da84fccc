"""An HTTP server for a model that `unet-jax export RUN --to onnx` wrote: images in, masks out, without jax.

    MODEL=model.onnx uvicorn app:app --host 0.0.0.0

    GET  /model                 what the model knows: classes, thresholds, sizes, scores
    POST /masks                 masks of all classes as run lengths, in JSON
    POST /masks/{class_name}    the mask of one class as a PNG

The body of a POST is an image file; its Content-Type says which kind. The four files `predict_onnx*.py`, which the
export wrote beside the model, must be importable: copy them here.

Memory is bounded: bodies by MAX_BYTES, decoded images by MAX_PIXELS, images that are computed at once by WORKERS, and
requests that wait by MAX_WAITING. Whoever comes when the queue is full gets 503.
"""

import asyncio
import os
from typing import Any

MAX_BYTES = int(os.environ.get("MAX_BYTES", 20 * 2**20))
MAX_PIXELS = int(os.environ.get("MAX_PIXELS", 25_000_000))
WORKERS = int(os.environ.get("WORKERS", 2))
MAX_WAITING = int(os.environ.get("MAX_WAITING", 32))
READ_SECONDS = float(os.environ.get("READ_SECONDS", 30))
os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(MAX_PIXELS)  # read by OpenCV before it allocates an image

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import predict_onnx  # noqa: E402
from fastapi import FastAPI, HTTPException, Request, Response  # noqa: E402
from starlette.requests import ClientDisconnect  # noqa: E402

ENDINGS = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/bmp": ".bmp",
    "image/tiff": ".tif",
    "application/x-npy": ".npy",
}

app = FastAPI(title="masks")
model = predict_onnx.load_model(os.environ["MODEL"], threads=int(os.environ.get("THREADS", 0)))
class_names = model.contract["class_names"]
_waiting = 0
_running = asyncio.Semaphore(WORKERS)


@app.get("/health")
def health() -> dict[str, str]:
    """Say that the server is ready."""
    return {"status": "ok"}


@app.get("/model")
def describe() -> dict[str, Any]:
    """Return the model's own description."""
    return model.contract


@app.post("/masks")
async def all_masks(request: Request) -> dict[str, Any]:
    """Return every class's mask as COCO's uncompressed run lengths: column by column, starting with pixels outside."""
    masks = await _masks(request)
    height, width = masks.shape[:2]
    runs = {name: {"size": [height, width], "counts": run_lengths(masks[..., k])} for k, name in enumerate(class_names)}
    far = predict_onnx.far_scale(model.contract, height, width)  # such as an image of another magnification
    return {"height": height, "width": width, "masks": runs} | ({"warning": f"the image {far}"} if far else {})


@app.post("/masks/{class_name}")
async def one_mask(class_name: str, request: Request) -> Response:
    """Return the mask of one class as a PNG, 0 or 255."""
    if class_name not in class_names:
        raise HTTPException(404, f"there is no class {class_name!r}; the classes are {', '.join(class_names)}")
    masks = await _masks(request)
    mask = masks[..., class_names.index(class_name)].astype(np.uint8) * np.uint8(255)
    return Response(cv2.imencode(".png", mask)[1].tobytes(), media_type="image/png")


async def _masks(request: Request) -> np.ndarray:
    """Read an image from a request, and compute its masks in a thread; `[h w k]` bool."""
    global _waiting
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ENDINGS:
        raise HTTPException(415, f"Content-Type is {kind!r}, but must be one of {', '.join(ENDINGS)}")
    if _waiting >= MAX_WAITING:
        raise HTTPException(503, f"{_waiting} requests are waiting already", headers={"Retry-After": "1"})
    _waiting += 1
    try:
        data = await _body(request)
        async with _running:
            return await asyncio.to_thread(_compute, data, f"image{ENDINGS[kind]}")
    except predict_onnx.PredictError as error:
        raise HTTPException(400, str(error)) from error
    finally:
        _waiting -= 1


async def _body(request: Request) -> bytes:
    """Read the body of a request; refuse one that is too large or too slow before it is whole."""
    declared = request.headers.get("content-length", "0")
    too_large = HTTPException(413, f"the body has more than {MAX_BYTES} bytes")
    if declared.isdigit() and int(declared) > MAX_BYTES:
        raise too_large
    data = bytearray()
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for chunk in request.stream():
                data += chunk
                if len(data) > MAX_BYTES:
                    raise too_large
    except ClientDisconnect as error:
        raise HTTPException(400, "the client closed the connection before the body was whole") from error
    except TimeoutError as error:
        raise HTTPException(408, f"the body did not arrive within {READ_SECONDS:g} s") from error
    if not data:
        raise HTTPException(400, "the body is empty; it must be an image file")
    return bytes(data)


def _compute(data: bytes, name: str) -> np.ndarray:
    image = predict_onnx.decode_image(data, name, model.contract["images"])
    if image.shape[0] * image.shape[1] > MAX_PIXELS:  # .npy, which OpenCV does not read
        raise predict_onnx.PredictError(f"{name}: has more than {MAX_PIXELS} pixels")
    return predict_onnx.predict_masks(model, image)


def run_lengths(mask: np.ndarray) -> list[int]:
    """Return the lengths of runs of equal pixels of `[h w]`, column by column, starting with pixels outside."""
    flat = mask.T.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=False))  # where the value differs from the pixel before
    return np.diff(np.concatenate([[0], starts, [flat.size]])).tolist()
