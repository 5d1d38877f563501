"""What the example of a service costs beside onnxruntime in the same process.

    python benchmarks/serving.py detector.onnx FOLDER

The file is one that `export_onnx(..., preprocess=True)` wrote.
Eight clients send images to the service; then one process decodes and scores the same
images one by one. Both in turn, several times; the medians of CPU time per image are
compared, user and system time of the process that scores. Needs fastapi, uvicorn and
psutil.
"""

import argparse
import concurrent.futures
import http.client
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import threading
from pathlib import Path

import psutil

from reactood.datasets import list_images

FOLDER = Path(__file__).parents[1] / "examples" / "serving"
CLIENTS = 8
START = """
import uvicorn, service
class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)
Server(uvicorn.Config(service.app, port=0, log_level="warning")).run()
"""
LOCAL = """
import sys, service
print("ready", flush=True)
for line in sys.stdin:
    paths = line.rstrip("\\n").split("\\t")
    for path in paths:
        with open(path, "rb") as stream:
            service.score([service.decode(stream.read())])
    print("done", flush=True)
"""


def start(code, model):
    """Start a process that has the file open; return it and its first word."""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=FOLDER,
        env={**os.environ, "DETECTOR": str(model)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, process.stdout.readline().strip()


def cpu_of(process, work):
    """Return the seconds of CPU that a process spends while ``work`` is done."""
    times = psutil.Process(process.pid).cpu_times
    before = times()
    work()
    after = times()
    return after.user + after.system - before.user - before.system


def send(port, images):
    """Let all clients send their share of the images."""
    connections = threading.local()

    def one(data):
        if not hasattr(connections, "open"):
            connections.open = http.client.HTTPConnection("127.0.0.1", port)
        connections.open.request("POST", "/score", data)
        answer = connections.open.getresponse()
        answer.read()
        assert answer.status == 200, answer.status

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(one, images))


def main():
    """Compare, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    paths = [str(path) for path in list_images(options.folder)]
    paths = random.Random(0).choices(paths, k=options.images)
    images = [Path(path).read_bytes() for path in paths]
    model = options.model.resolve()
    service, port = start(START, model)
    local, _ = start(LOCAL, model)

    def in_process():
        local.stdin.write("\t".join(map(os.path.abspath, paths)) + "\n")
        local.stdin.flush()
        local.stdout.readline()

    works = {service: lambda: send(int(port), images), local: in_process}
    found = {process: [] for process in works}
    try:
        for repeat in range(options.repeats + 1):
            for process, work in works.items():
                seconds = cpu_of(process, work)
                if repeat:
                    found[process].append(1000 * seconds / len(images))
        memory = psutil.Process(service.pid).memory_info().rss / 2**20
    finally:
        for process in works:
            process.terminate()
            process.wait()
    ours, theirs = (statistics.median(found[process]) for process in works)
    print(
        f"{CLIENTS} clients, {len(images)} images, {options.repeats} repeats, "
        f"{multiprocessing.cpu_count()} cores\n"
        f"service      {ours:.2f} ms of CPU per image, {memory:.0f} MiB resident\n"
        f"in process   {theirs:.2f} ms of CPU per image\n"
        f"ratio        {ours / theirs:.2f}"
    )


if __name__ == "__main__":
    main()
