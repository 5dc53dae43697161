"""Train a model of cornac on an exported split and write its scores; runs without crossfeed.

    python benchmarks/peer_cornac.py FOLDER VAECF

The split comes as cornac's tuples; what it knows of a user are the clicks of training. Needs cornac
2.6 and torch.
"""

import json
import resource
import sys
import time
from pathlib import Path

import cornac
import numpy as np
from cornac.data import Dataset

MODELS = {
    "VAECF": lambda: cornac.models.VAECF(
        k=64, autoencoder_structure=[256], n_epochs=100, batch_size=256, seed=0
    ),
}


def main():
    """Train, score the test events, and write both beside the split."""
    folder, name = Path(sys.argv[1]), sys.argv[2]
    split = np.load(folder / "split.npz")
    users, items = split["train_users"], split["train_items"]
    kept = items >= 0
    clicks = [(int(u), int(i), 1.0) for u, i in zip(users[kept], items[kept], strict=True)]
    train = Dataset.from_uir(clicks, seed=0)
    model = MODELS[name]()
    began = time.perf_counter()
    model.fit(train)
    seconds = time.perf_counter() - began
    peer = f"cornac.{name}"
    np.save(folder / f"{peer}.npy", pool_scores(model, train, split))
    about = {
        "fit_seconds": round(seconds, 1),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    (folder / f"{peer}.json").write_text(json.dumps(about, indent=2))
    print(about)


def pool_scores(model, train, split):
    """Return the scores of all events one after the other, each its domain's pool in order."""
    count = int(split["pool_offsets"][-1])
    numbers = np.array([train.iid_map.get(item, -1) for item in range(count)])
    popularity = np.bincount(split["train_items"][split["train_items"] >= 0], minlength=count)
    found = []
    for user, domain in zip(split["test_users"], split["test_domains"], strict=True):
        begin = split["pool_offsets"][domain]
        pool = slice(begin, begin + split["pool_known"][domain])
        known = train.uid_map.get(int(user))
        scores = popularity if known is None else model.score(known)
        places = np.arange(count)[pool] if known is None else numbers[pool]
        found.append(np.where(places >= 0, scores[places], -np.inf))
    return np.concatenate(found).astype(np.float32)


if __name__ == "__main__":
    main()
