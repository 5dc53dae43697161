"""The user side of the score as an ONNX graph, and its runtime."""

import os

# Set before onnxruntime is imported, or it reports to its maker and writes to the home folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
