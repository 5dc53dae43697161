"""A model of cornac for its own HTTP service; runs in an environment with cornac and Flask.

    python benchmarks/peer_serving_cornac.py OUT --items 10000

Matrix factorisation of the benchmark's width, by BPR, over the benchmark's users and catalogue.
Prints the folder that `MODEL_PATH` must name.
"""

import argparse

import numpy as np
from cornac.data import Dataset
from cornac.models import BPR

USERS, HISTORY, WIDTH = 1_000, 50, 128

parser = argparse.ArgumentParser()
parser.add_argument("out")
parser.add_argument("--items", type=int, required=True)
given = parser.parse_args()

draws = np.random.default_rng(0)
clicked = draws.integers(given.items, size=(USERS, HISTORY))
events = [(f"u{user}", str(item), 1.0) for user, row in enumerate(clicked) for item in set(row)]
# cornac knows the items of its events alone: one more user has all of them.
events += [("everything", str(item), 1.0) for item in range(given.items)]
data = Dataset.from_uir(events, seed=0)
model = BPR(k=WIDTH, max_iter=2, num_threads=1, seed=0, verbose=False).fit(data)
print(model.save(given.out, save_trainset=True))
