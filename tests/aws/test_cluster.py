"""Plans: what they may have, how nodes are filled, what they cost, and the request built from them."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from darkhaloscope.aws.cluster import (
    HOME,
    ClusterPlan,
    Instance,
    build_request,
    load_cluster,
    refreshed,
    spark_step,
)
from darkhaloscope.cli import app
from darkhaloscope.contracts.errors import EXIT_USAGE, BudgetExceeded, ConfigError

CLUSTER = load_cluster(environment={})
PRESETS = ["small", "medium", "large"]


def with_instance(name, vcores, memory_gib=64.0):
    odd = Instance(vcores=vcores, memory_gib=memory_gib, on_demand_usd=1.0, spot_usd=0.4, emr_usd=0.1)
    return CLUSTER.model_copy(update={"instances": CLUSTER.instances | {name: odd}})


def request(plan, **given):
    asked = {
        "launch_id": "0123456789abcdef",
        "out": "s3://b/out",
        "steps": [spark_step("a step", ["job", 's3://b/a job\'s "file" $HOME.json'])],
        "bootstrap": ["s3://b/code/x/bootstrap.sh", "s3://b/code/x", "0" * 64, "3.11"],
        "subnets": ["subnet-1", "subnet-2"],
    }
    return build_request(plan, **(asked | given))


@pytest.mark.parametrize(("preset", "vcores"), [("small", 12), ("medium", 124), ("large", 284)])
def test_presets_have_the_vcores_of_the_brief(preset, vcores):
    plan = ClusterPlan.of(CLUSTER, preset)
    assert plan.vcores == vcores
    assert plan.vcores <= CLUSTER.vcore_budget == 284


def test_284_vcores_are_accepted_and_285_refused():
    exact = with_instance("odd", 280, 1200.0)
    assert ClusterPlan.of(exact, "large", workers=1, instance="odd").vcores == 284
    over = with_instance("odd", 281, 1200.0)
    with pytest.raises(BudgetExceeded, match="285 vCores, 1 more than the budget of 284") as caught:
        ClusterPlan.of(over, "large", workers=1, instance="odd")
    assert caught.value.exit_code == EXIT_USAGE


def test_the_master_counts():
    ClusterPlan.of(CLUSTER, "large", master="m5.xlarge")
    with pytest.raises(BudgetExceeded, match=r"288 vCores.*use 34 workers at most"):
        ClusterPlan.of(CLUSTER, "large", master="m5.2xlarge")


def test_the_seeds_other_large_cluster_is_refused():
    with pytest.raises(BudgetExceeded, match="324"):
        ClusterPlan.of(CLUSTER, "large", workers=20, instance="m5.4xlarge")


@pytest.mark.parametrize(
    "given", [{"preset": "huge"}, {"instance": "m7.large"}, {"master": "m7.large"}, {"workers": 0}]
)
def test_what_is_unknown_is_an_error_and_nothing_is_chosen_instead(given):
    with pytest.raises(ConfigError) as caught:
        ClusterPlan.of(CLUSTER, **({"preset": "medium"} | given))
    assert caught.value.exit_code == EXIT_USAGE


def every_plan():
    for name in CLUSTER.instances:
        for preset in PRESETS:
            try:
                yield ClusterPlan.of(CLUSTER, preset, workers=2, instance=name)
            except ConfigError:
                assert name == "m5.large", name  # the only one too small


def test_executors_use_every_core_and_fit_their_node():
    plans = list(every_plan())
    assert len(plans) == 3 * (len(CLUSTER.instances) - 1)
    for plan in plans:
        node, has = CLUSTER.instance(plan.instance), plan.executors
        assert has.per_node * has.cores == node.vcores
        assert has.total * has.cores == plan.worker_vcores
        container = has.heap_mib + has.overhead_mib
        assert has.per_node * container + 896 <= node.yarn_mib < node.memory_gib * 1024
        assert container % 32 == 0  # else YARN rounds it up, and the last does not fit
        assert node.yarn_mib - has.per_node * container < 896 + 32 * has.per_node  # and fills it
        assert has.overhead_mib >= has.cores * CLUSTER.python_worker_mib


def test_an_executor_that_leaves_python_too_little_is_refused():
    with pytest.raises(ConfigError, match="MiB a Python worker, which needs 800"):
        ClusterPlan.of(CLUSTER, "small", instance="m5.large")
    greedy = CLUSTER.model_copy(update={"python_worker_mib": 913})
    with pytest.raises(ConfigError, match="912 MiB a Python worker, which needs 913"):
        ClusterPlan.of(greedy, "medium")


def test_cores_that_do_not_divide_leave_none_over():
    plan = ClusterPlan.of(with_instance("odd", 6, 48.0), "medium", instance="odd")
    assert (plan.executors.per_node, plan.executors.cores) == (2, 3)


@pytest.mark.parametrize("preset", PRESETS)
def test_dynamic_allocation_is_bounded_by_the_plan(preset):
    plan = ClusterPlan.of(CLUSTER, preset)
    settings = plan.spark_settings()
    assert int(settings["spark.dynamicAllocation.maxExecutors"]) == plan.executors.total
    assert int(settings["spark.executor.cores"]) * plan.executors.total == plan.worker_vcores
    assert settings["spark.executor.memoryOverhead"] == f"{plan.executors.overhead_mib}m"
    assert settings["spark.pyspark.python"] == f"{HOME}/venv/bin/python"


def test_the_request_has_fleets_of_exactly_the_plan():
    plan = ClusterPlan.of(CLUSTER, "large")
    fleets = {f["InstanceFleetType"]: f for f in request(plan)["Instances"]["InstanceFleets"]}
    capacity = {
        kind: (fleet["TargetOnDemandCapacity"], fleet["TargetSpotCapacity"]) for kind, fleet in fleets.items()
    }
    assert capacity == {"MASTER": (1, 0), "CORE": (1, 34)}
    spot = fleets["CORE"]["LaunchSpecifications"]["SpotSpecification"]
    assert (spot["TimeoutAction"], spot["TimeoutDurationMinutes"]) == ("SWITCH_TO_ON_DEMAND", 30)
    for fleet in fleets.values():
        (kind,) = fleet["InstanceTypeConfigs"]
        (disk,) = kind["EbsConfiguration"]["EbsBlockDeviceConfigs"]
        assert disk["VolumeSpecification"] == {"VolumeType": "gp3", "SizeInGB": 100, "Iops": 3000}
        assert kind["WeightedCapacity"] == 1
    assert "LaunchSpecifications" not in fleets["MASTER"]


def test_on_demand_asks_for_no_spot():
    plan = ClusterPlan.of(CLUSTER, "medium", on_demand=True)
    core = request(plan)["Instances"]["InstanceFleets"][1]
    assert (core["TargetOnDemandCapacity"], core["TargetSpotCapacity"]) == (15, 0)
    assert "LaunchSpecifications" not in core
    assert plan.usd_per_hour == pytest.approx(plan.usd_per_hour_at_most)


def test_the_request_says_where_by_whom_and_until_when():
    body = request(ClusterPlan.of(CLUSTER, "small"))
    assert body["Instances"]["Ec2SubnetIds"] == ["subnet-1", "subnet-2"]
    assert "Ec2SubnetId" not in body["Instances"]
    assert body["LogUri"] == "s3://darkhaloscope/planb/emr/logs/"
    assert (body["ReleaseLabel"], body["ServiceRole"], body["JobFlowRole"]) == (
        "emr-7.0.0",
        "EMR_DefaultRole",
        "EMR_EC2_DefaultRole",
    )
    tags = {tag["Key"]: tag["Value"] for tag in body["Tags"]}
    assert (tags["dhs-launch"], tags["dhs-vcores"]) == ("0123456789abcdef", "12")
    assert body["Name"] == "dhs-0123456789abcdef"
    assert body["Instances"]["KeepJobFlowAliveWhenNoSteps"] is False
    assert body["Steps"][0]["ActionOnFailure"] == "TERMINATE_CLUSTER"
    assert "AutoTerminationPolicy" not in body


def test_a_cluster_that_is_kept_ends_when_idle():
    body = request(ClusterPlan.of(CLUSTER, "small"), keep_alive=True)
    assert body["AutoTerminationPolicy"] == {"IdleTimeout": 1800}
    assert body["Steps"][0]["ActionOnFailure"] == "CANCEL_AND_WAIT"


def test_words_of_a_step_are_never_split():
    step = request(ClusterPlan.of(CLUSTER, "small"))["Steps"][0]["HadoopJarStep"]
    assert step["Jar"] == "command-runner.jar"
    assert step["Args"][-1] == 's3://b/a job\'s "file" $HOME.json'
    assert step["Args"][:4] == ["spark-submit", "--deploy-mode", "client", f"{HOME}/dhs.py"]
    assert len(step["Args"]) == 6


def test_the_request_is_one_that_emr_knows():
    from botocore.loaders import Loader
    from botocore.model import ServiceModel
    from botocore.validate import validate_parameters

    shape = (
        ServiceModel(Loader().load_service_model("emr", "service-2"))
        .operation_model("RunJobFlow")
        .input_shape
    )
    for keep in (False, True):
        body = request(ClusterPlan.of(CLUSTER, "large"), keep_alive=keep)
        validate_parameters(body, shape)
        json.dumps(body)
    body["Instances"]["Ec2SubnetIds"] = "subnet-1"
    with pytest.raises(Exception, match="Ec2SubnetIds"):
        validate_parameters(body, shape)


def test_hours_and_price_are_the_arithmetic_that_is_shown():
    plan = ClusterPlan.of(CLUSTER, "large")
    made = plan.predict("inject", 10_000_000)
    hours = 12 / 60 + 1e7 / (174 * 0.6 * 280) / 3600
    usd_per_hour = 0.192 + 0.048 + 0.384 + 34 * 0.154 + 35 * 0.096
    assert made.hours == pytest.approx(hours)
    assert made.usd == pytest.approx(hours * usd_per_hour)
    assert f"{hours:.2f} h" in made.arithmetic()
    assert re.search(r"10,000,000 / \(174 rows/s × 0.6 × 280 vCores\)", made.arithmetic())
    assert "longer than" not in made.arithmetic()
    assert (
        "longer than the 1 h of 'small'"
        in ClusterPlan.of(CLUSTER, "small").predict("inject", 10**7).arithmetic()
    )


def test_a_job_without_a_measured_rate_is_not_predicted():
    with pytest.raises(ConfigError, match="no measured rate of the job 'assign_splits'"):
        ClusterPlan.of(CLUSTER, "small").predict("assign_splits", 1)


def test_the_service_corrects_the_table():
    described = [
        {
            "InstanceType": "m5.2xlarge",
            "VCpuInfo": {"DefaultVCpus": 9},
            "MemoryInfo": {"SizeInMiB": 32768},
        },
        {"InstanceType": "m5.xlarge", "VCpuInfo": {"DefaultVCpus": 4}, "MemoryInfo": {"SizeInMiB": 16384}},
    ]
    better, changes = refreshed(CLUSTER, described)
    assert changes == ("m5.2xlarge: 9 vCores, 32 GiB (the table says 8, 32)",)
    with pytest.raises(BudgetExceeded, match="319"):
        ClusterPlan.of(better, "large")


def test_plans_are_values():
    assert ClusterPlan.of(CLUSTER, "large") == ClusterPlan.of(CLUSTER, "large")
    with pytest.raises(dataclasses.FrozenInstanceError):
        ClusterPlan.of(CLUSTER, "large").workers = 36


def test_the_page_shows_what_is_computed():
    page = (Path(__file__).resolve().parents[2] / "docs" / "emr.md").read_text()
    for job in CLUSTER.rates:
        for preset in PRESETS:
            made = ClusterPlan.of(CLUSTER, preset).predict(job, 10_000_000)
            per_hour, most = made.plan.usd_per_hour, made.hours * made.plan.usd_per_hour_at_most
            cells = [f"`{job}`", preset, str(made.plan.worker_vcores), f"{made.hours:.2f}", f"{per_hour:.2f}"]
            assert f"| {' | '.join([*cells, f'{made.usd:.2f}', f'{most:.2f}'])} |" in page
    for preset in PRESETS:
        plan = ClusterPlan.of(CLUSTER, preset)
        has, nodes = plan.executors, f"{plan.workers} × {plan.instance}"
        memory = f"{has.cores}, {has.heap_mib} + {has.overhead_mib} MiB"
        assert f"| {preset} | {nodes} | {plan.vcores} | {has.total} | {memory} |" in page


def here(*words):
    return CliRunner().invoke(app, words)


def test_the_command_plans_without_asking_anybody():
    done = here("emr", "plan")
    assert done.exit_code == 0, done.output
    assert "284 of 284" in done.stdout
    assert "large, inject: 12 min + 10,000,000" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--preset", "large", "--workers", "36"), "292 vCores, 8 more than the budget of 284"),
        (("--preset", "huge"), "allowed: small, medium, large"),
        (("--preset", "small", "--instance", "m7.large"), "not in the table"),
        (("--job", "nonsense"), "no measured rate"),
    ],
)
def test_the_command_refuses_with_the_code_of_usage(words, said):
    error = here("emr", "plan", *words).exception
    assert error.exit_code == EXIT_USAGE
    assert said in str(error)


def test_what_is_changed_needs_a_preset():
    assert here("emr", "plan", "--workers", "3").exit_code == EXIT_USAGE


def test_the_process_returns_that_code():
    words = ["emr", "plan", "--preset", "huge"]
    done = subprocess.run(
        [sys.executable, "-m", "darkhaloscope", *words], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (EXIT_USAGE, "")
    assert done.stderr.startswith("dhs: cluster: key 'preset' = 'huge' is not known")


def test_the_table_is_what_the_service_says(cloud):
    done = here("emr", "plan", "--refresh")
    assert done.exit_code == 0, done.output
    assert "11 instances are as the table says" in done.stdout
