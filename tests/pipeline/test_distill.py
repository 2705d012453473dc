from __future__ import annotations

import json
from typing import Any

import pytest
import tiny
from trainer import card, checkpoints, curve, weights, write

from afdcd.errors import UserError
from pipeline import adapt, distill, paths, train_student


def add_recipe(params: dict[str, Any], name: str, recipe: dict[str, Any]) -> None:
    """One more recipe, with a fingerprint as probe writes it."""
    params["distill"]["run"].append(name)
    params["distill"]["recipes"][name] = recipe
    for stage in ("adapt", "distill"):
        (paths.FINGERPRINTS / stage / f"{name}.json").write_text("{}")


def test_a_recipe_without_methods_is_the_control_at_its_own_length(params: dict[str, Any]) -> None:
    """There is no teacher at all, so that none can be read."""
    no_weight = tiny.RECIPES["kd"]["kd"] | {"weights": {"kd": 0.0}}
    add_recipe(params, "short", {"schedule": {"iterations": 5, "validate_every": 2}})
    add_recipe(params, "weightless", {"schedule": {"iterations": 5, "validate_every": 2}, "kd": no_weight})
    write(params)
    for recipe in ("short", "weightless"):
        adapt.main([recipe])
        distill.main(["tiny", recipe, "0"])
    assert [row["iteration"] for row in curve("tiny_short_0") if row["val_miou"]] == ["2", "4", "5"]
    assert card("tiny_short_0")["iterations"] == 5

    params["train"]["schedule"] |= {"iterations": 5, "validate_every": 2}
    write(params)
    train_student.main(["tiny", "0"])
    assert weights("tiny_alone_0") == weights("tiny_short_0") == weights("tiny_weightless_0")
    assert not paths.trained("teacher").exists()


def test_a_recipe_may_train_longer_than_the_others(taught: dict[str, Any]) -> None:
    add_recipe(taught, "longer", tiny.RECIPES["kd"] | {"schedule": {"iterations": 11}})
    write(taught)
    adapt.main(["longer"])
    distill.main(["tiny", "longer", "0"])
    rows = curve("tiny_longer_0")
    assert [row["iteration"] for row in rows if row["val_miou"]] == ["4", "8", "11"]
    assert rows[-1]["kd"] and card("tiny_longer_0")["iterations"] == 11


def test_unlabelled_images_teach_through_the_teacher(taught: dict[str, Any]) -> None:
    add_recipe(taught, "more", tiny.RECIPES["kd"] | {"unlabelled": 0.5})
    write(taught)
    adapt.main(["more"])
    with pytest.raises(UserError, match="has no split 'unlabelled'"):
        distill.main(["tiny", "more", "0"])
    rows = paths.PREPARED / "manifest.jsonl"
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    more = [row | {"split": "unlabelled", "mask": None, "mask_sha256": None} for row in found[:6]]
    rows.write_text("".join(json.dumps(row) + "\n" for row in [*found, *more]))
    distill.main(["tiny", "more", "0"])
    last = curve("tiny_more_0")[-1]
    assert 0 < float(last["kd"]) < 1e3 and 0 < float(last["ce"]) < 1e3
    distill.main(["tiny", "kd", "0"])
    assert weights("tiny_more_0") != weights("tiny_kd_0")


@pytest.mark.parametrize("resize", ["none", "teacher_to_student"])
def test_a_coarser_student_learns_from_resized_maps_or_is_refused(
    taught: dict[str, Any], resize: str
) -> None:
    """Af-DCD, KA and CIRKD: a generator, a first phase and a memory at stride 16 under a teacher of 8."""
    ka = {"p": 1, "q": 2, "stride": 1, "sparsity": 0, "first_phase_iterations": 2, "first_phase_lr": 0.1}
    methods = tiny.RECIPES["afdcd"] | {
        "ka": {"weights": {"feature_adaptation": 1.0, "affinity": 1.0}, **ka},
        "cirkd": tiny.CIRKD
        | {"weights": {"mini_batch_pixel": 1.0, "memory_pixel": 0.1, "memory_region": 0.1}},
    }
    taught["students"]["tiny"] = tiny.MODEL | {"output_stride": 16}
    add_recipe(taught, "mixed", methods | {"resize": resize})
    write(taught)
    adapt.main(["mixed"])
    if resize == "none":
        with pytest.raises(UserError, match=r"student's map is .*2, 4\), the teacher's .*4, 8\).*resize:"):
            distill.main(["tiny", "mixed", "0"])
        return
    distill.main(["tiny", "mixed", "0"])
    last = curve("tiny_mixed_0")[-1]
    terms = ("kd", "masked_feature", "omni_contrast", "feature_adaptation", "memory_pixel")
    assert all(0 < float(last[term]) < 1e6 for term in terms)


def test_a_crop_smaller_than_a_contrast_patch_is_refused_before_the_work(taught: dict[str, Any]) -> None:
    taught["train"]["practice"]["augment"]["crop"] = [8, 8]
    write(taught)
    with pytest.raises(UserError, match="patch"):
        distill.main(["tiny", "afdcd", "0"])
    assert not checkpoints()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["tinny", "kd", "0"], "no student 'tinny'; did you mean 'tiny'"),
        (["tiny", "afdc", "0"], "no recipe 'afdc'; did you mean 'afdcd'"),
        (["tiny", "kd", "zero"], "SEED must be a whole number"),
        (["tiny", "kd"], "3 argument"),
    ],
)
def test_wrong_arguments(params: dict[str, Any], given: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        distill.main(given)


def test_a_missing_teacher_names_the_remedy(params: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="models/trained/teacher/weights.safetensors is missing; .*dvc repro"):
        distill.main(["tiny", "kd", "0"])
