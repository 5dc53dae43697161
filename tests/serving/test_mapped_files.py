"""What grows with the catalogue is mapped into memory, once for all processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crossfeed.bundle import Bundle


def maps(file: Path) -> list[range]:
    """Return where a file is mapped into this process, read-only."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    found = [fields for fields in lines if fields[-1] == str(file) and fields[1][:3] == "r--"]
    bounds = [[int(end, 16) for end in fields[0].split("-")] for fields in found]
    return [range(*pair) for pair in bounds]


def test_what_grows_with_the_catalogue_is_a_map_of_its_file(bundle_path: Path) -> None:
    bundle = Bundle.load(bundle_path)
    arrays = {
        "item_vectors.npy": [bundle.item_vectors],
        "item_biases.npy": [bundle.item_biases],
        "items.arrow": [bundle.clicks, bundle.recent_clicks, bundle.by_id],
    }
    for name, mapped in arrays.items():
        for array in mapped:
            assert not array.flags.writeable
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0
            assert any(array.ctypes.data in area for area in maps(bundle_path / name)), name
    for buffer in bundle.item_ids.buffers()[1:]:
        assert any(buffer.address in area for area in maps(bundle_path / "items.arrow"))


def test_torch_reads_the_same_vectors_from_a_map(bundle: Bundle) -> None:
    table = bundle.scorer.players.discriminator.scoring_layer.vectors.weight
    lines = Path("/proc/self/maps").read_text().splitlines()
    areas = [line.split()[0].split("-") for line in lines if line.endswith("item_vectors.npy")]
    at = table.data_ptr()
    assert any(int(first, 16) <= at < int(last, 16) for first, last in areas)
    width = bundle.config.width
    np.testing.assert_array_equal(table.detach().numpy(), bundle.item_vectors[:, :width])
