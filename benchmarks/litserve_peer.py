"""A peer of benchmarks/serve.py: LitServe with batches of up to 8. Needs pip install litserve.

    python benchmarks/litserve_peer.py BUNDLE PORT

Its requests are JSON, the image in base64: what it can hand from the process that receives to the
one that scores.
"""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path

import litserve
import numpy as np
import torch

from leuk_ray.inference.classifier import Classifier


class Api(litserve.LitAPI):
    """Decodes and scores in a worker."""

    def setup(self, _device: str) -> None:
        torch.set_num_threads(os.cpu_count() or 1)
        self.classifier = Classifier.load(Path(sys.argv[1]))

    def decode_request(self, request):
        return self.classifier.read("image", base64.b64decode(request["image"]))

    def batch(self, inputs: list):
        return inputs

    def predict(self, cells: list):
        scores = self.classifier.score(np.stack([cell.pixels for cell in cells]))
        return [self.classifier.answer(cell, scores, i) for i, cell in enumerate(cells)]

    def unbatch(self, output: list):
        return output

    def encode_response(self, output):
        return {"predictions": [output.as_dict()]}


if __name__ == "__main__":
    api = Api(max_batch_size=8, batch_timeout=0.005, api_path="/v1/predict")
    server = litserve.LitServer(api, accelerator="cpu", healthcheck_path="/healthz")
    server.run(port=int(sys.argv[2]), log_level="warning", generate_client_file=False)
