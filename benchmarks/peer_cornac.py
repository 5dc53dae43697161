"""Train a model of cornac on an exported split and write its scores; runs without crossfeed.

    python benchmarks/peer_cornac.py FOLDER VAECF|EASE

The split comes as cornac's tuples; what it knows of a user are the clicks of training. It has no
early stop: its own number of epochs is trained. Needs cornac and torch.
"""

import sys
import time

import cornac
import numpy as np
from cornac.data import Dataset
from peer_files import Split, write_scores

MODELS = {
    "VAECF": lambda: cornac.models.VAECF(
        k=64, autoencoder_structure=[256], n_epochs=100, batch_size=256, seed=0
    ),
    "EASE": lambda: cornac.models.EASE(seed=0, verbose=False),
}


def main():
    """Train, score the test events, and write both beside the split."""
    split, name = Split(sys.argv[1]), sys.argv[2]
    users, items = split["train_users"], split["train_items"]
    kept = items >= 0
    clicks = [(int(u), int(i), 1.0) for u, i in zip(users[kept], items[kept], strict=True)]
    train = Dataset.from_uir(clicks, seed=0)
    model = MODELS[name]()
    began, processor = time.perf_counter(), time.process_time()
    model.fit(train)
    write_scores(
        split,
        f"cornac.{name}",
        split.pool_scores("test", scorer(model, train, split)),
        fit_seconds=round(time.perf_counter() - began, 1),
        fit_processor_seconds=round(time.process_time() - processor, 1),
        cornac=cornac.__version__,
    )


def scorer(model, train, split):
    """Return the function that scores test events; who is not known gets popularity."""
    numbers = np.array([train.iid_map.get(item, -1) for item in range(split.items)])
    clicked = split["train_items"]
    popularity = np.bincount(clicked[clicked >= 0], minlength=split.items)

    def score(rows, pool, domain):
        found = np.empty((len(rows), len(pool)), np.float32)
        for row, user in enumerate(split["test_users"][rows]):
            known = train.uid_map.get(int(user))
            if known is None:
                found[row] = popularity[pool]
            else:
                found[row] = np.where(
                    numbers[pool] >= 0, np.ravel(model.score(known))[numbers[pool]], -np.inf
                )
        return found

    return score


if __name__ == "__main__":
    main()
