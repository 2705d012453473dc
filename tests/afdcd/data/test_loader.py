from __future__ import annotations

import itertools
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from afdcd.config import AugmentConfig
from afdcd.data import loader
from afdcd.data.decoded import open_decoded
from afdcd.data.loader import Batch, sample_key, sample_order, training_batches
from afdcd.data.manifest import Manifest
from afdcd.errors import UserError

AUGMENT = AugmentConfig(
    order="window",
    crop=(24, 32),
    scale=(0.5, 1.5),
    fill=(0, 0, 0),
    flip=0.5,
    balanced=0.0,
    brightness=0.2,
    contrast=0.2,
    saturation=0.2,
)


@pytest.fixture
def manifest(prepared: Path) -> Manifest:
    return Manifest.load(prepared)


def batches(manifest: Manifest, **changes) -> list[Batch]:
    settings = dict(batch_size=4, seed=3, start=0, stop=6, rank=0, world_size=1, workers=0)
    return list(training_batches(manifest, augment=AUGMENT, **{**settings, **changes}))


def same(first: list[Batch], second: list[Batch]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.equal(a, b) for left, right in pairs for a, b in zip(left, right, strict=True))


def test_shapes_and_kinds(manifest: Manifest) -> None:
    (batch,) = batches(manifest, stop=1)
    assert batch.images.shape == (4, 3, 24, 32) and batch.images.dtype == torch.uint8
    assert batch.labels.shape == (4, 24, 32) and batch.labels.dtype == torch.uint8
    assert batch.keys.shape == (4,) and batch.keys.dtype == torch.int64
    assert set(batch.labels.unique().tolist()) <= {0, 1, 2, 3, 255}


@pytest.mark.parametrize("ranks", [2, 4])
def test_shares_of_the_ranks_in_order_are_the_global_batch(manifest: Manifest, ranks: int) -> None:
    shares = [batches(manifest, rank=rank, world_size=ranks) for rank in range(ranks)]
    for whole, *parts in zip(batches(manifest), *shares, strict=True):
        assert same([whole], [Batch(*map(torch.cat, zip(*parts, strict=True)))])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(manifest: Manifest, workers: int) -> None:
    state = torch.get_rng_state()
    assert same(batches(manifest, workers=workers, start=2), batches(manifest, start=2))
    assert torch.equal(state, torch.get_rng_state())


def test_resumed_batches_are_the_tail_of_an_unbroken_run(manifest: Manifest) -> None:
    assert same(batches(manifest, start=4), batches(manifest)[4:])


def test_seed_and_iteration_change_everything(manifest: Manifest) -> None:
    first, other = batches(manifest), batches(manifest, seed=4)
    assert not any(torch.equal(a.images, b.images) for a, b in zip(first, other, strict=True))
    assert not any(torch.equal(a.images, b.images) for a, b in zip(first[:3], first[3:], strict=True))


def test_same_whether_or_not_samples_fit_in_memory(manifest: Manifest, monkeypatch) -> None:
    kept = batches(manifest)
    monkeypatch.setattr(loader, "CACHE_BYTES", 48 * 96 * 4 * 2)
    reads = []
    read = Manifest.image
    monkeypatch.setattr(Manifest, "image", lambda self, entry: reads.append(entry) or read(self, entry))
    assert same(kept, batches(manifest))
    assert 12 < len(reads) < 24


def test_a_sample_in_memory_is_decoded_once(manifest: Manifest, monkeypatch) -> None:
    reads = []
    read = Manifest.image
    monkeypatch.setattr(Manifest, "image", lambda self, entry: reads.append(entry) or read(self, entry))
    batches(manifest)
    assert len(reads) == len(set(reads)) == 12


@pytest.mark.parametrize("batch_size", [4, 5, 30])
def test_every_epoch_shows_every_sample_once_in_a_new_order(batch_size: int) -> None:
    places = [index for iteration in range(12) for index in sample_order(0, iteration, batch_size, 12)]
    epochs = [places[start : start + 12] for start in range(0, len(places) - 11, 12)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
    assert epochs[0] != [index for iteration in range(3) for index in sample_order(1, iteration, 4, 12)]


def test_keys_are_unique_and_belong_to_the_sample(manifest: Manifest) -> None:
    keys = {sample_key(*numbers) for numbers in itertools.product(range(5), range(40), range(10))}
    assert len(keys) == 2000 and min(keys) >= 0 and max(keys) < 2**63
    assert batches(manifest)[2].keys.tolist() == [sample_key(3, 2, place) for place in range(4)]


def test_batch_that_the_ranks_cannot_share_is_refused_at_once(manifest: Manifest) -> None:
    settings = dict(batch_size=4, seed=0, start=0, stop=1, rank=0, world_size=3, workers=0)
    with pytest.raises(UserError, match="a batch of 4 cannot be shared by 3 processes"):
        training_batches(manifest, augment=AUGMENT, **settings)


@pytest.mark.parametrize("workers", [0, 1])
def test_vanished_image_is_one_sentence_also_from_a_worker(prepared, tmp_path, workers: int) -> None:
    manifest = Manifest.load(Path(shutil.copytree(prepared, tmp_path / "prepared")))
    manifest.split("train")[0].image.unlink()
    with pytest.raises(UserError) as caught:
        batches(manifest, workers=workers)
    assert "train_000.png could be read by prepare" in str(caught.value) and "\n" not in str(caught.value)


def test_batches_survive_the_way_to_a_spawned_worker(manifest: Manifest) -> None:
    made = loader._Batches(manifest, AUGMENT, 4, 3, range(4), 0)
    assert same([pickle.loads(pickle.dumps(made)).make(1)], [batches(manifest)[1]])


@pytest.fixture
def with_more(manifest: Manifest) -> Manifest:
    """The same data set with the images of val once more, without masks."""
    more = [
        entry._replace(split="unlabelled", mask=None, mask_sha256=None) for entry in manifest.split("val")
    ]
    return Manifest(manifest.folder, manifest.info, [*manifest.entries, *more], "other")


@pytest.mark.parametrize(("unlabelled", "places"), [(1, [3]), (2, [1, 3]), (3, [1, 2, 3])])
def test_unlabelled_images_are_spread_over_the_batch_and_ignored(
    with_more: Manifest, unlabelled: int, places: list[int]
) -> None:
    found = batches(with_more, unlabelled=unlabelled)
    for batch in found:
        without = [place for place in range(4) if (batch.labels[place] == 255).all()]
        assert without == places
        assert all(batch.images[place].float().std() > 1 for place in places)
    halves = [batches(with_more, unlabelled=unlabelled, rank=rank, world_size=2) for rank in (0, 1)]
    assert same(
        found, [Batch(*map(torch.cat, zip(*pair, strict=True))) for pair in zip(*halves, strict=True)]
    )
    assert same(found, batches(with_more, unlabelled=unlabelled, workers=1))


def test_each_kind_of_image_has_an_order_of_its_own(with_more: Manifest, tmp_path: Path) -> None:
    maker = loader._Batches(with_more, AUGMENT, 4, 3, range(4), 0, None, 2)
    chosen = [entry for iteration in range(6) for entry in maker._chosen(iteration)]
    known = [entry.name for entry in chosen if entry.mask is not None]
    others = [entry.name for entry in chosen if entry.mask is None]
    assert sorted(known) == sorted(entry.name for entry in with_more.split("train"))
    counts = {name: others.count(name) for name in others}
    assert len(others) == 12 and set(counts.values()) == {3}, "four images, three epochs"
    plain = loader._Batches(with_more, AUGMENT, 2, 3, range(2), 0)
    assert known == [entry.name for iteration in range(6) for entry in plain._chosen(iteration)]


def test_decoded_images_serve_beside_unlabelled_ones(with_more: Manifest, tmp_path: Path) -> None:
    decoded = open_decoded(with_more, tmp_path / "decoded", 1e9)
    assert same(batches(with_more, unlabelled=2), batches(with_more, unlabelled=2, decoded=decoded))


def test_without_unlabelled_images_they_cannot_be_asked_for(manifest: Manifest) -> None:
    with pytest.raises(UserError, match="has no split 'unlabelled'"):
        batches(manifest, unlabelled=1)
