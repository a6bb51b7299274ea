import json
import re
from pathlib import Path

import pytest

import launch
from benchmarks.parts import Scale, parts
from benchmarks.workload import Workload
from cvfp_jax.cli.capacity import FLAGS, read_calibration
from cvfp_jax.errors import UserError

ROOT = Path(__file__).parents[2]
DEVICES = ["--devices=64", "--device_memory_gb=80", "--device_tflops=400"]
COMMAND = ["launch.py", "--experiment=context_dim"]
GOOD = {"precision": "f32", "fraction_of_peak": {"phase1_k1": 0.5}}


def told(capsys, *flags):
    assert launch.main([*COMMAND, *flags]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "parts_of_it"),
    [
        (DEVICES, ["--devices=64 is for a capacity plan", "add --dry_run"]),
        (["--num_tokens=9"], ["--num_tokens=9 is for a capacity plan", "add --dry_run"]),
        (["--dry_run", *DEVICES[:1]], ["also needs --device_memory_gb and --device_tflops", "for example"]),
        (["--dry_run", *DEVICES[1:]], ["also needs --devices:"]),
        (["--dry_run", "--num_tokens=9"], ["also needs --devices and --device_memory_gb and"]),
        (["--dry_run", "--link_gb_per_second=9"], ["also needs --devices"]),
        (["--dry_run", "--devices=0", *DEVICES[1:]], ["--devices=0 is not allowed", "from 1 to 1e+06"]),
        (["--dry_run", "--devices=2.5", *DEVICES[1:]], ["--devices=2.5 is not allowed", "whole number"]),
        (["--dry_run", "--devices=nan", *DEVICES[1:]], ["--devices=nan is not allowed"]),
        (["--dry_run", *DEVICES[:2], "--device_tflops=-4"], ["--device_tflops=-4 is not allowed"]),
        (["--dry_run", *DEVICES[:2], "--device_tflops=inf"], ["--device_tflops=inf is not allowed"]),
        (["--dry_run", *DEVICES[::2], "--device_memory_gb=big"], ["--device_memory_gb=big is not allowed"]),
        (["--dry_run", *DEVICES, "--num_tokens=1"], ["--num_tokens=1 is not allowed", "from 2 to 1e+15"]),
        (["--dry_run", *DEVICES, "--num_tokens=2.5"], ["--num_tokens=2.5 is not allowed", "whole number"]),
        (["--dry_run", *DEVICES, "--num_tokens=1e400"], ["--num_tokens=1e400 is not allowed"]),
        (["--dry_run", *DEVICES, "--host_gb_per_second=0"], ["--host_gb_per_second=0 is not allowed"]),
        (["--dry_run", *DEVICES, "--calibration=/nowhere"], ["cannot read /nowhere"]),
        (
            ["--dry_run", *DEVICES, f"--calibration={ROOT / 'docs/h100.json'}", "--precision=bf16"],
            ["was measured in f32, and the cells run in bf16", "--precision=bf16"],
        ),
    ],
)  # fmt: skip
def test_a_plan_that_makes_no_sense_is_refused_in_one_line(capsys, flags, parts_of_it):
    assert launch.main([*COMMAND, *flags]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == ""
    for part in parts_of_it:
        assert part in line


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("{", "is not JSON"),
        ("[]", "no precision or no fraction_of_peak"),
        (json.dumps({"precision": "f32"}), "no precision or no fraction_of_peak"),
        (json.dumps(GOOD | {"precision": "f64"}), "no precision or no fraction_of_peak"),
        (
            json.dumps(GOOD | {"fraction_of_peak": {"phase1_k1": 0}}),
            "fraction_of_peak.phase1_k1=0 is no share",
        ),
        (json.dumps(GOOD | {"fraction_of_peak": {"phase1_k1": "x"}}), "phase1_k1=x is no share"),
        (json.dumps(GOOD | {"fraction_of_peak": {"phase1_k1": True}}), "phase1_k1=True is no share"),
        ('{"precision": "f32", "fraction_of_peak": {"phase1_k1": NaN}}', "phase1_k1=nan is no share"),
    ],
)
def test_a_file_that_is_no_calibration_is_refused(tmp_path, content, part):
    path = tmp_path / "compare.json"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        read_calibration(path)
    assert part in str(caught.value)
    assert "benchmarks.compare" in str(caught.value)


def test_a_series_has_one_plan_whatever_its_sizes_and_json_says_the_same(capsys):
    flags = ["--dry_run", *DEVICES, "--preset=v2", "--num_tokens=2.4e8", "--seeds=2"]
    text, plans = told(capsys, *flags), json.loads(told(capsys, *flags, "--json"))
    assert [plan["series"] for plan in plans] == ["1L_768d_1tok", "1L_1200d_1tok", "1L_1537d_1tok"]
    assert all(plan["num_tokens"] == 240_000_000 for plan in plans)
    for plan in plans:
        assert plan["series"] in text
    widest = plans[-1]
    assert f"The largest N that fits: {widest['largest_num_tokens']:,}." in text
    assert f"{widest['peak_bytes'] / 1e9:.3g} GB and has 80 GB" in text
    assert widest["peak_bytes"] == sum(widest["arrays_bytes"]["always"].values()) + sum(
        widest["arrays_bytes"][widest["peak_stage"]].values()
    )
    for name in (*widest["arrays_bytes"]["phase 1"], *(step["name"] for step in widest["steps"])):
        assert name in text
    assert widest["machine"]["link_rate"] == 50e9
    without = told(capsys, *flags[:4], "--preset=v2")
    assert f"{json.loads(told(capsys, *flags[:4], '--preset=v2', '--json'))[-1]['num_tokens']:,}" in without


def test_rates_are_taken_from_the_flags(capsys):
    rates = ["--memory_gb_per_second=1", "--link_gb_per_second=2", "--host_gb_per_second=3"]
    (plan, *_) = json.loads(told(capsys, "--dry_run", *DEVICES, *rates, "--json"))
    machine = plan["machine"]
    assert [machine[name] for name in ("memory_rate", "link_rate", "host_rate")] == [1e9, 2e9, 3e9]
    assert [machine[name] for name in ("devices", "memory_bytes", "flops")] == [64, 80 * 10**9, 4e14]


def blocks():
    text = (ROOT / "docs/capacity.md").read_text()
    return re.findall(r"^```\n\$ python (launch.py .*)\n((?s:.*?))^```$", text, re.M)


@pytest.mark.parametrize("number", range(6))
def test_the_page_shows_what_the_commands_print(number, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert len(blocks()) == 6
    command, shown = blocks()[number]
    assert launch.main(command.split()) == 0
    assert len(shown.splitlines()) > 5
    assert shown in capsys.readouterr().out


def test_the_calibration_of_the_page_follows_from_its_medians():
    facts = json.loads((ROOT / "docs/h100.json").read_text())
    work = Workload(**facts["sizes"])
    assert facts["distinct_tokens"] == work.distinct_tokens()
    made = parts(work, Scale())
    assert facts["fraction_of_peak"].keys() == facts["ours"].keys() == facts["gflop"].keys()
    for name, share in facts["fraction_of_peak"].items():
        gflop = made[name].operations(facts["distinct_tokens"]) / 1e9
        assert facts["gflop"][name] == pytest.approx(gflop)
        rate = gflop / facts["ours"][name]["median"]
        assert share == pytest.approx(rate / facts["peak_gflops"][name])


def test_the_flags_are_in_the_help(capsys):
    assert launch.main(["launch.py", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"--{name}: " in text for name in FLAGS)
