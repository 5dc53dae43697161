"""Train a model of torch-rechub on an exported split and write its scores; runs without crossfeed.

    python benchmarks/peer_torch_rechub.py FOLDER MMOE|PLE|SASRec [MINUTES]

MMOE and PLE have one task per domain: a row is (user, newest items, item), and its label counts in
the item's own domain alone; each click comes with 4 items of the domain that the user has not
clicked, drawn anew each epoch. SASRec sees windows of a user's items, each position with its next
item and one that the user has not clicked; its scores are flattened, since the trainer's pairwise
loss takes one dimension. Models, trainers, optimiser and early stop are torch-rechub's, the figure
to stop by is ndcg@10 of the validation part. After MINUTES of processor time no epoch is begun any
more. Needs torch-rechub 0.9 and torch.
"""

import sys

import numpy as np
import torch
from peer_files import Course, Split, TimeIsUp, write_scores
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, RandomSampler
from torch_rechub.basic.callback import EarlyStopper
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models.matching import SASRec
from torch_rechub.models.multi_task import MMOE, PLE
from torch_rechub.trainers import MatchTrainer, MTLTrainer
from torch_rechub.utils.data import TorchDataset

LENGTH = 50
WIDTH = 64
NEGATIVES = 4
AT_ONCE = 8  # users with all items of a pool: what fits a cache
PATIENCE = 10  # the trainers' own default
BATCH_SIZE = {"MMOE": 2048, "PLE": 2048, "SASRec": 256}


class Clicks:
    """The training clicks, with items that their users have not clicked beside them."""

    def __init__(self, split, seed=0):
        self.split, self.rng = split, np.random.default_rng(seed)
        known = np.flatnonzero(split["train_items"] >= 0)
        self.users, self.items = split["train_users"][known], split["train_items"][known]
        self.domains = split["train_domains"][known]
        self.numbers = np.arange(split.items) + 1  # 0 is padding
        self.history = split.padded("train", known, LENGTH, self.numbers)[0]
        self._clicked = np.unique(self.users * split.items + self.items)

    def others(self, users, domains):
        """Return one item of each domain that the user has not clicked, if ten draws find one."""
        begins, sizes = self.split["pool_offsets"][domains], self.split["pool_known"][domains]
        items = begins + self.rng.integers(sizes)
        for _ in range(9):
            keys = users * self.split.items + items
            places = np.searchsorted(self._clicked, keys).clip(max=len(self._clicked) - 1)
            again = np.flatnonzero(self._clicked[places] == keys)
            items[again] = begins[again] + self.rng.integers(sizes[again])
        return items

    def rows(self):
        """Return features and (R, D) labels of an epoch; -1 where a label is not known."""
        copies = np.repeat(np.arange(len(self.users)), 1 + NEGATIVES)
        clicked = np.arange(len(copies)) % (1 + NEGATIVES) == 0
        users, domains = self.users[copies], self.domains[copies]
        items = np.where(clicked, self.items[copies], self.others(users, domains))
        labels = np.full((len(copies), len(self.split["pool_known"])), -1, np.float32)
        labels[np.arange(len(copies)), domains] = clicked
        features = {"user": users, "history": self.history[copies], "item": items + 1}
        return features, labels

    def windows(self):
        """Return the users' items in windows of LENGTH: each, its next one, and another."""
        order = np.argsort(self.users, kind="stable")  # in time order within each user
        bounds = np.flatnonzero(np.diff(self.users[order])) + 1
        columns = {"seq": [], "pos": [], "neg": []}
        for mine in np.split(order, bounds):
            for first in range(0, len(mine) - 1, LENGTH):
                seen = mine[first : first + LENGTH + 1]
                pos = np.zeros((3, LENGTH), np.int64)
                pos[0, : len(seen) - 1] = self.items[seen[:-1]] + 1
                pos[1, : len(seen) - 1] = self.items[seen[1:]] + 1
                others = self.others(self.users[seen[1:]], self.domains[seen[1:]])
                pos[2, : len(seen) - 1] = others + 1
                for name, values in zip(columns, pos, strict=True):
                    columns[name].append(values)
        features = {name: np.stack(values) for name, values in columns.items()}
        return features, np.ones(len(features["seq"]), np.float32)


class MultiTask:
    """MMOE or PLE with one task per domain."""

    def __init__(self, name, split):
        self.split, self.clicks = split, Clicks(split)
        domains = len(split["pool_known"])
        items = SparseFeature("item", split.items + 1, WIDTH)
        features = [
            SparseFeature("user", int(split["test_users"].max()) + 1, WIDTH),
            SequenceFeature("history", split.items + 1, WIDTH, shared_with="item", padding_idx=0),
            items,
        ]
        tasks = ["classification"] * domains
        towers = [{"dims": [32]} for _ in range(domains)]
        experts = {"dims": [WIDTH]}
        if name == "MMOE":
            self.model = MMOE(features, tasks, 8, experts, towers)
        else:
            self.model = PLE(features, tasks, 1, 2, 1, experts, towers)
        self.trainer = MTLTrainer(self.model, tasks)
        self.trainer.loss_fns = [self._loss] * domains
        self.rows = self.clicks.rows

    def _loss(self, predicted, labels):
        """Return a domain's part of the mean over all rows; the trainer divides by the tasks."""
        known = labels >= 0
        loss = F.binary_cross_entropy(predicted[known], labels[known], reduction="sum")
        return loss * self.trainer.n_task / len(labels)

    def score(self, part):
        """Return the function that scores events of a part."""
        table = self.model.embedding.embed_dict
        numbers = self.clicks.numbers

        def score(rows, pool, domain):
            history = torch.from_numpy(self.split.padded(part, rows, LENGTH, numbers)[0])
            users = torch.from_numpy(self.split[f"{part}_users"][rows])
            asked = {"user": users, "history": history}
            users = self.model.embedding(asked, self.model.features[:2], squeeze_dim=True)
            items = table["item"](torch.from_numpy(numbers[pool]))
            found = [self._logits(some, items, domain) for some in users.split(AT_ONCE)]
            return torch.cat(found).reshape(len(rows), len(pool)).numpy()

        return score

    def _logits(self, users, items, domain):
        """Return (b * N,) a domain's scores, without the layers of the other domains."""
        if isinstance(self.model, MMOE):
            experts, gate = self.model.experts, self.model.gates[domain]
        else:
            layer = self.model.cgc_layers[0]
            own = layer.n_expert_specific
            experts = [*layer.experts_specific[domain * own : (domain + 1) * own]]
            experts, gate = [*experts, *layer.experts_shared], layer.gates_specific[domain]
        weights = _pairs(gate.mlp, users, items)  # (b * N, X)
        mixed = sum(
            weights[:, number, None] * _pairs(expert.mlp, users, items)
            for number, expert in enumerate(experts)
        )
        return self.model.towers[domain](mixed).squeeze(1)


class Sequential:
    """SASRec: scores are dot products of the last position and the items."""

    def __init__(self, split):
        self.split, self.clicks = split, Clicks(split)
        names = {"seq": None, "pos": "seq", "neg": "seq"}
        features = [
            SequenceFeature(
                name, split.items + 1, WIDTH, pooling="concat", shared_with=shared, padding_idx=0
            )
            for name, shared in names.items()
        ]
        self.model = SASRec(features, max_len=LENGTH)
        forward = self.model.forward

        def flattened(asked):
            real = asked["pos"].flatten() > 0
            return tuple(scores.flatten()[real] for scores in forward(asked))

        self.model.forward = flattened
        self.trainer = MatchTrainer(self.model, mode=1)
        self.rows = self.clicks.windows

    def score(self, part):
        """Return the function that scores events of a part."""
        table = self.model.item_emb.embed_dict["seq"].weight
        numbers = self.clicks.numbers

        def score(rows, pool, domain):
            history = torch.from_numpy(self.split.padded(part, rows, LENGTH, numbers)[0])
            users = self.model.user_tower({"seq": history}).squeeze(1)
            return (users @ table[torch.from_numpy(numbers[pool])].T).numpy()

        return score


def _pairs(layers, users, items):
    """Run layers on all pairs of users and items; the first is linear in both."""
    first = layers[0]
    cut = users.shape[1]
    user_part = F.linear(users, first.weight[:, :cut], first.bias)
    item_part = F.linear(items, first.weight[:, cut:])
    return layers[1:]((user_part[:, None] + item_part).flatten(0, 1))


def check(peer):
    """Compare the short way to a domain's scores with the model's own forward."""
    users = torch.arange(3)
    history = torch.from_numpy(peer.clicks.history[:3])
    asked = {"user": users, "history": history, "item": torch.tensor([1, 2, 3])}
    peer.model.eval()
    with torch.no_grad():
        whole = peer.model.embedding(asked, peer.model.features, squeeze_dim=True)
        mine = peer._logits(whole[:, : 2 * WIDTH], whole[:, 2 * WIDTH :], 1).sigmoid()
        torch.testing.assert_close(mine[::4], peer.model(asked)[:, 1], rtol=1e-4, atol=1e-5)


def main():
    """Train, score the events, and write scores and facts beside the split."""
    split, name = Split(sys.argv[1]), sys.argv[2]
    minutes = float(sys.argv[3]) if len(sys.argv) > 3 else float("inf")
    torch.manual_seed(0)
    peer = Sequential(split) if name == "SASRec" else MultiTask(name, split)
    if name != "SASRec":
        check(peer)

    def train_epoch():
        rows = TorchDataset(*peer.rows())
        batches = BatchSampler(RandomSampler(rows), BATCH_SIZE[name], drop_last=False)
        peer.trainer.train_one_epoch(DataLoader(rows, sampler=batches, batch_size=None))

    @torch.no_grad()
    def scores(part="validation"):
        peer.model.eval()
        return split.pool_scores(part, peer.score(part))

    course = Course(split, f"torch-rechub.{name}", minutes=minutes)
    timed, values = course.timed(train_epoch, scores), []
    stopper, stopped_by = EarlyStopper(PATIENCE), "its own early stop"
    try:
        while not values or not stopper.stop_training(values[-1], peer.model.state_dict()):
            timed()
            values.append(float(split.validation_ndcg(course.scores)))
            print(values[-1], flush=True)
    except TimeIsUp:
        stopped_by = f"{minutes:g} minutes of processor time"
    peer.model.load_state_dict(stopper.best_weights)
    write_scores(
        split,
        f"torch-rechub.{name}",
        scores("test"),
        course=course,
        best_epoch=int(np.argmax(values)) + 1,
        validation_of_its_own=max(values),
        stopped_by=stopped_by,
        parameters=sum(value.numel() for value in peer.model.parameters()),
    )


if __name__ == "__main__":
    main()
