from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from afdcd.data.manifest import Manifest
from afdcd.errors import UserError
from afdcd.losses.method import Context
from afdcd.losses.objective import build_objective
from afdcd.models.output import ChannelSpec
from afdcd.training.checkpoint import RunFolder
from afdcd.training.distributed import World
from pipeline import adapt, distill, paths, train_student, train_teacher
from pipeline.params import load
from pipeline.training import Parts, job_key

CIRKD = {
    "weights": {"mini_batch_pixel": 1.0},
    "temperature": 0.1,
    "pool": 1,
    "pixel_memory": 20,
    "region_memory": 5,
    "pixels_per_class": 3,
    "pixel_contrast": 12,
    "region_contrast": 6,
}
LONG = {"iterations": 60, "validate_every": 30}


@pytest.fixture
def params(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A tiny project as the working folder; returns its params, to be changed and written again."""
    monkeypatch.chdir(tmp_path)
    return tiny.write_project(tmp_path, root)


@pytest.fixture
def taught(params: dict[str, Any]) -> dict[str, Any]:
    """The project with a trained teacher and the recipes' first phases done."""
    train_teacher.main([])
    for recipe in tiny.RECIPES:
        adapt.main([recipe])
    return params


def write(params: dict[str, Any]) -> None:
    tiny.write_params(Path(), params)


def start(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.launch", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def output(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=240)[0]


def wait_for(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.005)


def weights(model: str) -> bytes:
    return (paths.trained(model) / "weights.safetensors").read_bytes()


def card(model: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((paths.trained(model) / "model.json").read_text())
    return values


def curve(model: str) -> list[dict[str, str]]:
    with paths.curve(model).open() as handle:
        return list(csv.DictReader(handle))


def checkpoints() -> list[Path]:
    return sorted(paths.RUNS.glob("*/last.safetensors"))


def test_teacher_control_and_distilled_student_leave_weights_card_and_curve(taught: dict[str, Any]) -> None:
    train_student.main(["tiny", "0"])
    distill.main(["tiny", "afdcd", "0"])
    for model in ("teacher", "tiny_alone_0", "tiny_afdcd_0"):
        facts = card(model)
        assert facts["classes"] == list(tiny.CLASSES) and facts["iterations"] == 8
        assert facts["iteration"] in (4, 8) and 0 < facts["val_miou"] <= 1
        rows = curve(model)
        assert [int(row["iteration"]) for row in rows] == list(range(1, 9))
        assert max(float(row["val_miou"]) for row in rows if row["val_miou"]) == facts["val_miou"]
    assert {"kd", "masked_feature", "weighted/omni_contrast"} <= curve("tiny_afdcd_0")[0].keys()
    assert "kd" not in curve("tiny_alone_0")[0]
    assert not list(paths.RUNS.iterdir())


def test_a_recipe_without_a_first_phase_costs_no_torch(params: dict[str, Any]) -> None:
    check = "import sys; from pipeline import adapt; adapt.main(['afdcd']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)
    assert json.loads((paths.adapted("afdcd") / "state.json").read_text()) == {"methods": []}


def test_the_seed_decides(params: dict[str, Any]) -> None:
    for seed in "01":
        train_student.main(["tiny", seed])
    assert weights("tiny_alone_0") != weights("tiny_alone_1")
    first = weights("tiny_alone_0")
    train_student.main(["tiny", "0"])
    assert weights("tiny_alone_0") == first


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


@pytest.mark.parametrize("resize", ["none", "teacher_to_student"])
def test_a_coarser_student_learns_from_resized_maps_or_is_refused(
    taught: dict[str, Any], resize: str
) -> None:
    """Af-DCD, KA and CIRKD: a generator, a first phase and a memory at stride 16 under a teacher of 8."""
    ka = {"p": 1, "q": 2, "stride": 1, "sparsity": 0, "first_phase_iterations": 2, "first_phase_lr": 0.1}
    methods = tiny.RECIPES["afdcd"] | {
        "ka": {"weights": {"feature_adaptation": 1.0, "affinity": 1.0}, **ka},
        "cirkd": CIRKD | {"weights": {"mini_batch_pixel": 1.0, "memory_pixel": 0.1, "memory_region": 0.1}},
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


def test_a_first_phase_learns_at_the_size_that_training_will_see(
    taught: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Size] = []

    def record(self: Any, teacher: nn.Module, batches: Any) -> None:
        seen.append(teacher(next(batches), stop="features").features[-1].shape[-2:])

    monkeypatch.setattr("afdcd.losses.ka.KA.prepare", record)
    ka = {"p": 1, "q": 2, "stride": 1, "sparsity": 0, "first_phase_iterations": 2, "first_phase_lr": 0.1}
    taught["students"]["tiny"] = tiny.MODEL | {"output_stride": 16}
    for resize in ("none", "teacher_to_student"):
        recipe = {"ka": {"weights": {"affinity": 1.0}, **ka}, "resize": resize}
        add_recipe(taught, f"ka_{resize}", recipe)
        write(taught)
        adapt.main([f"ka_{resize}"])
    assert seen == [(4, 8), (2, 4)]
    taught["students"]["fine"] = tiny.MODEL
    taught["train"]["students"] = ["tiny", "fine"]
    write(taught)
    with pytest.raises(UserError, match="needs students of one output_stride, not 8, 16"):
        adapt.main(["ka_teacher_to_student"])


def test_killed_in_the_middle_it_goes_on_bit_for_bit_with_other_workers(taught: dict[str, Any]) -> None:
    taught["train"]["schedule"] = tiny.SCHEDULE | LONG
    write(taught)
    distill.main(["tiny", "afdcd", "0"])
    expected, model = weights("tiny_afdcd_0"), paths.trained("tiny_afdcd_0")
    model.rename("unbroken")

    process = start("pipeline.distill", "tiny", "afdcd", "0")
    wait_for(lambda: checkpoints() or process.poll() is not None)
    process.kill()
    assert process.wait() == -signal.SIGKILL and not model.exists()
    taught["runtime"]["workers"] = 2
    write(taught)
    again = start("pipeline.distill", "tiny", "afdcd", "0")
    told = output(again)
    assert again.returncode == 0 and "going on from iteration" in told, told
    assert weights("tiny_afdcd_0") == expected
    assert [int(row["iteration"]) for row in curve("tiny_afdcd_0")] == list(range(1, 61))
    assert not checkpoints()


def test_sigterm_saves_and_says_so(params: dict[str, Any]) -> None:
    params["train"]["schedule"] = tiny.SCHEDULE | {"iterations": 2000, "validate_every": 2000}
    write(params)
    process = start("pipeline.train_student", "tiny", "0")
    wait_for(lambda: checkpoints() or process.poll() is not None)
    process.terminate()
    told = output(process)
    assert process.returncode == 1, told
    assert "error: stopped as asked after iteration" in told and "Traceback" not in told
    assert f"iteration {RunFolder.load(folder()).facts['iteration']} of" in told  # type: ignore[union-attr]


def folder() -> RunFolder:
    (file,) = checkpoints()
    name, _, key = file.parent.name.rpartition("-")
    return RunFolder(paths.RUNS, name, key)


def test_two_processes_train_as_one_does(taught: dict[str, Any]) -> None:
    """Real KD and Af-DCD on two gloo ranks through torchrun; ending with different weights would fail.

    Parts of two images give batch norm the same statistics in one process as in two, and without dropout
    the whole curve is that of one process.
    """
    taught["students"]["tiny"] = tiny.MODEL | {"dropout": 0.0, "projection_dropout": 0.0}
    taught["train"]["schedule"] = tiny.SCHEDULE | {"batch_size": 8}
    taught["train"]["practice"] = tiny.PRACTICE | {"micro_batch": 2}
    write(taught)
    distill.main(["tiny", "afdcd", "0"])
    alone = curve("tiny_afdcd_0")

    taught["runtime"]["processes"] = 2
    write(taught)
    process = start("pipeline.distill", "tiny", "afdcd", "0")
    told = output(process)
    assert process.returncode == 0, told
    assert told.count("8/8") == 1
    assert card("tiny_afdcd_0")["world_size"] == 2
    rows = curve("tiny_afdcd_0")
    assert len(rows) == len(alone) == 8
    for term in ("ce", "auxiliary", "kd", "masked_feature", "omni_contrast", "lr"):
        assert float(rows[0][term]) == pytest.approx(float(alone[0][term]), rel=1e-5)
        assert float(rows[-1][term]) == pytest.approx(float(alone[-1][term]), rel=1e-2)


def test_two_processes_tell_an_error_once(taught: dict[str, Any]) -> None:
    taught["runtime"]["processes"] = 2
    taught["train"]["practice"] = tiny.PRACTICE | {"micro_batch": 3}
    write(taught)
    process = start("pipeline.distill", "tiny", "kd", "0")
    told = output(process)
    assert process.returncode == 1
    assert told.count("is not divisible by 2 process(es) x train.practice.micro_batch 3 = 6") == 1
    assert told.startswith("error: ") and len(told.splitlines()) == 1, told


def test_batch_statistics_of_several_cpu_processes_are_refused(params: dict[str, Any]) -> None:
    params["runtime"]["processes"] = 2
    params["train"]["practice"] = tiny.PRACTICE | {"sync_bn": True}
    write(params)
    process = start("pipeline.train_student", "tiny", "0")
    told = output(process)
    assert process.returncode == 1 and told.count("sync_bn: true works on GPUs only") == 1, told
    assert told.startswith("error: ") and not paths.trained("tiny_alone_0").exists()


def test_a_recipes_own_batch_norm_is_shared_between_gpus_as_the_students() -> None:
    world = World(0, 2, torch.device("cpu"))
    channels = ChannelSpec((4, 4, 4, 4), 8, 3)
    for sync_bn, kind, other in (
        (True, nn.SyncBatchNorm, nn.BatchNorm2d),
        (False, nn.BatchNorm2d, nn.SyncBatchNorm),
    ):
        parts: Any = Parts(world, *[None] * 6, sync_bn)  # type: ignore[arg-type]
        memory = CIRKD | {"weights": {"memory_pixel": 1.0}}
        objective = build_objective({"cirkd": memory}, Context(channels, channels, 255, None))
        kinds = {type(module) for module in parts.shared(objective).modules()}
        assert kind in kinds and other not in kinds


def test_the_best_is_chosen_at_the_geometry_that_ships(
    taught: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    taught["deploy"]["export"] |= {"input_size": [16, 48], "fit": "letterbox"}
    write(taught)
    seen: list[tuple[Any, Any]] = []

    def record(*arguments: Any, size: Any, mode: Any, **others: Any) -> None:
        seen.append((size, mode))
        raise StoppedError

    monkeypatch.setattr("pipeline.training.Validation", record)
    for stage, given in ((train_teacher, []), (train_student, ["tiny", "0"]), (distill, ["tiny", "kd", "0"])):
        with pytest.raises(StoppedError):
            stage.main(given)
    taught["teacher"]["checkpoint"] = str(paths.trained("teacher") / "weights.safetensors")
    write(taught)
    with pytest.raises(StoppedError):
        train_teacher.main([])
    assert seen == [((16, 48), "letterbox")] * 4


def test_killing_the_launcher_ends_its_trainers(params: dict[str, Any]) -> None:
    params["train"]["schedule"] = tiny.SCHEDULE | {"iterations": 5000, "validate_every": 5000}
    params["runtime"]["processes"] = 2
    write(params)
    process = start("pipeline.train_student", "tiny", "0")
    wait_for(lambda: checkpoints() or process.poll() is not None)
    trainers = children(process.pid)
    assert len(trainers) >= 2
    process.kill()
    process.wait()
    wait_for(lambda: not any(alive(pid) for pid in trainers))


def children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def key(params: dict[str, Any]) -> str:
    write(params)
    return job_key(distill.make_job(load(), "tiny", "kd", 0), Manifest.load(paths.PREPARED))


def test_the_key_holds_all_that_the_stage_depends_on_and_no_more(taught: dict[str, Any]) -> None:
    keys = [key(taught)]
    taught["runtime"] |= {"workers": 3, "threads": 2, "processes": 2}
    taught["distill"]["recipes"]["afdcd"]["kd"]["temperature"] = 9.0
    assert key(taught) == keys[0]

    teacher = paths.trained("teacher") / "weights.safetensors"
    teacher.write_bytes(teacher.read_bytes()[:-1] + b"x")
    keys.append(key(taught))
    (paths.FINGERPRINTS / "distill/kd.json").write_text('{"changed": 1}')
    keys.append(key(taught))
    (paths.adapted("kd") / "state.json").write_text('{"methods": ["kd"]}')
    keys.append(key(taught))
    taught["train"]["practice"] = tiny.PRACTICE | {"precision": "bf16"}
    keys.append(key(taught))
    taught["distill"]["recipes"]["kd"]["kd"] = tiny.RECIPES["kd"]["kd"] | {"temperature": 3.0}
    keys.append(key(taught))
    taught["distill"]["recipes"]["kd"]["schedule"] = {"iterations": 9}
    keys.append(key(taught))
    taught["deploy"]["export"]["input_size"] = [48, 64]
    keys.append(key(taught))
    taught["deploy"]["export"]["fit"] = "letterbox"
    keys.append(key(taught))
    assert len(set(keys)) == len(keys)


def test_a_truncated_checkpoint_is_one_sentence(params: dict[str, Any]) -> None:
    run = distill_free_folder(params)
    run.path.mkdir(parents=True)
    run.file.write_bytes(b"\x10")
    process = start("pipeline.train_student", "tiny", "0")
    told = output(process)
    assert process.returncode == 1
    assert told.startswith("error: the checkpoint .runs/tiny_alone_0-") and "delete the folder" in told
    assert "Traceback" not in told and not paths.trained("tiny_alone_0").exists()


def distill_free_folder(params: dict[str, Any]) -> RunFolder:
    """The run folder of the control, found by stopping a run before its first iteration."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.training.Training", stop)
        with pytest.raises(StoppedError) as stopped:
            train_student.main(["tiny", "0"])
    found: RunFolder = stopped.value.args[0]
    found.remove()
    return found


class StoppedError(Exception):
    pass


def stop(*arguments: Any, folder: RunFolder, **others: Any) -> None:
    raise StoppedError(folder)


def test_a_run_that_another_process_holds_is_refused(
    params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("afdcd.training.ownership.PATIENCE", 0.2)
    run = distill_free_folder(params)
    with run.owned(), pytest.raises(UserError, match="another process is training"):
        train_student.main(["tiny", "0"])


def test_a_teacher_given_as_a_checkpoint_is_taken_over(params: dict[str, Any], tmp_path: Path) -> None:
    train_teacher.main([])
    given, before = tmp_path / "given", card("teacher")
    paths.trained("teacher").rename(given)
    params["teacher"]["checkpoint"] = str(given / "weights.safetensors")
    write(params)
    train_teacher.main([])
    assert weights("teacher") == (given / "weights.safetensors").read_bytes()
    assert card("teacher")["val_miou"] == pytest.approx(before["val_miou"])
    assert card("teacher")["iterations"] == 0 and curve("teacher") == []


def test_a_teacher_checkpoint_of_other_classes_is_refused(params: dict[str, Any]) -> None:
    train_teacher.main([])
    paths.trained("teacher").rename("given")
    info = json.loads((paths.PREPARED / "dataset.json").read_text())
    info["classes"].append("tree")
    for field in ("class_pixels", "class_image_pixels"):
        info[field] = {split: [*counts, 1] for split, counts in info[field].items()}
    info["palette"].append([0, 1, 0])
    (paths.PREPARED / "dataset.json").write_text(json.dumps(info))
    params["teacher"]["checkpoint"] = "given"
    write(params)
    with pytest.raises(UserError, match="has 3 classes, the data have 4"):
        train_teacher.main([])
    Path("given").rename(paths.trained("teacher"))
    adapt.main(["kd"])
    with pytest.raises(UserError, match="knows other classes"):
        distill.main(["tiny", "kd", "0"])


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


def test_adapt_refuses_an_unknown_recipe(params: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="no recipe 'kdd'"):
        adapt.main(["kdd"])
