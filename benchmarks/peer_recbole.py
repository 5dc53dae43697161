"""Train a model of RecBole on an exported split and write its scores; runs without crossfeed.

    python benchmarks/peer_recbole.py FOLDER SASRec|LightGCN [MINUTES]

RecBole's own data loading, training loop and early stop (ndcg@10 on validation, full ranking) with
its defaults; the split comes as files of its own format. After MINUTES of processor time no epoch
is begun any more. An interrupted run goes on after its best epoch. Needs recbole 1.2.1 with
setuptools<80, numpy<2, pandas<2.2, scipy<1.12 and TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1.
"""

import sys

import numpy as np
import torch
from peer_files import Course, Split, TimeIsUp, write_scores
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.utils import get_model, get_trainer, init_seed

LENGTH = 50
SEQUENTIAL = {"SASRec", "GRU4Rec"}

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
    """Train, score the events, and write scores and facts beside the split."""
    split, name = Split(sys.argv[1]), sys.argv[2]
    minutes = float(sys.argv[3]) if len(sys.argv) > 3 else float("inf")
    peer, sequential = f"recbole.{name}", name in SEQUENTIAL
    data = split.folder / f"recbole-{name}"
    write_atomic_files(split, data, sequential)
    config = Config(
        model=name,
        dataset=data.name,
        config_dict={
            **COMMON,
            **OF_KIND[sequential],
            "data_path": str(split.folder),
            "checkpoint_dir": str(data),
        },
    )
    init_seed(config["seed"], True)
    dataset = create_dataset(config)
    train, valid, _ = data_preparation(config, dataset)
    model = get_model(name)(config, train._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    saved = max(data.glob("*.pth"), key=lambda file: file.stat().st_mtime, default=None)
    if saved is not None:
        trainer.resume_checkpoint(saved)
    course = Course(split, peer, minutes=minutes, done=trainer.start_epoch)
    trainer._train_epoch = course.timed(
        trainer._train_epoch, lambda: scores_of(model, dataset, split, "validation", sequential)
    )
    try:
        trainer.fit(train, valid, saved=True, show_progress=False)
        stopped_by = "its own early stop"
    except TimeIsUp:
        stopped_by = f"{minutes:g} minutes of processor time"
    state = torch.load(trainer.saved_model_file, map_location="cpu")
    model.load_state_dict(state["state_dict"])
    model.load_other_parameter(state.get("other_parameter"))
    write_scores(
        split,
        peer,
        scores_of(model, dataset, split, "test", sequential),
        course=course,
        best_epoch=state["epoch"] + 1,
        validation_of_its_own=float(trainer.best_valid_score),
        stopped_by=stopped_by,
        parameters=sum(value.numel() for value in model.parameters()),
    )


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


@torch.no_grad()
def scores_of(model, dataset, split, part, sequential):
    """Score a part's events by the model as it stands: each by its last items, or by its user."""
    items = lookup(dataset, "item_id", "i", split.items)
    users = lookup(dataset, "user_id", "u", int(split["test_users"].max()) + 1)

    def score(rows, pool, domain):
        if sequential:
            seen, lengths = split.padded(part, rows, LENGTH, items)
            columns = {"item_id_list": seen, "item_length": np.maximum(lengths, 1)}
        else:
            columns = {"user_id": users[split[f"{part}_users"][rows]]}
        asked = Interaction({name: torch.from_numpy(column) for name, column in columns.items()})
        found = model.full_sort_predict(asked.to(model.device)).reshape(len(rows), -1)
        return found.cpu().numpy()[:, items[pool]]

    model.eval()  # its trainer calls train() at the start of an epoch
    return split.pool_scores(part, score)


if __name__ == "__main__":
    main()
