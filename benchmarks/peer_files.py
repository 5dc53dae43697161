"""What the scripts of outside recommenders share: an exported split, and the scores they write.

It runs in the peers' environments, without crossfeed. Scores of a part are those of all its events
one after the other, each the pool of its domain in order (`Recorded` in peers.py reads them back).
"""

import json
import resource
import time
from pathlib import Path

import numpy as np

ROWS = 512


class TimeIsUp(Exception):
    """The peer has had the processor for as long as it may."""


class Split:
    """A split as `peers.py export` wrote it."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self._arrays = dict(np.load(self.folder / "split.npz"))
        self.items = int(self["pool_offsets"][-1])

    def __getitem__(self, name):
        """Return one array."""
        return self._arrays[name]

    def padded(self, part, rows, length, numbers):
        """Return (B, L) the newest items of the rows' histories, zeros behind, and (B,) lengths.

        Args:
            part: train, validation or test.
            rows: (B,) events of the part.
            length: L.
            numbers: (I,) the peer's number of each item; 0 where it has none.
        """
        history, offsets = self[f"{part}_history"], self[f"{part}_offsets"]
        padded = np.zeros((len(rows), length), np.int64)
        lengths = np.zeros(len(rows), np.int64)
        for row, event in enumerate(rows):
            seen = numbers[history[offsets[event] : offsets[event + 1]]]
            seen = seen[seen > 0][-length:]
            padded[row, : len(seen)] = seen
            lengths[row] = len(seen)
        return padded, lengths

    def pool_scores(self, part, score):
        """Return the scores of a part's events.

        Args:
            part: validation or test.
            score: ((b,) events of one domain, (N,) its pool, the domain) -> (b, N).
        """
        domains = self[f"{part}_domains"]
        ends = np.cumsum(self["pool_known"][domains])
        found = np.empty(ends[-1], np.float32)
        for domain in np.unique(domains).tolist():
            events, pool = np.flatnonzero(domains == domain), self.pool(domain)
            for first in range(0, len(events), ROWS):
                rows = events[first : first + ROWS]
                places = ends[rows, None] - len(pool) + np.arange(len(pool))
                found[places] = score(rows, pool, domain)
        return found

    def pool(self, domain):
        """Return (N,) the items of a domain that the training part knows."""
        begin = self["pool_offsets"][domain]
        return np.arange(begin, begin + self["pool_known"][domain])

    def validation_ndcg(self, scores):
        """Return micro ndcg@10 of validation scores, without what the user has seen before."""
        domains, clicks = self["validation_domains"], self["validation_items"]
        history, offsets = self["validation_history"], self["validation_offsets"]
        ends = np.cumsum(self["pool_known"][domains])
        gains = np.zeros(len(domains))
        for row, domain in enumerate(domains):
            pool = self.pool(domain)
            place = clicks[row] - pool[0]
            if not 0 <= place < len(pool):  # not known in training: a miss
                continue
            mine = scores[ends[row] - len(pool) : ends[row]].copy()
            seen = history[offsets[row] : offsets[row + 1]] - pool[0]
            seen = seen[(seen >= 0) & (seen < len(pool)) & (seen != place)]
            mine[seen] = -np.inf
            rank = (mine > mine[place]).sum()
            gains[row] = 1 / np.log2(rank + 2) if rank < 10 else 0
        return gains.mean()


class Course:
    """What a peer scored after each of its epochs, and the time its training took until then.

    Time is of training alone: neither the peer's own validation nor this record counts.
    """

    def __init__(self, split, peer, *, minutes, done=0):
        """Begin, or go on after `done` epochs of an interrupted training."""
        self.folder = split.folder / f"{peer}.course"
        self.folder.mkdir(exist_ok=True)
        self.minutes = minutes
        self.wall = self.processor = 0.0
        self.epochs = json.loads((self.folder / "epochs.json").read_text())[:done] if done else []
        if self.epochs:
            self.wall, self.processor = self.epochs[-1].values()

    def timed(self, train_epoch, scores):
        """Return the peer's function that trains an epoch, with its time and scores kept.

        Args:
            train_epoch: the peer's own.
            scores: () -> scores of the validation events.
        """

        def run(*args, **options):
            if self.processor > 60 * self.minutes:
                raise TimeIsUp
            wall, processor = time.perf_counter(), time.process_time()
            answer = train_epoch(*args, **options)
            self.wall += time.perf_counter() - wall
            self.processor += time.process_time() - processor
            self.scores = scores()
            np.save(self.folder / f"{len(self.epochs) + 1:03}.npy", self.scores)
            self.epochs.append(
                {"seconds": round(self.wall, 1), "processor_seconds": round(self.processor, 1)}
            )
            (self.folder / "epochs.json").write_text(json.dumps(self.epochs))
            print(len(self.epochs), self.epochs[-1], flush=True)
            return answer

        return run


def write_scores(split, peer, scores, *, course=None, **about):
    """Write the scores of the test events beside the split, and what the training was like."""
    np.save(split.folder / f"{peer}.npy", scores)
    if course is not None:
        about = {
            "fit_seconds": round(course.wall, 1),
            "fit_processor_seconds": round(course.processor, 1),
            "epochs": len(course.epochs),
            **about,
        }
    about["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    (split.folder / f"{peer}.json").write_text(json.dumps(about, indent=2))
    print(about)
