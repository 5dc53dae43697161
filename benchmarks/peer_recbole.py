"""Train a model of RecBole on an exported split and write its scores; runs without crossfeed.

    python benchmarks/peer_recbole.py FOLDER SASRec|LightGCN

RecBole's own data loading, training loop and early stop (ndcg@10 on validation, full ranking) with
its defaults; the split comes as files of its own format. Needs recbole 1.2.1 with setuptools<80,
numpy<2, pandas<2.2, scipy<1.12 and TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1.
"""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.utils import get_model, get_trainer, init_seed

LENGTH = 50
SEQUENTIAL = {"SASRec", "GRU4Rec"}
ROWS = 512

COMMON = {
    "seed": 0,
    "train_batch_size": 2048,
    "eval_batch_size": 4096,
    "embedding_size": 64,
    "benchmark_filename": ["train", "valid", "test"],
    "metrics": ["NDCG"],
    "topk": [10],
    "valid_metric": "NDCG@10",
    "eval_args": {"order": "TO", "mode": "full", "group_by": None, "split": {"RS": [8, 1, 1]}},
    "show_progress": False,
    "save_dataset": False,
}
OF_KIND = {
    True: {
        "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
        "alias_of_item_id": ["item_id_list"],
        "MAX_ITEM_LIST_LENGTH": LENGTH,
        "train_neg_sample_args": None,
        "loss_type": "CE",
        "hidden_size": 64,
        "inner_size": 256,
    },
    False: {"load_col": {"inter": ["user_id", "item_id"]}},
}


def main():
    """Train, score the test events, and write both beside the split."""
    folder, name = Path(sys.argv[1]), sys.argv[2]
    split = np.load(folder / "split.npz")
    sequential = name in SEQUENTIAL
    data = folder / f"recbole-{name}"
    write_atomic_files(split, data, sequential)
    config = Config(
        model=name,
        dataset=data.name,
        config_dict={
            **COMMON,
            **OF_KIND[sequential],
            "data_path": str(folder),
            "checkpoint_dir": str(data),
        },
    )
    init_seed(config["seed"], True)
    dataset = create_dataset(config)
    train, valid, _ = data_preparation(config, dataset)
    model = get_model(name)(config, train._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    began = time.perf_counter()
    best, _ = trainer.fit(train, valid, saved=True, show_progress=False)
    seconds = time.perf_counter() - began
    state = torch.load(trainer.saved_model_file, map_location="cpu")
    model.load_state_dict(state["state_dict"])
    model.load_other_parameter(state.get("other_parameter"))
    model.eval()
    scores = (sequential_scores if sequential else user_scores)(model, dataset, split)
    peer = f"recbole.{name}"
    np.save(folder / f"{peer}.npy", scores)
    about = {
        "fit_seconds": round(seconds, 1),
        "epochs": len(trainer.train_loss_dict),
        "validation_of_its_own": float(best),
        "parameters": sum(value.numel() for value in model.parameters()),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    (folder / f"{peer}.json").write_text(json.dumps(about, indent=2))
    print(about)


def write_atomic_files(split, folder, sequential):
    """Write train, valid and test as RecBole's atomic files; the test file repeats validation."""
    folder.mkdir(exist_ok=True)
    for name, part in {"train": "train", "valid": "validation", "test": "validation"}.items():
        users, items = split[f"{part}_users"], split[f"{part}_items"]
        history, offsets = split[f"{part}_history"], split[f"{part}_offsets"]
        with (folder / f"{folder.name}.{name}.inter").open("w") as file:
            columns = ["user_id:token", "item_id:token"]
            if sequential:
                columns.insert(1, "item_id_list:token_seq")
            file.write("\t".join(columns) + "\n")
            for row in range(len(users)):
                if items[row] < 0:
                    continue
                seen = history[max(offsets[row], offsets[row + 1] - LENGTH) : offsets[row + 1]]
                if sequential and not len(seen):
                    continue
                words = [f"u{users[row]}", f"i{items[row]}"]
                if sequential:
                    words.insert(1, " ".join(f"i{item}" for item in seen))
                file.write("\t".join(words) + "\n")


def lookup(dataset, field, prefix, count):
    """Return RecBole's number of each of ours; 0, its padding, where it has none."""
    known = dataset.field2token_id[field]
    return np.array([known.get(f"{prefix}{number}", 0) for number in range(count)])


def sequential_scores(model, dataset, split):
    """Score each test event's pool for the last items of its history."""
    numbers = lookup(dataset, "item_id", "i", int(split["pool_offsets"][-1]))
    history, offsets = split["test_history"], split["test_offsets"]

    def rows(first, last):
        padded = np.zeros((last - first, LENGTH), np.int64)
        lengths = np.ones(last - first, np.int64)
        for row in range(first, last):
            seen = history[offsets[row] : offsets[row + 1]]
            seen = numbers[seen][numbers[seen] > 0][-LENGTH:]
            padded[row - first, : len(seen)] = seen
            lengths[row - first] = max(len(seen), 1)
        return Interaction(
            {"item_id_list": torch.from_numpy(padded), "item_length": torch.from_numpy(lengths)}
        )

    return pool_scores(model, split, numbers, rows)


def user_scores(model, dataset, split):
    """Score each test event's pool for its user."""
    numbers = lookup(dataset, "item_id", "i", int(split["pool_offsets"][-1]))
    users = lookup(dataset, "user_id", "u", int(split["test_users"].max()) + 1)

    def rows(first, last):
        return Interaction({"user_id": torch.from_numpy(users[split["test_users"][first:last]])})

    return pool_scores(model, split, numbers, rows)


@torch.no_grad()
def pool_scores(model, split, numbers, rows):
    """Return the scores of all events one after the other, each its domain's pool in order."""
    offsets, known, domains = split["pool_offsets"], split["pool_known"], split["test_domains"]
    found = []
    for first in range(0, len(domains), ROWS):
        last = min(first + ROWS, len(domains))
        scores = model.full_sort_predict(rows(first, last)).reshape(last - first, -1).numpy()
        for row in range(first, last):
            begin = offsets[domains[row]]
            found.append(scores[row - first, numbers[begin : begin + known[domains[row]]]])
    return np.concatenate(found).astype(np.float32)


if __name__ == "__main__":
    main()
