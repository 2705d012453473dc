from __future__ import annotations

import functools
import shlex
from pathlib import Path

import pytest

from afdcd.errors import UserError
from afdcd.losses.recipe import check_recipe
from pipeline import configure, params, recipes

DATASETS = ("streets", "camvid", "folder", "cityscapes", "voc", "ade20k", "coco_stuff", "coco_stuff_182")
SCHEDULES = ("default", "smoke", "paper", "ka", "apd")

RELEASED = {
    "cityscapes": (1.0, 2e-6, 0.005, (512, 1024), 40000),
    "voc": (1.0, 1e-6, 0.005, (512, 512), 40000),
    "camvid": (1.0, 8e-6, 0.01, (360, 360), 40000),
    "ade20k": (0.5, 1e-6, 0.04, (512, 512), 40000),
    "coco_stuff": (0.5, 5e-6, 0.005, (512, 512), 80000),
    "coco_stuff_182": (0.5, 5e-6, 0.005, (512, 512), 80000),
}
"""Weights of KD, masked feature term and contrast, crop, iterations: the scripts that Af-DCD released."""


@pytest.fixture(autouse=True)
def composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A composition is a function of its overrides; half a second each, many of them the default."""
    monkeypatch.setattr(configure, "compose", lambda given, conf=configure.CONF: COMPOSED(tuple(given), conf))


@pytest.fixture
def target(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a composition goes; presets are read from the project."""
    monkeypatch.chdir(root)
    return tmp_path / "params.yaml"


COMPOSED = functools.cache(lambda given, conf, compose=configure.compose: compose(list(given), conf))


def names(kind: str, root: Path) -> list[str]:
    return sorted(path.stem for path in (root / "conf" / kind).glob("*.yaml"))


def test_every_dataset_preset_is_composed_here(root: Path) -> None:
    assert names("dataset", root) == sorted(DATASETS)


def test_the_committed_params_are_the_composed_default(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    text = (root / "params.yaml").read_text(encoding="utf-8")
    parts = configure.split(text)
    assert parts is not None and parts[0] == [], "params.yaml was composed with overrides, or by hand"
    configure.check(root / "params.yaml")


def composes(*overrides: str) -> params.Params:
    """The composition, whole, and such that nothing but the data is missing for a run."""
    composed = configure.compose(list(overrides))
    assert "preset" not in composed.body and "${" not in composed.body
    found = params.parse(composed.body)
    assert list(recipes.complaints(found)) == []
    return found


def runs(dataset: str, schedule: str, pair: str) -> bool:
    """Whether a combination is claimed: stages at stride 16 or 32 leave smoke's tiny pictures no patch."""
    tiny = dataset in ("streets", "folder") and schedule == "smoke"
    return not (
        tiny and pair not in ("narrow_r18", "r101_r18", "r101_mbv2", "r101_psp_r18", "psp_r101_psp_r18")
    )


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_schedule_composes_for_every_dataset(
    dataset: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    assert names("schedule", root) == sorted(SCHEDULES)
    for number, schedule in enumerate(SCHEDULES):
        if (number + DATASETS.index(dataset)) % 2:
            continue  # test_all_combinations_compose takes the others
        hardware = names("hardware", root)[number % len(names("hardware", root))]
        found = composes(f"dataset={dataset}", f"schedule={schedule}", f"hardware={hardware}")
        assert found.dataset.name == dataset.removesuffix("_182")
        assert found.dataset.options.get("unused", False) == dataset.endswith("_182")


@pytest.mark.parametrize("dataset", ["camvid", "cityscapes"])
def test_every_pair_composes(dataset: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    for pair in names("pair", root):
        recipe = "[ka]" if pair.endswith("_ka") else "[kd,afdcd]"
        found = composes(f"dataset={dataset}", "schedule=paper", f"pair={pair}", f"recipe={recipe}")
        for network in (found.teacher.model, *found.students.values()):
            # ImageNet's weights of timm expect red, green, blue; a released teacher's are told by its format.
            assert network.normalisation.order == "rgb" and network.normalisation.std[0] == 58.395


@pytest.mark.slow
@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_all_combinations_compose(
    dataset: str, schedule: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    """A third of the pairs each, so that any two presets of different groups meet."""
    first = DATASETS.index(dataset) + SCHEDULES.index(schedule)
    for number, pair in enumerate(names("pair", root)):
        if (first + number) % 3:
            continue
        hardware = names("hardware", root)[number % len(names("hardware", root))]
        recipe = "[ka]" if pair.endswith("_ka") else "[kd,afdcd]"
        given = [f"dataset={dataset}", f"schedule={schedule}", f"pair={pair}", f"hardware={hardware}"]
        if runs(dataset, schedule, pair):
            composes(*given, f"recipe={recipe}")


@pytest.mark.parametrize("dataset", RELEASED)
def test_the_papers_numbers_come_with_the_dataset(
    dataset: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    kd, masked, contrast, crop, iterations = RELEASED[dataset]
    found = composes(f"dataset={dataset}", "pair=r101_r18", "recipe=afdcd", "schedule=paper", "hardware=cuda")
    recipe = found.distill.recipes["afdcd"]
    assert recipe["kd"]["weights"] == {"kd": kd} and recipe["kd"]["temperature"] == 1.0
    assert recipe["afdcd"]["weights"] == {"masked_feature": masked, "omni_contrast": contrast}
    constants = {key: recipe["afdcd"][key] for key in ("mask_ratio", "groups", "temperature", "patch_size")}
    assert constants == {"mask_ratio": 0.75, "groups": 16, "temperature": 0.07, "patch_size": 4}
    assert found.train.practice.augment.crop == crop
    assert found.train.schedule.iterations == found.teacher.schedule.iterations == iterations
    assert found.train.schedule.optimiser.clip_adapters == 15.0 and found.train.schedule.batch_size == 16


def test_kas_and_apds_own_settings(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    ka = composes("dataset=cityscapes", "pair=r50_mbv2_ka", "recipe=ka", "schedule=ka")
    optimiser = ka.train.schedule.optimiser
    assert (ka.train.schedule.iterations, optimiser.lr, optimiser.weight_decay) == (90000, 0.007, 4e-5)
    assert (ka.train.schedule.batch_size, optimiser.momentum, optimiser.poly_power) == (16, 0.9, 0.9)
    assert list(ka.distill.recipes["ka"]) == ["ka"]
    method = ka.distill.recipes["ka"]["ka"]
    assert (method["stride"], method["p"], method["q"], method["sparsity"]) == (2, 1.0, 2.0, 1e-7)
    assert method["weights"]["affinity"] == 1.0 and method["first_phase_lr"] == 0.1
    # One epoch: of Cityscapes here, of VOC by itself.
    assert method["first_phase_iterations"] == 2975 // 16 + 1
    voc = composes("dataset=voc", "pair=r50_mbv2_ka", "recipe=ka", "schedule=ka")
    assert voc.train.schedule.iterations == 30000
    assert voc.distill.recipes["ka"]["ka"]["first_phase_iterations"] == 10582 // 16 + 1
    assert ka.students["mbv2_16"].output_stride == 16
    apd = composes("dataset=ade20k", "pair=psp_r101_psp_r18", "recipe=apd", "schedule=apd")
    assert apd.train.schedule.iterations == 20210 * 100 // 8 + 20210 * 100 % 8 // 4
    assert (apd.train.practice.augment.crop, apd.train.schedule.batch_size) == ((473, 473), 8)
    assert (apd.train.schedule.optimiser.lr, apd.train.schedule.optimiser.weight_decay) == (0.005, 1e-4)
    recipe = apd.distill.recipes["apd"]
    assert recipe["kd"]["weights"] == {"kd": 10.0} and recipe["kd"]["reduction"] == "element"
    assert recipe["apd"]["weights"] == {"perspective_local": 10.0, "perspective_align": 10.0}
    assert (recipe["apd"]["temperature"], recipe["apd"]["prototypes"]) == (0.1, "batch")
    assert (recipe["apd"]["adapter_lr_factor"], recipe["apd"]["teacher_adapter_lr"]) == (10.0, 1e-5)
    streets = composes("dataset=cityscapes", "pair=psp_r101_psp_r18", "recipe=apd", "schedule=apd")
    assert streets.train.schedule.iterations == 2975 * 200 // 8
    assert streets.train.practice.augment.crop == (713, 713)


def test_cirkds_memory_weighs_less_on_voc(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    for dataset, weight in (("voc", 0.01), ("camvid", 0.1)):
        recipe = composes(f"dataset={dataset}", "recipe=cirkd").distill.recipes["cirkd"]
        assert recipe["cirkd"]["weights"]["memory_pixel"] == weight


def test_a_pair_of_unequal_strides_brings_the_teacher_to_the_student(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    found = composes("dataset=camvid", "pair=r101_mnv4", "schedule=paper", "recipe=[kd,afdcd,ka]")
    assert {recipe["resize"] for recipe in found.distill.recipes.values()} == {"teacher_to_student"}
    assert "resize" not in composes("dataset=camvid", "recipe=kd").distill.recipes["kd"]


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_recipe_preset_is_a_recipe_of_its_name(
    dataset: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    everything = names("recipe", root)
    composed = configure.compose([f"dataset={dataset}", f"recipe=[{','.join(everything)}]"])
    recipes = params.parse(composed.body).distill.recipes
    assert sorted(recipes) == everything
    for name, recipe in recipes.items():
        checked = check_recipe(recipe, f"distill.recipes.{name}")
        assert checked and all(method.weights for method in checked.values())


def test_models_follow_students_recipes_and_seeds(target: Path) -> None:
    configure.write(["recipe=[kd]", "train.seeds=[0,3]"], target)
    deploy = params.load(target).deploy
    assert deploy.models == [
        "teacher",
        *("narrow_r18_alone_0", "narrow_r18_alone_3", "narrow_r18_kd_0", "narrow_r18_kd_3"),
    ]
    assert deploy.release == ["narrow_r18_kd_0"]


def test_presets_win_over_what_every_run_shares(target: Path) -> None:
    configure.write(["schedule=smoke"], target)
    found = params.load(target)
    assert (found.deploy.benchmark.iterations, found.deploy.quantize.calibration_images) == (5, 4)
    assert found.gates.min_gain_over_alone is None and found.gates.max_drop["int8"] is None
    assert found.distill.recipes["afdcd"]["afdcd"]["pool"] == 1
    assert found.dataset.options["train"] == 12


def test_own_images_need_a_root_and_their_classes(target: Path) -> None:
    given = ["dataset=folder", "dataset.root=/data/mine", "dataset.options.classes=[road,sky,car]"]
    for schedule in ("default", "smoke", "paper"):
        configure.write([*given, f"schedule={schedule}"], target)
        found = params.load(target)
        assert (found.dataset.name, found.dataset.root) == ("folder", "/data/mine")
        assert found.dataset.options == {"classes": ["road", "sky", "car"], "ignored": []}
        assert found.deploy.export.input_size == found.train.practice.augment.crop
    configure.write([*given, "schedule=smoke"], target)
    assert params.load(target).deploy.export.input_size == (128, 256)


def test_the_paper_preset_holds_the_released_figures(target: Path) -> None:
    configure.write(["dataset=camvid", "pair=r101_psp_r18", "schedule=paper", "hardware=cuda"], target)
    found = params.load(target)
    assert found.train.students == ["psp_r18"]
    assert found.distill.recipes["afdcd"]["afdcd"]["weights"] == {
        "masked_feature": 8e-6,
        "omni_contrast": 0.01,
    }
    assert found.distill.recipes["afdcd"]["kd"]["weights"] == {"kd": 1.0}
    assert found.train.practice.augment.crop == (360, 360)
    assert (found.train.schedule.iterations, found.train.schedule.batch_size) == (40000, 16)
    assert found.train.schedule.optimiser.clip_adapters == 15.0


def test_the_header_names_the_command_and_the_file_passes_its_own_check(target: Path) -> None:
    configure.write(["schedule=smoke", "train.seeds=[0, 1]"], target)
    first = target.read_text(encoding="utf-8").splitlines()[0]
    assert first == "# Composed by: python -m pipeline.configure schedule=smoke 'train.seeds=[0, 1]'"
    configure.check(target)


def test_composing_again_gives_the_same_bytes(target: Path) -> None:
    configure.write(["schedule=smoke"], target)
    before = target.read_bytes()
    configure.write([], target)
    configure.write(["schedule=smoke"], target)
    assert target.read_bytes() == before


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_hand_edits_are_refused_with_a_diff_and_an_override(target: Path) -> None:
    configure.write([], target)
    edit(target, "  batch_size: 8", "  batch_size: 16")
    before = target.read_bytes()
    with pytest.raises(UserError) as caught:
        configure.write(["schedule=smoke"], target)
    message = str(caught.value)
    assert "-    batch_size: 8" in message and "+    batch_size: 16" in message
    assert "teacher.schedule.batch_size=16" in message and "--force" in message
    assert target.read_bytes() == before


def test_hand_edits_that_the_command_repeats_are_kept(target: Path) -> None:
    configure.write([], target)
    edit(target, "  batch_size: 8", "  batch_size: 16")
    configure.write(["schedule=smoke", "teacher.schedule.batch_size=16"], target)
    assert params.load(target).teacher.schedule.batch_size == 16


@pytest.mark.parametrize(
    ("old", "new", "override"),
    [
        ("  checkpoint: null", "  checkpoint: 'my teacher.safetensors'", "teacher.checkpoint="),
        ("    train: 800", "    train: 1", "dataset.options.train=1"),
        ("    sync_bn: false", "    sync_bn: true", "train.practice.sync_bn=true"),
        ("  max_p50_ms: {}", "  max_p50_ms: {ort_cpu_fp32: 3.0}", "gates.max_p50_ms.ort_cpu_fp32=3.0"),
    ],
)
def test_the_proposed_override_keeps_the_edit(target: Path, old: str, new: str, override: str) -> None:
    configure.write([], target)
    edit(target, old, new)
    wanted = params.load(target)
    with pytest.raises(UserError) as caught:
        configure.write([], target)
    proposal = str(caught.value).rpartition("add them to the command (")[2].partition("), or drop")[0]
    assert override in proposal
    configure.write(shlex.split(proposal), target)
    assert params.load(target) == wanted


def test_an_edited_comment_is_not_lost_silently_either(target: Path) -> None:
    configure.write([], target)
    edit(target, "  checkpoint: null", "  checkpoint: null  # mine")
    with pytest.raises(UserError, match="edited by hand"):
        configure.write(["schedule=smoke"], target)


def test_force_drops_edits(target: Path) -> None:
    configure.write([], target)
    edit(target, "  batch_size: 8", "  batch_size: 16")
    configure.write([], target, force=True)
    configure.check(target)


def test_a_foreign_file_is_kept(target: Path) -> None:
    target.write_text("mine: 1\n", encoding="utf-8")
    with pytest.raises(UserError, match="--force replaces it"):
        configure.write([], target)


def test_check_without_a_file_is_a_sentence(target: Path) -> None:
    with pytest.raises(UserError, match="is missing in .*; write one with python -m pipeline.configure"):
        configure.check(target)


def test_one_seed_is_no_gate(target: Path) -> None:
    configure.write([], target)
    assert params.load(target).gates.min_gain_over_alone is None


def test_check_shows_what_differs(target: Path) -> None:
    configure.write([], target)
    edit(target, "  batch_size: 8", "  batch_size: 16")
    with pytest.raises(UserError, match="batch_size: 16"):
        configure.check(target)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("dataset=camvd", "Available options in 'dataset'"),
        ("teacher.sed=3", "teacher.sed"),
        ("train.schedule.batch_size=0", "the composed params: train.schedule.batch_size: 0 is not possible"),
        ("+train.schedule.batchsize=3", "did you mean 'batch_size'?"),
        ("distill.run=[kd", "distill.run"),
    ],
)
def test_impossible_overrides_leave_the_file_alone(target: Path, override: str, said: str) -> None:
    configure.write([], target)
    before = target.read_bytes()
    with pytest.raises(UserError) as caught:
        configure.write([override], target)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert target.read_bytes() == before


def test_the_list_has_a_line_for_every_preset(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    configure.main(["--list"])
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} == {
        f"{kind}={name}"
        for kind in ("dataset", "pair", "recipe", "schedule", "hardware")
        for name in names(kind, root)
    }
    assert all(len(line.split(maxsplit=1)[1]) > 20 for line in lines)


@pytest.mark.parametrize("given", [["--froce"], ["--check", "dataset=camvid"], ["--list", "--force"]])
def test_a_wrong_flag_shows_the_usage(given: list[str]) -> None:
    with pytest.raises(UserError, match="usage: "):
        configure.main(given)
