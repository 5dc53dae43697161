"""The user side of the score as an ONNX graph, and its runtime."""

import os

# Before anything imports onnxruntime: else it reports to its maker and writes into the home folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
