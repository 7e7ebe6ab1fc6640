"""Pictures over HTTP: fastapi run examples/fastapi_service.py, then http://localhost:8000/image.png?prompt=a+fox"""

import io

from fastapi import FastAPI, HTTPException, Response

import addkit

app = FastAPI(title="Pictures")
pipe = addkit.load(threads=1)  # one core a picture, as requests come side by side
pipe.open()


@app.get("/image.png")
def image(prompt: str, seed: int | None = None, steps: int = 1) -> Response:
    """A PNG file. FastAPI calls plain functions in threads, and a pipe may be called from any number of them."""
    try:
        (made,) = pipe.run(prompt, seed=seed, num_inference_steps=steps)
    except ValueError as error:  # says in one line what is allowed
        raise HTTPException(422, str(error)) from error
    except addkit.MemoryLimitError as error:
        raise HTTPException(503, "too busy: try again") from error
    buffer = io.BytesIO()
    made.image.save(buffer, "PNG")
    return Response(buffer.getvalue(), media_type="image/png", headers={"X-Seed": str(made.seed)})
