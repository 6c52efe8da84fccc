"""examples/serve as a process of its own, with real requests."""

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from export_runs import random_run, some_images

from unet_jax import predict_images
from unet_jax.data.images.format import RGB8
from unet_jax.export.onnx_model import export_onnx

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
SERVE = Path(__file__).parents[1] / "examples" / "serve"
MAX_BYTES, MAX_PIXELS = 300_000, 100_000


@pytest.fixture(scope="module")
def run():
    """A run whose images come in tiles, of which the pictures below are a part, or several."""
    return random_run(RGB8, size=128, data={"fit": "crop"})


@pytest.fixture(scope="module")
def server(run, tmp_path_factory):
    """A running server: its port and its process."""
    folder = tmp_path_factory.mktemp("serve")
    export_onnx(run, folder / "model.onnx", some_images(run, (16, 16)))
    shutil.copy(SERVE / "app.py", folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    limits = {"MAX_BYTES": str(MAX_BYTES), "MAX_PIXELS": str(MAX_PIXELS), "READ_SECONDS": "1", "MAX_WAITING": "6"}
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port), "--log-level", "warning"]
    with subprocess.Popen(command, cwd=folder, env={**os.environ, **limits, "MODEL": "model.onnx"}) as process:
        for _ in range(600):
            try:
                if request(port, "GET", "/health")[0] == 200:
                    break
            except OSError:
                time.sleep(0.1)
        yield port, process
        process.terminate()


def request(port, method, path, body=None, kind="image/png", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, body, {"Content-Type": kind, **headers})
        answer = connection.getresponse()
        return answer.status, answer.read()


def picture(seed, height=30, width=50):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return image, cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def test_masks_are_those_of_predict(run, server):
    port, _ = server
    image, data = picture(0)
    (probs,) = predict_images(run, [image])
    expected = probs > run.threshold
    status, content = request(port, "POST", "/masks", data)
    assert status == 200
    answer = json.loads(content)
    assert (answer["height"], answer["width"], list(answer["masks"])) == (30, 50, ["disk", "square"])
    for k, name in enumerate(run.class_names):
        counts = answer["masks"][name]["counts"]
        values = np.arange(len(counts)) % 2 == 1
        np.testing.assert_array_equal(np.repeat(values, counts).reshape(50, 30).T, expected[..., k])
        status, content = request(port, "POST", f"/masks/{name}", data)
        png = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(png, expected[..., k] * np.uint8(255))
    assert json.loads(request(port, "GET", "/model")[1])["class_names"] == ["disk", "square"]


@pytest.mark.parametrize(
    ("path", "body", "kind", "status", "reason"),
    [
        ("/masks", b"no image", "image/png", 400, "is not an image that OpenCV can decode (8 bytes)"),
        ("/masks", b"", "image/png", 400, "the body is empty"),
        ("/masks", b"x" * (MAX_BYTES + 1), "image/png", 413, f"more than {MAX_BYTES} bytes"),
        ("/masks", b"x", "text/html", 415, "must be one of image/png"),
        ("/masks/cat", b"x", "image/png", 404, "the classes are disk, square"),
        ("/masks", cv2.imencode(".png", np.zeros((2000, 2000, 3), np.uint8))[1].tobytes(), "image/png", 400, "refuses"),
        ("/masks", cv2.imencode(".png", np.zeros((9, 9), np.uint16))[1].tobytes(), "image/png", 400, "8 bits"),
        (
            "/masks",
            b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (",
            "application/x-npy",
            400,
            "NumPy",
        ),
    ],
)
def test_bad_input_gets_its_reason(path, body, kind, status, reason, server):
    answer = request(server[0], "POST", path, body, kind)
    assert answer[0] == status and reason in json.loads(answer[1])["detail"], answer


def test_bodies_without_end_are_cut_off(server):
    """Chunks without a declared length, and a client that stops sending."""
    port, _ = server
    chunks = (b"x" * 50_000 for _ in range(100))
    try:
        status, _ = request(port, "POST", "/masks", chunks, **{"Transfer-Encoding": "chunked"})
        assert status == 413
    except (ConnectionError, http.client.HTTPException):  # refused while the client was sending
        pass
    with socket.create_connection(("127.0.0.1", port), timeout=30) as slow:
        head = f"POST /masks HTTP/1.1\r\nHost: {port}\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\nabc"
        slow.sendall(head.encode())
        assert b" 408 " in slow.recv(200)


def test_many_clients_at_once_get_answers_in_bounded_memory(run, server):
    port, process = server
    image, data = picture(1, 300, 300)
    (probs,) = predict_images(run, [image])
    expected = (probs > run.threshold)[..., 0]

    def ask(_):
        return request(port, "POST", "/masks/disk", data)

    def memory_mb():
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024

    ask(0)
    before = memory_mb()
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(ask, range(120)))
    statuses = [status for status, _ in answers]
    assert set(statuses) <= {200, 503} and 503 in statuses  # 24 clients, of which 6 may wait
    for status, content in answers:
        if status == 200:
            png = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(png > 0, expected)
    assert memory_mb() - before < 150, "memory grows with the number of clients"
    assert request(port, "GET", "/health")[0] == 200
