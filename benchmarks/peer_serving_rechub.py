"""A two-tower model of torch-rechub as its documentation serves it, behind a plain FastAPI app.

    python benchmarks/peer_serving_rechub.py --items 10000      # its URL is printed

Runs in an environment with torch-rechub, faiss-cpu, annoy, pymilvus, onnx, onnxruntime, onnxscript,
fastapi and uvicorn. The documented steps: the user tower is exported to ONNX, the items' vectors go
into a (flat, exact) faiss index made by its builder, and a request is one pass of the tower and one
search. torch-rechub has no HTTP server and no store of histories: the app is the smallest that can
ask them, histories lie in memory, and what the user has seen is asked for on top and filtered.
"""

import argparse
import socket
import tempfile

import numpy as np
import onnxruntime
import torch
import uvicorn
from fastapi import FastAPI
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models.matching import DSSM
from torch_rechub.serving import builder_factory
from torch_rechub.trainers import MatchTrainer

USERS, HISTORY, WIDTH = 1_000, 50, 128

parser = argparse.ArgumentParser()
parser.add_argument("--items", type=int, required=True)
given = parser.parse_args()

torch.manual_seed(0)
torch.set_num_threads(1)
item = SparseFeature("item_id", vocab_size=given.items, embed_dim=WIDTH)
history = SequenceFeature(
    "history", vocab_size=given.items, embed_dim=WIDTH, pooling="mean", shared_with="item_id"
)
tower = {"dims": [WIDTH, WIDTH], "activation": "prelu", "dropout": 0.0}
model = DSSM([history], [item], user_params=tower, item_params=tower).eval()

with tempfile.TemporaryDirectory() as folder:
    trainer = MatchTrainer(model, mode=0, device="cpu", model_path=folder)
    trainer.export_onnx(f"{folder}/user.onnx", mode="user", seq_length=HISTORY)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(f"{folder}/user.onnx", options)
model.mode = "item"
with torch.no_grad():
    vectors = model({"item_id": torch.arange(given.items)})

histories = np.random.default_rng(0).integers(given.items, size=(USERS, HISTORY))
app = FastAPI()
[asked] = session.get_inputs()


@app.get("/recommend")
def recommend(user: int, k: int) -> dict[str, list[dict[str, float]]]:
    """Recommend k items that a user has not seen."""
    seen = histories[user]
    [vector] = session.run(None, {asked.name: seen[None]})
    ids, scores = indexer.query(torch.from_numpy(vector), top_k=k + HISTORY)
    had = set(seen.tolist())
    fresh = [
        {"item_id": int(one), "score": float(score)}
        for one, score in zip(ids[0].tolist(), scores[0].tolist(), strict=True)
        if one not in had
    ]
    return {"items": fresh[:k]}


with builder_factory("faiss", index_type="Flat", metric="IP").from_embeddings(vectors) as indexer:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        config = uvicorn.Config(app, log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[listening])
