import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import launch
from cvfp_jax.config.overrides import flat_fields, replace
from cvfp_jax.config.settings import DIVERSITIES
from cvfp_jax.core.widths import num_params
from cvfp_jax.data.tokenizer import VOCAB_SIZE
from experiments import EXPERIMENTS, context_dim

ROOT = Path(__file__).parents[2]
PRINTED = json.loads((ROOT / "cvfp_jax/reproduction/data/reports.json").read_text())
PRESETS = [(name, preset) for name, module in EXPERIMENTS.items() for preset in module.PRESETS]
REPORTS = [(name, preset) for name, preset in PRESETS if preset != "quick"]
FILES = sorted((ROOT / "experiments").glob("[!_]*.py"))
LOOPS = (
    ast.For, ast.While, ast.If, ast.FunctionDef, ast.Lambda, ast.ClassDef,
    ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp,
)  # fmt: skip


def grid_of(experiment, preset):
    return EXPERIMENTS[experiment].PRESETS[preset]


def fields_of(experiment, preset):
    return flat_fields(grid_of(experiment, preset).base)


def counts(config):
    phase2 = config.phase2
    return num_params(config.model, VOCAB_SIZE, phase2.freeze_embedding, phase2.count_embed_norm)


def axis(experiment, preset, name="num_samples"):
    return list(grid_of(experiment, preset).axes[name])


def printed_samples(report):
    return [point["samples"] for point in report["points"]]


@pytest.mark.parametrize(("experiment", "preset"), PRESETS)
def test_presets_know_their_own_names_and_are_valid(experiment, preset):
    grid = grid_of(experiment, preset)
    cells = grid.cells()
    assert {(cell.experiment, cell.preset) for cell in cells} == {(experiment, preset)}
    assert len({tuple(grid.place(cell).items()) for cell in cells}) == len(cells)
    assert len({(grid.series(cell), cell.num_samples, cell.seed) for cell in cells}) == len(cells)
    assert grid.base == cells[0], "the base stands at the first cell"
    assert grid.search is None or list(grid.axes)[-2:] == [grid.search.axis, "seed"]


@pytest.mark.parametrize(("experiment", "preset"), PRESETS)
def test_every_preset_can_be_planned_and_replicated(experiment, preset, capsys):
    flags = [f"--experiment={experiment}", f"--preset={preset}", "--dry_run", "--json", "--seeds=3"]
    assert launch.main(["launch.py", *flags]) == 0
    plans = json.loads(capsys.readouterr().out)
    cells = [cell for cell in grid_of(experiment, preset).cells() if cell.seed == 42]
    assert len(plans) == 3 * len(cells)
    for cell, plan in zip(cells, plans[::3], strict=True):
        names = ["params_context_block", "params_token_block"]
        if preset != "quick":
            names += ["params_total", "params_trainable_phase2"]
        assert {name: plan[name] for name in names} == {name: counts(cell)[name] for name in names}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_documented_command_plans_the_quick_preset(name, capsys):
    assert launch.main(["launch.py", f"--experiment={name}", "--dry_run", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(grid_of(name, "quick").cells())


def test_a_plan_is_made_by_a_process_of_its_own_too():
    command = f"{sys.executable} launch.py --experiment=sample_size --preset=r5_320 --dry_run --json"
    done = subprocess.run(command.split(), cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)[0]["params_total"] == 39_785_920


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_each_file_opens_with_its_commands_devices_and_numbers(name):
    text, presets = EXPERIMENTS[name].__doc__, list(EXPERIMENTS[name].PRESETS)
    assert presets[0] == "quick"
    title, quick, *others = text.split("\n\n")
    assert title.endswith(".")
    assert quick.startswith(f"python launch.py --experiment={name}\n  Device: CPU, 2 cores. Time: ")
    assert "\n  Expect: " in quick
    documented = []
    for part in others:
        commands = re.findall(r"^python launch.py --experiment=(\w+) --preset=(\w+)$", part, re.MULTILINE)
        assert not commands or re.search(r"^  Device: .*$", part, re.MULTILINE)
        documented += commands
    assert sorted(documented) == sorted((name, preset) for preset in presets[1:])
    for preset in presets:
        assert f"``{preset}``" in text


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_experiment_is_settings_and_no_logic(path):
    assert [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, LOOPS)] == []


def test_every_file_is_an_experiment_or_what_they_share():
    assert {path.stem for path in FILES} == {*EXPERIMENTS, "systems"}


def test_quick_presets_need_nothing_but_this_machine():
    for name in EXPERIMENTS:
        data = grid_of(name, "quick").base.data
        assert (data.corpus, data.embedding, data.vocabulary) == ("pydocs", "spectral", "corpus")


@pytest.mark.parametrize(("experiment", "preset"), REPORTS)
def test_what_the_reports_have_in_common(experiment, preset):
    fields = fields_of(experiment, preset)
    common = {
        "seed": 42,
        "effective_rank_rows": 10_000,
        "model.embed_dim": PRINTED["R3"]["embed_dim"],
        "phase1.learning_rate": 0.002,
        "phase1.convergence_threshold": 0.03,
        "phase2.gradient_clip": 1.0,
        "data.corpus": "ultrachat",
        "data.embedding": "gpt2",
        "data.vocabulary": "full",
    }
    assert {name: fields[name] for name in common} == common


# Changes to the preset's first cell; parameters of the context block, the token block and in total,
# and those trained in phase 2. None: the report prints none.
PARAMETERS = [
    ("sample_scaling", "r1", {}, (3_545_856, 3_545_856, 84_338_257, 42_193_489)),
    ("sample_scaling", "r1_6l", {}, (7_091_712, 7_091_712, 91_429_969, 45_739_345)),
    ("effective_rank", "r2", {}, (15_394_304, 8_566_272, 101_207_121, 47_215_441)),
    ("effective_rank", "pair_original", {}, (7_091_712, 7_091_712, 91_429_969, 45_740_881)),
    ("effective_rank", "pair", {}, (15_394_304, 8_566_272, 101_207_121, 47_215_441)),
    (
        "effective_rank",
        "pair",
        {"model.token_input_all_layers": True},
        (7_091_712, 7_091_712, 91_429_969, 45_740_881),
    ),
    ("context_dim", "v1", {}, (1_181_952, 1_181_952, 40_962_816, 1_183_488)),
    ("context_dim", "v1", {"model.context_dim": 1200}, (2_365_200, 1_513_728, 42_477_840, 1_515_264)),
    ("context_dim", "v2", {"model.context_dim": 1537}, (3_547_396, 1_772_544, 43_918_852, 1_774_080)),
    ("input_tokens", "v3", {}, (1_771_776, 2_952_192, 43_322_880, 2_953_728)),
    ("matrix", "r3_matrix", {}, (1_181_952, 1_181_952, 40_962_816, 1_183_488)),
    ("matrix", "r3_matrix", {"model.num_input_tokens": 2}, (1_771_776, 2_952_192, 43_322_880, 2_953_728)),
    ("diversity", "r4", {}, (635_500, 976_128, 40_210_540, 977_664)),
    ("diversity", "r4_oacd", {}, (635_500, 976_128, 40_210_540, 977_664)),
    ("diversity", "r4_ffn", {}, (8_973_868, 10_333_968, 57_906_748, 10_335_504)),
    ("diversity", "r4_ffn", {"model.context_dim": 1000}, (19_585_368, 17_943_968, 76_128_248, 17_945_504)),
    ("sample_size", "r5", {}, (262_912, 788_736, 39_650_560, 788_736)),
    ("sample_size", "r5_large", {}, (262_912, 788_736, 39_650_560, 788_736)),
    ("sample_size", "r5_320", {}, (349_120, 837_888, 39_785_920, 837_888)),
]


@pytest.mark.parametrize(("experiment", "preset", "changes", "printed"), PARAMETERS)
def test_parameters_are_those_of_the_reports(experiment, preset, changes, printed):
    found = counts(replace(grid_of(experiment, preset).base, changes))
    names = ("params_context_block", "params_token_block", "params_total", "params_trainable_phase2")
    assert tuple(found[name] for name in names) == printed


def test_the_matrix_has_nine_pairs_of_the_right_size():
    cells = grid_of("matrix", "r3_matrix").cells()
    sizes = {(cell.model.num_layers, cell.model.num_input_tokens): counts(cell) for cell in cells}
    assert len(sizes) == 9
    largest = sizes[3, 3]["params_context_block"], sizes[3, 3]["params_token_block"]
    assert [round(size / 1e6, 2) for size in largest] == [7.08, 17.78]


def test_r1_is_the_report_of_sample_scaling():
    printed = PRINTED["R1"]
    grid = grid_of("sample_scaling", "r1")
    assert axis("sample_scaling", "r1") == axis("sample_scaling", "r1_6l") == printed_samples(printed)
    found = counts(grid.base)
    assert found["params_total"] == printed["params_total"]
    assert found["params_trainable_phase2"] == printed["params_phase2"]
    fields = fields_of("sample_scaling", "r1")
    settings = {
        "model.num_layers": 3,
        "model.context_dim": 768,
        "model.num_input_tokens": 1,
        "model.context_mode": "E",
        "model.activation": "relu",
        "model.init": "normal",
        "model.use_weight_tying": False,
        "val_convergence_trials": 10,
        "phase1.initial_contexts": "sequential",
        "phase1.first_context": "last",
        "phase1.context_noise": 0.1,
        "phase1.batch_size": 0,
        "phase1.diversity": "MCDL",
        "phase1.dist_reg_weight": 0.5,
        "phase1.gradient_clip": 1.0,
        "phase1.max_iterations": 10,
        "phase1.stop": "rate",
        "phase1.min_iterations": 3,
        "phase1.min_converged_ratio": 0.95,
        "phase2.learning_rate": 0.002,
        "phase2.batch_size": 512,
        "phase2.epochs": 10,
        "phase2.patience": 2,
        "phase2.train_contexts": "recomputed",
        "phase2.min_ppl_improvement": 0.0,
        "data.turns": "first",
        "data.max_sample_tokens": 128,
        "data.val_samples": "500:510",
    }
    assert {name: fields[name] for name in settings} == settings
    deeper = fields_of("sample_scaling", "r1_6l")
    assert {name for name in fields if fields[name] != deeper[name]} == {"preset", "model.num_layers"}
    assert "E mode, 3 layers, context_dim 768" in printed["title"]


def test_r2_is_the_report_of_effective_rank():
    printed = PRINTED["R2"]
    assert "6 layers, context_dim 768, tokens enter the first layer only" in printed["title"]
    fields = fields_of("effective_rank", "r2")
    settings = {
        "model.num_layers": 6,
        "model.context_dim": 768,
        "model.token_input_all_layers": False,
        "model.use_weight_tying": False,
        "model.activation": "relu",
        "phase1.initial_contexts": "random",
        "phase1.context_noise": 0.1,
        "phase1.batch_size": 8000,
        "phase1.dist_reg_weight": 0.8,
        "phase1.gradient_clip": 1.0,
        "phase1.max_iterations": 40,
        "phase1.min_iterations": 5,
        "phase1.min_converged_ratio": 0.99,
        "phase2.learning_rate": 0.001,
        "phase2.epochs": 10,
        "phase2.patience": 1,
        "phase2.train_contexts": "sequential",
        "data.val_samples": "tail:0.1",
        "data.turns": "all",
        "data.max_sample_tokens": 0,
    }
    assert {name: fields[name] for name in settings} == settings
    for preset in ("r2", "pair_original", "pair"):
        assert axis("effective_rank", preset) == printed_samples(printed)


def test_the_pair_differs_by_the_design_only():
    grid = grid_of("effective_rank", "pair")
    old, new = (flat_fields(cell) for cell in grid.cells()[::4])
    assert {name for name in old if old[name] != new[name]} == {"model.token_input_all_layers"}
    report = fields_of("effective_rank", "r2")
    assert {name for name in old if old[name] != report[name]} == {"preset"}
    original = fields_of("effective_rank", "pair_original")
    assert {name: original[name] for name in original if original[name] != report[name]} == {
        "preset": "pair_original",
        "model.token_input_all_layers": True,
        "phase1.initial_contexts": "sequential",
        "phase1.dist_reg_weight": 0.6,
    }


@pytest.mark.parametrize(
    ("experiment", "preset", "report"),
    [("context_dim", "v1", "v1"), ("context_dim", "v2", "v2"), ("input_tokens", "v3", "v3")],
)
def test_r3s_settings(experiment, preset, report):
    printed = PRINTED["R3"][report]
    fields, settings = fields_of(experiment, preset), printed["settings"]
    assert fields["phase1.dist_reg_weight"] == settings["dist_reg_weight"]
    assert fields["phase1.max_iterations"] == settings["phase1_max_iterations"]
    assert fields["phase2.epochs"] == settings["phase2_epochs"]
    assert fields["model.num_input_tokens"] == settings.get("num_input_tokens", 1)
    if "phase1_context_noise" in settings:
        assert fields["phase1.context_noise"] == settings["phase1_context_noise"]
    sweeps = printed["sweeps"]
    firsts = {cell.config_name: cell for cell in grid_of(experiment, preset).cells()}
    assert list(firsts) == list(sweeps)
    for name, sweep in sweeps.items():
        assert firsts[name].model.context_dim == sweep["context_dim"]
        assert axis(experiment, preset) == printed_samples(sweep)
        if "params_context_block" in sweep:
            assert counts(firsts[name])["params_context_block"] == sweep["params_context_block"]
    # What the original ran with, beyond the printed settings.
    rest = {
        "model.num_layers": 1,
        "model.activation": "relu",
        "model.use_weight_tying": True,
        "phase1.initial_contexts": "random",
        "phase1.first_context": "last",
        "phase1.min_iterations": 5,
        "phase1.min_converged_ratio": 0.99,
        "phase1.gradient_clip": 1.0,
        "phase1.batch_size": 5000 if report == "v3" else 8000,
        "phase1.context_noise": 0.0 if report == "v2" else 0.1,
        "phase2.learning_rate": 0.001,
        "phase2.patience": 1,
        "phase2.train_contexts": "parallel",
        "phase2.freeze_embedding": True,
        "data.val_samples": "1000:1020",
        "data.max_sample_tokens": 0,
    }
    assert {name: fields[name] for name in rest} == rest


def test_v3s_windows_fit_into_its_samples_and_those_of_its_next_steps():
    windows = PRINTED["R3"]["v3"]["sweeps"]["1L_768d_2tok"]["printed_windows"]
    for preset in ("v3", "k3", "l2", "l3"):
        samples = axis("input_tokens", preset)
        assert [samples[:4], samples[1:]] == [
            [size for size in samples if size >= window["samples"][0] and size <= window["samples"][1]]
            for window in windows
        ]
    names = [grid_of("input_tokens", preset).base.config_name for preset in ("k3", "l2", "l3")]
    assert names == ["1L_768d_3tok", "2L_768d_2tok", "3L_768d_2tok"]


def test_r4s_algorithms_and_sizes():
    printed = PRINTED["R4"]["algorithms"]
    losses = axis("diversity", "r4", "phase1.diversity")
    assert losses == axis("diversity", "r4_ffn", "phase1.diversity") == ["MCDL", "ODCM", "SDL", "NUC"]
    assert {*losses, fields_of("diversity", "r4_oacd")["phase1.diversity"]} >= printed.keys()
    for preset in ("r4", "r4_oacd", "r4_ffn"):
        assert axis("diversity", preset) == printed_samples(printed["OACD"])
    assert axis("diversity", "r4_oacd", "phase1.dist_reg_weight") == [1.0, 0.5]
    assert axis("diversity", "r4_all", "phase1.diversity") == list(DIVERSITIES)
    settings = {
        "model.num_layers": 1,
        "model.context_dim": 500,
        "model.activation": "gelu",
        "model.ffn_num_layers": 1,
        "model.init": "normal",
        "model.use_weight_tying": True,
        "phase1.initial_contexts": "random",
        "phase1.first_context": "last",
        "phase1.context_noise": 0.1,
        "phase1.batch_size": 5000,
        "phase1.dist_reg_weight": 0.9,
        "phase1.gradient_clip": 2.0,
        "phase1.max_iterations": 60,
        "phase1.stop": "val_effective_rank",
        "phase1.val_frequency": 5,
        "phase1.val_patience": 1,
        "phase1.val_sample_size": 10_000,
        "phase2.learning_rate": 0.001,
        "phase2.epochs": 20,
        "phase2.patience": 1,
        "phase2.train_contexts": "parallel",
        "data.val_samples": "1000:1020",
    }
    fields = fields_of("diversity", "r4")
    assert {name: fields[name] for name in settings} == settings
    every = fields_of("diversity", "r4_all")
    assert [every[f"model.{name}"] for name in ("context_dim", "num_layers", "ffn_num_layers")] == [200, 6, 2]
    assert axis("diversity", "r4_all") == [100]


def test_r5_is_the_report_of_sample_size():
    printed = PRINTED["R5"]
    for preset in ("r5", "r5_320", "r5_500"):
        assert axis("sample_size", preset) == printed_samples(printed)
    widths = [fields_of("sample_size", preset)["model.context_dim"] for preset in ("r5", "r5_320", "r5_500")]
    assert widths == [printed["context_dim"], 320, 500]
    assert axis("sample_size", "r5_large") == [*printed_samples(printed), 3200, 6400]
    settings = {
        "model.num_layers": 1,
        "model.activation": "gelu",
        "model.init": "xavier",
        "model.use_weight_tying": True,
        "phase1.initial_contexts": "random",
        "phase1.first_context": "zero",
        "phase1.context_noise": 0.1,
        "phase1.batch_size": 5000,
        "phase1.diversity": "OACD",
        "phase1.dist_reg_weight": 1.0,
        "phase1.gradient_clip": 2.0,
        "phase1.max_iterations": 60,
        "phase1.stop": "improvement",
        "phase1.min_converged_ratio": 0.9,
        "phase1.min_convergence_improvement": 0.01,
        "phase1.no_improvement_patience": 2,
        "phase2.learning_rate": 0.001,
        "phase2.batch_size": 8864,
        "phase2.epochs": 40,
        "phase2.patience": 1,
        "phase2.train_contexts": "sequential",
        "phase2.min_ppl_improvement": 0.4,
        "phase2.small_gain": "dropped",
        "data.val_samples": "50000:50020",
    }
    fields = fields_of("sample_size", "r5")
    assert {name: fields[name] for name in settings} == settings


def test_the_other_experiments_axes():
    assert axis("embedding_freeze", "r_freeze") == [500, 1000]
    assert axis("embedding_freeze", "r_freeze", "phase2.freeze_embedding") == [True, False]
    assert axis("context_modes", "modes_2000", "model.context_mode") == ["E", "A", "F", "G"]
    assert axis("blocks", "r_blocks") == [200, 400, 800, 1600, 3200]
    assert axis("blocks", "r_blocks", "model.prev_context_steps") == [0, 1, 2]
    for preset, size, first in (("search_100", 100, 50), ("search_200", 200, 100)):
        widths = axis("context_dim_search", preset, "model.context_dim")
        assert axis("context_dim_search", preset) == [size]
        assert widths == sorted(widths)
        assert (widths[0], widths[-1]) == (first, 500)
        assert grid_of("context_dim_search", preset).search.patience == 2


def test_each_regularisation_varies_one_setting_of_r1():
    r1 = fields_of("sample_scaling", "r1")
    for preset in ("patience", "dropout", "weight_decay"):
        values = axis("phase2_regularisation", preset, f"phase2.{preset}")
        assert r1[f"phase2.{preset}"] in values
        assert axis("phase2_regularisation", preset) == axis("sample_scaling", "r1")
        fields = fields_of("phase2_regularisation", preset)
        different = {name for name in r1 if fields[name] != r1[name]}
        assert different <= {"experiment", "preset", f"phase2.{preset}"}
    assert max(axis("phase2_regularisation", "patience", "phase2.patience")) == r1["phase2.epochs"]


def test_quicks_widths_have_the_reports_parameter_ratios():
    grid = context_dim.PRESETS["quick"]
    sizes = sorted({counts(cell)["params_context_block"] for cell in grid.cells()})
    assert len(sizes) == 3
    assert [size / sizes[0] for size in sizes] == pytest.approx([1, 2, 3], rel=0.01)
    assert len(grid.axes["num_samples"]) == 4


def test_baselines_compare_all_architectures_after_equal_searches():
    for preset in ("quick", "r3"):
        grid = grid_of("baselines", preset)
        assert axis("baselines", preset, "architecture") == ["cvfp", "gru", "transformer", "bptt"]
        assert grid.tuning.options.keys() == {"phase2.learning_rate", "phase2.dropout"}
        assert grid.tuning.num_samples in axis("baselines", preset)
        assert len(axis("baselines", preset, "seed")) >= 2
        assert grid.base.phase2.batch_size % grid.base.baseline.segment == 0


def test_each_ablation_changes_one_setting():
    wanted = {
        "phase2.contexts": {"untrained", "zero", "shuffled"},
        "architecture": {"bptt"},
        "phase1.dist_reg_weight": {0.0, 0.5, 1.0},
        "phase1.first_context": {"zero"},
        "model.use_weight_tying": {False},
        "phase1.max_iterations": {2, 3, 10},
    }
    for preset in ("quick", "r3"):
        grid, changed = grid_of("ablations", preset), {}
        fields = flat_fields(grid.base)
        assert axis("ablations", preset, "arm") == list(grid.arms)
        assert grid.arms["base"] == {}
        assert grid.arms["lagged task"].items() > grid.arms["iterations 300"].items()
        for name, changes in grid.arms.items():
            if name in ("iterations 300", "lagged task"):  # which also keep phase 1 from ending early
                continue
            assert len(changes) <= 1, name
            for field, value in changes.items():
                assert fields[field] != value, "it must be a change"
                changed.setdefault(field, set()).add(value)
        assert changed == wanted
        base = (
            fields["phase1.dist_reg_weight"],
            fields["phase1.max_iterations"],
            fields["phase1.first_context"],
        )
        assert base == (0.9, 60, "last")
        assert len(axis("ablations", preset, "seed")) == 5
