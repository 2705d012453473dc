from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from afdcd.errors import UserError
from pipeline import checks, params

Edited = Callable[[dict[str, Any]], str]


def complaints(text: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        checks.check(params.parse(text))
    return str(caught.value).splitlines()


def complaint(text: str) -> str:
    lines = complaints(text)
    assert len(lines) == 1, lines
    return lines[0]


def test_the_committed_params_pass(project: Path, params_text: str) -> None:
    checks.check(params.parse(params_text))


def test_produced_lists_every_network_that_runs(params_text: str) -> None:
    ids = checks.produced(params.parse(params_text))
    assert ids[0] == "teacher" and "narrow_r18_alone_0" in ids and "narrow_r18_afdcd_0" in ids


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (
            "train.students",
            ["narrow_r19"],
            "train.students: unknown name 'narrow_r19'; did you mean 'narrow_r18'?",
        ),
        ("distill.run", ["kd", "afdc"], "distill.run: unknown name 'afdc'; did you mean 'afdcd'?"),
        ("distill.run", ["kd", "kd", "afdcd"], "distill.run: 'kd' stands twice"),
        ("train.seeds", [0, 0], "train.seeds: 0 stands twice"),
        ("deploy.targets", ["ort_cpu_fp23"], "did you mean 'ort_cpu_fp32'?"),
        (
            "deploy.models",
            ["teacher", "narrow_r18_afdcd_1"],
            "deploy.models: unknown name 'narrow_r18_afdcd_1'",
        ),
        ("deploy.release", ["narrow_r18_ka_0"], "deploy.release: unknown name 'narrow_r18_ka_0'"),
    ],
)
def test_lists_hold_known_names_once(
    project: Path, edited: Edited, key: str, value: list[Any], said: str
) -> None:
    assert any(said in line for line in complaints(edited({key: value})))


@pytest.mark.parametrize("name", ["narrow-r18", "1narrow", "nar row", "a/b", "ü"])
def test_names_that_would_break_paths_or_stage_names(project: Path, params_text: str, name: str) -> None:
    text = params_text.replace("narrow_r18", name)
    assert f"students.{name}: {name!r} is no possible name" in complaints(text)[0]


def test_alone_is_reserved(project: Path, params_text: str) -> None:
    text = params_text.replace("\n    kd:\n      kd:", "\n    alone:\n      kd:").replace(
        "  - kd\n", "  - alone\n"
    )
    assert "'alone' means a student without a teacher" in complaints(text)[0]


def test_two_networks_of_one_id_are_refused(project: Path, edited: Edited, params_text: str) -> None:
    found = params.parse(params_text).model_dump(mode="json")
    student, recipe = found["students"]["narrow_r18"], found["distill"]["recipes"]["kd"]
    text = edited(
        {
            "students": {"a": student, "a_b": student},
            "train.students": ["a", "a_b"],
            "distill.recipes": {"b_c": recipe, "c": recipe},
            "distill.run": ["b_c", "c"],
            "deploy.models": ["teacher"],
            "deploy.release": [],
        }
    )
    assert "the same id 'a_b_c_0'" in complaint(text)


def test_options_of_methods_are_those_of_their_constructors(
    project: Path, edited: Edited, params_text: str
) -> None:
    text = params_text.replace("temperature: 1.0", "temprature: 1.0", 1)
    line = complaint(text)
    assert "distill.recipes.kd.kd" in line and "'temprature'" in line and "'temperature'" in line
    line = complaint(edited({"distill.recipes.kd.kd.weights": {"kdd": 1.0}}))
    assert "distill.recipes.kd.kd.weights" in line and "'kdd'" in line and "kd" in line
    line = complaint(edited({"distill.recipes.kd.kd.temperature": 0}))
    assert "distill.recipes.kd.kd.temperature" in line and "greater than 0" in line
    line = complaint(edited({"distill.recipes.kd": {"kdd": {"weights": {}}}}))
    assert "'kdd'" in line and "did you mean 'kd'?" in line


def test_reserved_keys_of_recipes(project: Path, edited: Edited) -> None:
    schedule = {"schedule": {"iterations": 60}}
    checks.check(params.parse(edited({"distill.recipes.kd": schedule})))
    checks.check(params.parse(edited({"distill.recipes.kd": {}})))
    checks.check(params.parse(edited({"distill.recipes.afdcd.schedule": {"iterations": 60}})))
    more = {"distill.recipes.kd.unlabelled": 0.5}
    checks.check(params.parse(edited(more | {"dataset.unlabelled": ["more"]})))
    line = complaint(edited(more))
    assert "distill.recipes.kd.unlabelled: 0.5 needs images without labels; name folders" in line
    line = complaint(edited({"distill.recipes.kd.unlabelled": 0.01, "dataset.unlabelled": ["more"]}))
    assert "unlabelled: 0.01 of a batch of 8 leaves none of one kind" in line
    line = complaint(edited({"distill.recipes.kd": {"schedule": {"iterations": 0}}}))
    assert "distill.recipes.kd.schedule.iterations = 0" in line
    assert "distill.recipes.kd.kd must hold" in complaint(edited({"distill.recipes.kd": {"kd": 2.0}}))


OTHER_STRIDES = {"students.narrow_r18.output_stride": 16}


def test_maps_of_different_sizes_need_resize(project: Path, edited: Edited) -> None:
    for line in complaints(edited(OTHER_STRIDES)):
        assert "compares maps of one size, but students.narrow_r18 has output_stride 16 and the " in line
        assert "teacher's maps 8; set distill.recipes." in line and "resize: teacher_to_student" in line
    resize = {f"distill.recipes.{name}.resize": "teacher_to_student" for name in ("kd", "afdcd")}
    pool = {"distill.recipes.afdcd.afdcd.pool": 1}
    checks.check(params.parse(edited(OTHER_STRIDES | resize | pool)))
    no_weight = {"distill.recipes.kd.kd.weights": {"kd": 0.0}, "distill.run": ["kd"]}
    rest = {"deploy.models": ["teacher"], "deploy.release": []}
    checks.check(params.parse(edited(OTHER_STRIDES | no_weight | rest)))
    line = complaint(edited({"distill.recipes.kd.resize": "yes"}))
    assert "distill.recipes.kd.resize = 'yes': valid: none, teacher_to_student" in line


@pytest.mark.parametrize(
    ("student", "stride", "resize", "said"),
    [
        (8, 1, "none", None),
        (8, 1, "teacher_to_student", None),
        (16, 2, "none", None),
        (16, 1, "teacher_to_student", None),
        (16, 1, "none", r"teacher's maps 8; set distill.recipes.kd.ka.stride: 2, or set distill"),
        (8, 2, "none", "teacher's maps 16; set distill.recipes.kd.ka.stride: 1"),
        (16, 2, "teacher_to_student", "teacher's maps 32; set distill.recipes.kd.ka.stride: 1"),
    ],
)
def test_kas_encoder_has_a_stride_of_its_own(
    project: Path, edited: Edited, student: int, stride: int, resize: str, said: str | None
) -> None:
    ka = {"p": 1, "q": 2, "sparsity": 0, "first_phase_iterations": 1, "first_phase_lr": 0.1}
    recipe = {"ka": {"weights": {"affinity": 1.0}, "stride": stride, **ka}, "resize": resize}
    edits = {
        "students.narrow_r18.output_stride": student,
        "distill.recipes": {"kd": recipe},
        "distill.run": ["kd"],
        "deploy.models": ["teacher"],
        "deploy.release": [],
    }
    if said is None:
        checks.check(params.parse(edited(edits)))
    else:
        assert said in complaint(edited(edits))


def test_one_first_phase_serves_students_of_one_stride(
    project: Path, edited: Edited, params_text: str
) -> None:
    student = params.parse(params_text).model_dump(mode="json")["students"]["narrow_r18"]
    ka = {"p": 1, "q": 2, "stride": 1, "sparsity": 0, "first_phase_iterations": 1, "first_phase_lr": 0.1}
    recipe = {"ka": {"weights": {"affinity": 1.0}, **ka}, "resize": "teacher_to_student"}
    edits = {
        "students": {"fine": student, "coarse": student | {"output_stride": 16}},
        "train.students": ["fine", "coarse"],
        "distill.recipes": {"ka": recipe},
        "distill.run": ["ka"],
        "deploy.models": ["teacher"],
        "deploy.release": [],
    }
    assert "distill.recipes.ka.resize: one first phase serves all" in complaint(edited(edits))


def test_a_recipe_that_does_not_run_may_hold_anything(project: Path, edited: Edited) -> None:
    checks.check(params.parse(edited({"distill.recipes.later": {"planned": {"weights": {}}}})))


def test_options_of_sources(project: Path, edited: Edited) -> None:
    line = complaint(edited({"dataset.options.diffculty": 0.5}))
    assert "dataset.options" in line and "did you mean 'difficulty'?" in line
    assert "did you mean 'streets'?" in complaint(edited({"dataset.name": "street"}))
    assert "the seed stands at dataset.seed" in complaint(edited({"dataset.options.seed": 3}))


def test_a_missing_data_root(project: Path, edited: Edited) -> None:
    line = complaint(
        edited(
            {
                "dataset.name": "camvid",
                "dataset.options": {"partial": False},
                "dataset.root": "data/raw/camvid",
            }
        )
    )
    assert "dataset.root: 'data/raw/camvid' does not exist" in line and "set dataset.root" in line
    assert "place the images there as images/{train,val,test} and masks/{train,val,test}" in line


def test_a_missing_root_of_a_set_that_is_rendered(project: Path, edited: Edited) -> None:
    line = complaint(edited({"dataset.root": "nowhere"}))
    assert line.endswith("make that folder; streets renders its images and reads none")


def test_a_missing_root_of_a_set_behind_a_login(project: Path, edited: Edited) -> None:
    options = {"holdout": 300, "masks": "label_ids", "partial": False}
    line = complaint(
        edited({"dataset.name": "cityscapes", "dataset.options": options, "dataset.root": "nowhere"})
    )
    assert "dataset.root: 'nowhere' does not exist" in line
    assert (
        "log in at cityscapes-dataset.com, get leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip"
        in line
    )


def test_backbones_and_files(project: Path, edited: Edited) -> None:
    assert "did you mean 'resnet18'?" in complaint(edited({"teacher.model.backbone": "resent18"}))
    assert "teacher.model.pretrained: 'r18.pth'" in complaint(edited({"teacher.model.pretrained": "r18.pth"}))
    assert "teacher.checkpoint: 'gone'" in complaint(edited({"teacher.checkpoint": "gone"}))


def test_batches_divide_into_processes_and_micro_batches(project: Path, edited: Edited) -> None:
    text = edited({"train.practice.micro_batch": 3, "runtime.processes": 2, "train.schedule.batch_size": 8})
    first, second = complaints(text)
    assert first.startswith("params.yaml: train.schedule.batch_size: 8 is not divisible by ")
    assert first.endswith("2 process(es) x micro_batch 3; take 6 or 12")
    assert second.startswith("params.yaml: teacher.schedule.batch_size: 8")
    line = complaint(edited({"runtime.processes": 16, "teacher.schedule.batch_size": 16}))
    assert line.endswith("8 is not divisible by 16 process(es); take 16")


@pytest.mark.parametrize(
    ("crop", "pool", "patch", "fits"),
    [
        ([96, 192], 4, 3, True),
        ([95, 192], 4, 3, True),
        ([88, 192], 4, 3, False),
        ([96, 192], 4, 4, False),
        ([360, 360], 1, 4, True),
        ([24, 24], 1, 4, False),
        ([25, 25], 1, 4, True),
    ],
)
def test_a_crop_holds_at_least_one_contrast_patch(
    project: Path, edited: Edited, crop: list[int], pool: int, patch: int, fits: bool
) -> None:
    method = "distill.recipes.afdcd.afdcd"
    text = edited(
        {"train.practice.augment.crop": crop, f"{method}.pool": pool, f"{method}.patch_size": patch}
    )
    if fits:
        checks.check(params.parse(text))
    else:
        line = complaint(text)
        assert f"{crop[0]}x{crop[1]} is smaller than one contrast patch" in line
        least = int(line.rpartition("take at least ")[2].split("x")[0])
        checks.check(
            params.parse(
                edited(
                    {
                        "train.practice.augment.crop": [least, least],
                        f"{method}.pool": pool,
                        f"{method}.patch_size": patch,
                    }
                )
            )
        )


def test_weighted_distillation_needs_class_weights(project: Path, edited: Edited) -> None:
    lines = complaints(edited({"train.practice.class_weights": "none"}))
    assert all("class_weighted: true is not possible" in line for line in lines)


def test_gates_name_known_targets_and_find_what_they_compare_with(project: Path, edited: Edited) -> None:
    line = complaint(edited({"gates.max_p50_ms": {"ort_cpu_fp23": 1.0}}))
    assert (
        line == "params.yaml: gates.max_p50_ms: unknown target 'ort_cpu_fp23'; did you mean 'ort_cpu_fp32'?"
    )
    assert "no limit for int8, the precision of ort_cpu_int8" in complaint(
        edited({"gates.max_drop": {"fp32": 0.1}})
    )
    for gate in ("min_agreement", "max_relative_error"):
        line = complaint(edited({f"gates.{gate}": {"fp32": 0.1}}))
        assert line.startswith(f"params.yaml: gates.{gate}: no limit for int8, the precision of ort_cpu_int8")
    models = ["narrow_r18_alone_0", "narrow_r18_afdcd_0"]
    assert "deploy.models lacks 'teacher'" in complaint(edited({"deploy.models": models}))
    checks.check(
        params.parse(
            edited(
                {"deploy.models": models, "gates.min_retention": None, "gates.min_speedup_over_teacher": None}
            )
        )
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch": [4, 2]}, "deploy.export.batch: 2 is less than 4"),
        (
            {"dynamic": {"height": [64, 512], "width": [200, 512], "multiple": 8}},
            "deploy.export.dynamic.width: 200..512 in steps of 8 leaves out 192",
        ),
        (
            {"dynamic": {"height": [90, 512], "width": [64, 512], "multiple": 8}},
            "deploy.export.dynamic.height: 90..512 does not start and end at multiples",
        ),
        (
            {"dynamic": {"height": [96, 96], "width": [64, 512], "multiples": 8}},
            "unknown key 'multiples'; did you mean 'multiple'?",
        ),
    ],
)
def test_dynamic_sizes_hold_the_input_size(
    project: Path, edited: Edited, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError) as caught:
        checks.check(params.parse(edited({f"deploy.export.{key}": value for key, value in changes.items()})))
    assert said in str(caught.value)
    good = {"height": [64, 512], "width": [192, 192], "multiple": 8}
    checks.check(params.parse(edited({"deploy.export.batch": [1, 4], "deploy.export.dynamic": good})))


def test_a_tensorrt_target_without_a_gpu(
    project: Path, edited: Edited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.sessions.capability.nvidia_driver", lambda: False)
    line = complaint(edited({"deploy.targets": ["ort_cpu_fp32", "trt_fp16"]}))
    assert "trt_fp16" in line and "NVIDIA GPU" in line and "deploy.targets" in line


def test_a_target_elsewhere_is_refused(project: Path, edited: Edited) -> None:
    line = complaint(edited({"deploy.specs.ort_cpu_fp32.where": "jetson"}))
    assert "ort_cpu_fp32 is measured on 'jetson'" in line and "move it to deploy.elsewhere" in line


def test_an_unknown_backend(project: Path, edited: Edited) -> None:
    assert "did you mean 'onnxruntime'?" in complaint(
        edited({"deploy.specs.ort_cpu_fp32.backend": "onnxruntme"})
    )


def test_an_unknown_head(project: Path, edited: Edited) -> None:
    line = complaint(edited({"teacher.model.head": "deeplab"}))
    assert line == "params.yaml: teacher.model.head: unknown head 'deeplab'; did you mean 'deeplabv3'?"


@pytest.mark.parametrize(
    ("gpus", "driver", "edits", "said"),
    [
        (0, False, {"runtime.device": "cuda"}, "runtime.device: cuda is not possible"),
        (0, True, {"runtime.device": "cuda"}, None),
        (2, True, {"runtime.device": "cuda"}, None),
        (2, True, {"runtime.processes": 4}, "runtime.processes: 4 is not possible, "),
        (2, True, {"runtime.processes": 4, "runtime.device": "cpu"}, None),
        (0, False, {"runtime.processes": 4}, None),
        (0, False, {"runtime.processes": 2, "train.practice.sync_bn": True}, "sync_bn: true works on GPUs"),
        (2, True, {"runtime.processes": 2, "train.practice.sync_bn": True}, None),
        (
            2,
            True,
            {"runtime.processes": 2, "train.practice.sync_bn": True, "runtime.device": "cpu"},
            "sync_bn: true works on GPUs",
        ),
        (0, False, {"train.practice.sync_bn": True}, None),
        (0, False, {"runtime.contrast": "triton"}, "runtime.contrast: triton needs a GPU"),
        (2, True, {"runtime.contrast": "triton", "runtime.device": "cpu"}, "triton needs a GPU"),
        (2, True, {"runtime.contrast": "triton"}, None),
    ],
)
def test_device_and_processes_must_be_there(
    project: Path,
    edited: Edited,
    monkeypatch: pytest.MonkeyPatch,
    gpus: int,
    driver: bool,
    edits: dict[str, Any],
    said: str | None,
) -> None:
    monkeypatch.setattr("pipeline.checks.count_gpus", lambda environment: gpus)
    monkeypatch.setattr("pipeline.checks.nvidia_driver", lambda: driver)
    text = edited(edits)
    if said is None:
        checks.check(params.parse(text))
    else:
        assert said in complaint(text)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("deploy.export.opset", 3, "must be greater than or equal to 18"),
        ("deploy.export.opset", 25, "must be less than or equal to 24"),
        ("deploy.quantize.candidates", [], "must have at least 1 item"),
        ("train.seeds", [], "must have at least 1 item"),
    ],
)
def test_values_that_would_fail_after_training(edited: Edited, key: str, value: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        params.parse(edited({key: value}))
    assert str(caught.value) == f"params.yaml: {key}: {value!r} is not possible; it {said}"


def test_both_onnxruntimes_together(project: Path, params_text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.checks._installed", lambda package: True)
    assert "onnxruntime and onnxruntime-gpu are both installed" in complaint(params_text)
