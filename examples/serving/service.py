"""A service: POST an image file to /score, and get score, decision and class.

    pip install fastapi uvicorn onnxruntime pillow
    reactood export detector.safetensors -o detector.onnx --preprocess
    DETECTOR=detector.onnx uvicorn service:app

It needs neither torch nor reactood. Images that wait are scored together.
"""

import asyncio
import concurrent.futures
import contextlib
import io
import os

import numpy as np
import onnxruntime
from fastapi import FastAPI, HTTPException, Request
from PIL import Image, ImageOps

MOST_AT_ONCE = 2  # more take more memory, and hardly less time on a CPU
MOST_WAITING, MOST_BYTES = 256, 20_000_000
MOST_PIXELS = 25_000_000  # a small file may hold a picture that fills the memory
options = onnxruntime.SessionOptions()
options.log_severity_level = 3  # errors
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = onnxruntime.InferenceSession(os.environ["DETECTOR"], options)
names = [output.name for output in session.get_outputs()]


def decode(data):
    """Return the pixels of an image file, uint8 (height, width, 3)."""
    image = Image.open(io.BytesIO(data))  # reads the size alone
    if image.width * image.height > MOST_PIXELS:
        raise HTTPException(413, f"An image may have at most {MOST_PIXELS} pixels.")
    image = ImageOps.exif_transpose(image)
    return np.asarray(image.convert("RGB"))


def score(images):
    """Return an answer for each of some images of one size."""
    outputs = dict(
        zip(names, session.run(None, {"images": np.stack(images)}), strict=True)
    )
    outputs["class"] = outputs.pop("logits").argmax(axis=1)
    return [
        {name: values[i].item() for name, values in outputs.items()}
        for i in range(len(images))
    ]


async def serve(waiting):
    """Score all images that wait, again and again."""
    while True:
        batch = [await waiting.get()]
        while len(batch) < MOST_AT_ONCE and not waiting.empty():
            batch.append(waiting.get_nowait())
        for size in {image.shape for image, _ in batch}:
            some = [(image, answer) for image, answer in batch if image.shape == size]
            try:
                found = await asyncio.to_thread(score, [image for image, _ in some])
            except Exception as error:  # one bad batch does not end the service
                found = [HTTPException(500, str(error))] * len(some)
            for (_, answer), result in zip(some, found, strict=True):
                if not answer.done():  # the client may have gone
                    answer.set_result(result)


@contextlib.asynccontextmanager
async def lifespan(app):
    """Start what scores the images."""
    app.state.waiting = asyncio.Queue(MOST_WAITING)
    # One thread scores while another decodes; each more has memory of its own.
    executor = concurrent.futures.ThreadPoolExecutor(2)
    asyncio.get_running_loop().set_default_executor(executor)
    worker = asyncio.create_task(serve(app.state.waiting))
    yield
    worker.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/score")
async def score_one(request: Request):
    """Return score, decision and class of the image in the body."""
    data = bytearray()  # adding to bytes would copy all of them, each time
    async for chunk in request.stream():
        data += chunk
        if len(data) > MOST_BYTES:
            raise HTTPException(413, f"An image may have at most {MOST_BYTES} bytes.")
    try:
        image = await asyncio.to_thread(decode, data)
    except HTTPException:
        raise
    except Exception as error:  # libraries of images raise errors of any kind
        raise HTTPException(422, f"The body is no image: {error}") from error
    if app.state.waiting.full():
        raise HTTPException(503, "Too many images wait; try again later.")
    answer = asyncio.get_running_loop().create_future()
    await app.state.waiting.put((image, answer))
    result = await answer
    if isinstance(result, HTTPException):
        raise result
    return result


@app.get("/about")
def about():
    """Return what the file says of itself: version, threshold, classes, and more."""
    return session.get_modelmeta().custom_metadata_map
