"""Each check of a cluster is shown a node, a scheduler, or answers on which it must speak up."""

import json
import resource
import socket
import subprocess
import types
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cluster import ray_jobs, slurm, slurm_queue, slurm_site
from cluster.api import JobState
from cluster.records import JobStatus
from sr.configfile import ConfigError
from sweeps import code, doctor, doctor_cluster, doctor_far_side, doctor_schedulers, slurm_submission
from sweeps.cli import examined
from sweeps.cluster_section import ClusterSection
from sweeps.doctor import Check
from sweeps.doctor_answers import combined, of_answers
from sweeps.doctor_far_side import Request, Seat

VERSIONS = {"srloss": "0123456789ab", "Python": "3.11", "ray": "2.60.0", "torch": "2.15.0"}
ALONE = Seat(0, 1, "", 0)


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in ("WANDB_MODE", "WANDB_BASE_URL", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(code, "code_hash", lambda: VERSIONS["srloss"])


@pytest.fixture
def request_(tmp_path):
    folder = tmp_path / "doctor" / "1"
    folder.mkdir(parents=True)
    (folder / "nonce").write_text("abc")
    return Request(
        str(folder),
        "abc",
        str(tmp_path),
        None,
        None,
        code.versions(),
        None,
        None,
        False,
        "install it",
        wait_s=0,
    )


# What is looked at on a node.


def test_another_srloss_or_torch_is_a_problem(request_):
    assert doctor_far_side._same_code(request_)[0] == "ok"
    other = replace(request_, versions=code.versions() | {"srloss": "fff", "torch": "1.0"})
    status, found, fix = doctor_far_side._same_code(other)
    assert status == "problem"
    assert "submitted with srloss fff, torch 1.0" in found
    assert "Python" not in found.partition("submitted")[2]
    assert fix == "install it"


def test_a_store_that_is_not_the_submitters_is_a_problem(request_, monkeypatch):
    assert doctor_far_side._store(request_, ALONE)[0] != "problem"
    assert Path(request_.folder, "back-0").read_text() == "abc"
    status, found, fix = doctor_far_side._store(replace(request_, nonce="abd"), ALONE)
    assert (status, fix) == ("problem", doctor_cluster.SHARED)
    assert found.startswith("does not see ")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)
    assert "cannot write there: Permission denied" in doctor_far_side._store(request_, ALONE)[1]


@pytest.mark.parametrize(("error", "words"), [(60.0, "60.0 s ahead of"), (-60.0, "60.0 s behind")])
def test_a_wrong_clock_warns(tmp_path, monkeypatch, error, words):
    assert doctor_far_side._clock(tmp_path)[0] == "ok"
    true_time = doctor_far_side.time.time
    monkeypatch.setattr(doctor_far_side.time, "time", lambda: true_time() + error)
    status, found, _ = doctor_far_side._clock(tmp_path)
    assert status == "warning"
    assert words in found
    assert list(tmp_path.iterdir()) == []


def test_fewer_cpus_than_asked_for_is_a_problem(monkeypatch):
    monkeypatch.setattr(doctor_far_side, "available_cpus", lambda: 1.0)
    assert doctor_far_side._cpus(None)[0] == doctor_far_side._cpus(1)[0] == "ok"
    assert doctor_far_side._cpus(4)[:2] == ("problem", "1 usable by the job, 4 asked for; ranks would share")


def test_less_memory_than_asked_for_warns(monkeypatch):
    monkeypatch.setattr(doctor_far_side, "available_memory_bytes", lambda: 8 * 10**9)
    assert doctor_far_side._memory(None)[0] == doctor_far_side._memory(9)[0] == "ok"
    assert "others use it" in doctor_far_side._memory(32)[1]
    monkeypatch.setattr(doctor_far_side, "available_memory_bytes", lambda: 10**8)
    assert (
        doctor_far_side._memory(None)[2]
        == f"cluster.mem_gb={doctor.memory_gb_per_rank():g} for each rank there"
    )


@pytest.mark.parametrize(("hard", "fix"), [(8192, "ulimit -n 4096"), (2048, "ask the site")])
def test_few_open_files_warn(monkeypatch, hard, fix):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, hard))
    status, found, cure = doctor_far_side._open_files()
    assert status == "warning"
    assert found.startswith("1024 at once")
    assert fix in cure
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4096, 4096))
    assert doctor_far_side._open_files()[0] == "ok"


def test_a_node_cache_that_cannot_be_written_is_a_problem(tmp_path, monkeypatch):
    assert "not set here" in doctor_far_side._node_cache("$NO_SUCH_THING/x")[1]
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOCAL", str(tmp_path))
    assert doctor_far_side._node_cache("$LOCAL/new")[0] != "problem"
    status, _, fix = doctor_far_side._node_cache("$LOCAL/file/x")
    assert status == "problem"
    assert fix


def test_a_full_temporary_folder_warns(tmp_path, monkeypatch):
    usage = types.SimpleNamespace(free=10**8, total=10**9)
    monkeypatch.setattr(doctor_far_side.shutil, "disk_usage", lambda _: usage)
    assert doctor_far_side._temporary_folder(tmp_path)[0] == "warning"
    usage.free = 2 * 10**9
    assert doctor_far_side._temporary_folder(tmp_path)[0] == "ok"


def test_wandb_out_of_reach_warns(monkeypatch):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        status, found, fix = doctor_far_side._wandb_server()
        assert status == "warning"
        assert "cannot reach 127.0.0.1 (connection refused)" in found
        assert "WANDB_MODE=offline" in fix
        server.listen()
        assert doctor_far_side._wandb_server() == ("ok", "reaches 127.0.0.1", "")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert "not needed" in doctor_far_side._wandb_server()[1]


def test_wandb_is_sought_by_way_of_the_proxy(monkeypatch):
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.invalid")
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        assert "by way of the proxy 127.0.0.1 (" in doctor_far_side._wandb_server()[1]
        proxy.listen()
        assert doctor_far_side._wandb_server()[0] == "ok"


def test_a_data_set_that_only_the_submitter_sees_is_a_problem(request_, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "examine", lambda **_: [Check("data", "problem", "damaged", "repair it")])
    monkeypatch.setattr(doctor_far_side, "_wandb_server", lambda: ("ok", "", ""))

    def data(place):
        checks = doctor_far_side.examine(replace(request_, data=str(place)), ALONE)
        [check] = [check for check in checks if check.name == "data"]
        return check.found

    assert data(tmp_path) == "damaged"
    assert data(tmp_path / "nowhere") == f"does not see {tmp_path}/nowhere"


def test_nodes_that_do_not_meet_are_a_problem(request_, monkeypatch):
    """That they do meet is seen on real nodes."""
    ended = types.SimpleNamespace(returncode=0, stdout="16 MB summed in 5 ms", stderr="")
    monkeypatch.setattr(doctor_far_side.subprocess, "run", lambda *_, **__: ended)
    seat = Seat(1, 2, "127.0.0.1", 7)
    assert doctor_far_side._between_nodes(request_, ALONE)[1] == "not tried, with one node"
    assert doctor_far_side._between_nodes(request_, seat) == (
        "ok",
        "gloo over 2 nodes: 16 MB summed in 5 ms",
        "",
    )
    ended.returncode, ended.stderr = 1, "x\nrank 1 could not meet the others at n1:7\n"
    status, found, fix = doctor_far_side._between_nodes(replace(request_, gpus=True), seat)
    assert (status, found) == ("problem", "NCCL: rank 1 could not meet the others at n1:7")
    assert "NCCL_SOCKET_IFNAME" in fix

    def hang(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(doctor_far_side.subprocess, "run", hang)
    assert "gloo: no end within" in doctor_far_side._between_nodes(request_, seat)[1]
    status, unknown, _ = doctor_far_side._between_nodes(request_, Seat(1, 2, "no.such.invalid", 7))
    assert status == "problem"
    assert "this name of the first node is not known here" in unknown


def test_gpus_that_were_asked_for_and_are_not_there_are_a_problem(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert doctor_far_side._nccl()[0] == "problem"


# What their answers come to.


def answer(node, number, *checks):
    return {"node": node, "number": number, "checks": [asdict(check) for check in checks]}


def test_nodes_that_agree_share_a_line():
    def memory(amount):
        return Check("memory", "ok", f"{amount} GB free for the job")

    [line] = combined({"n1": [memory("9.5")], "n2": [memory("10.1")], "n3": [memory("9.9")]})
    assert line == Check("memory", "ok", "9.5 to 10.1 GB free for the job", "", ("n1", "n2", "n3"))
    [one, two] = combined({"n1": [Check("ray", "ok", "2.60.0")], "n2": [Check("ray", "ok", "2.61.0")]})
    assert (one.nodes, two.nodes) == (("n1",), ("n2",))
    assert one.status == "ok"


def test_other_gpus_on_another_node_warn():
    lines = combined({"n1": [Check("gpus", "ok", "A100 (80 GB)")], "n2": [Check("gpus", "ok", "T4 (16 GB)")]})
    assert [line.status for line in lines] == ["warning", "warning"]
    assert lines[0].found == "A100 (80 GB); others differ"
    same = Check("gpus", "ok", "A100 (80 GB)")
    assert [line.status for line in combined({"n1": [same], "n2": [same]})] == ["ok"]


def test_a_store_that_is_not_seen_back_is_a_problem():
    stores = [answer(name, number, Check("store", "ok", "/s")) for number, name in enumerate(("n1", "n2"))]
    lines = of_answers(stores, is_seen_back=lambda number: number == 0)
    assert [(line.status, line.nodes) for line in lines] == [("ok", ("n1",)), ("problem", ("n2",))]


def test_a_node_without_srloss_is_a_problem():
    told = [
        answer("a (10.0.0.1)", 0, Check("ray", "ok", "2")),
        {"node": "b (10.0.0.2)", "number": 1, "missing": "No module named 'sweeps'"},
        {"node": "c (10.0.0.3)", "number": 2, "failure": "no answer within 60 s"},
    ]
    lines = {line.nodes: line for line in of_answers(told, is_seen_back=lambda _: True)}
    assert "srloss cannot be imported there: No module" in lines[("b",)].found
    assert "ship_code" in lines[("b",)].fix
    assert lines[("c",)].found == "no answer within 60 s"
    twins = [
        answer("a (10.0.0.1)", 0, Check("ray", "ok", "2")),
        answer("a (10.0.0.2)", 1, Check("ray", "ok", "2")),
    ]
    assert of_answers(twins, is_seen_back=lambda _: True)[0].nodes == ("a (10.0.0.1)", "a (10.0.0.2)")


FAILED = JobStatus(JobState.FAILED, "FAILED", "exit code 1", "n[1-2]")


def test_silent_nodes_are_explained(tmp_path):
    hosts, store = ["n1", "n2"], Path("/s")

    def told(answered=(), status=FAILED):
        return doctor_cluster.of_silent(hosts, set(answered), status, tmp_path, store)

    [line] = told(status=replace(FAILED, reason="exit code 77"))
    assert (line.name, line.nodes, line.fix) == ("store", ("n1",), doctor_cluster.SHARED)
    assert "and printed nothing" in told()[0].found
    [line] = told(["n1"])
    assert line.nodes == ("n2",)
    assert "it does not see /s" in line.found
    (tmp_path / "7_1_log.out").write_text("Traceback\nModuleNotFoundError: No module named 'cluster'\n\n")
    [line] = told(["n1"])
    assert (
        line.found
        == "no answer; the job ended as FAILED (exit code 1): ModuleNotFoundError: No module named 'cluster'"
    )
    assert told(["n1", "n2"]) == []


# The job.


@pytest.fixture
def site(monkeypatch, tmp_path):
    """A SLURM that runs the job at once, or says what `state` tells."""
    site = types.SimpleNamespace(submitted=[], cancelled=[], nodes={}, state="COMPLETED", gres="")

    def submit(calls, *, folder, parameters):
        site.submitted.append((folder, parameters))
        for number, (node, checks) in enumerate(site.nodes.items()):
            (folder / f"answer-{number}.json").write_text(json.dumps(answer(node, number, *checks)))
            (folder / f"back-{number}").write_text("")
        return "7"

    def look(_):
        if site.state == "ctrl-c":
            site.state = "CANCELLED"
            raise KeyboardInterrupt
        reason = "Resources" if site.state == "PENDING" else ""
        return {"7": JobStatus(slurm_queue.STATE_OF[site.state], site.state, reason, "n[1-2]")}

    def cancel(jobs):
        site.state = "CANCELLED"
        site.cancelled += jobs

    monkeypatch.setattr(slurm, "submit", submit)
    monkeypatch.setattr(slurm_queue, "look", look)
    monkeypatch.setattr(slurm_queue, "cancel", cancel)
    monkeypatch.setattr(slurm_queue, "partitions", lambda: {"debug": 3600.0})
    monkeypatch.setattr(slurm_site, "hostnames", lambda _: ["n1", "n2"])
    monkeypatch.setattr(slurm_site, "partitions", lambda: [partition(gres=site.gres)])
    monkeypatch.setattr(doctor_cluster, "_SETTLE_S", 0.1)
    monkeypatch.setattr(doctor_cluster, "_LOOK_EVERY_S", 0.01)
    site.store = tmp_path / "it's a store"

    def examine(wait_s=5.0, **block):
        section = ClusterSection.model_validate({"nodes": 2, **block})
        return doctor_cluster.on_slurm(
            section, store=site.store, data=None, wait_s=wait_s, tell=lambda _: None
        )

    site.examine = examine
    return site


def test_a_job_leaves_nothing_behind(site):
    site.nodes = {name: [Check("store", "ok", "/s")] for name in ("n1", "n2")}
    checks = site.examine(cpus_per_node=3, timeout_min=90)
    assert [(check.name, check.status) for check in checks] == [("job", "ok"), ("store", "ok")]
    assert not site.store.exists()
    _, asked = site.submitted[0]
    assert (asked["nodes"], asked["tasks_per_node"], asked["cpus_per_task"]) == (2, 1, 3)
    assert asked["timeout_min"] == 10


def test_what_is_left_of_a_failed_job_is_kept(site):
    site.nodes = {
        "n1": [Check("store", "ok", "/s"), Check("between nodes", "problem", "gloo: x", "open ports")]
    }
    checks = {check.name: check for check in site.examine() if check.status == "problem"}
    assert checks["store"].nodes == ("n2",)
    assert checks["between nodes"].fix == "first see to n2"
    assert list(site.store.glob("doctor/*/answer-0.json"))


def test_a_job_that_waits_for_too_long_is_cancelled(site):
    site.state = "PENDING"
    with pytest.raises(doctor_cluster.NotStarted, match=r"SLURM job 7 has not started within 0 s: Resources"):
        site.examine(wait_s=0)
    assert site.cancelled == ["7"]
    assert not site.store.exists()


def test_ctrl_c_cancels_the_job(site):
    site.state = "ctrl-c"
    with pytest.raises(KeyboardInterrupt, match="SLURM job 7 is cancelled"):
        site.examine()
    assert site.cancelled == ["7"]
    assert not site.store.exists()


def test_a_wrong_partition_is_told_before(site):
    with pytest.raises(ConfigError, match="unknown partition 'debgu'"):
        site.examine(slurm_partition="debgu")
    assert site.submitted == []


def test_gpus_that_were_not_asked_for_are_told(site):
    site.nodes = {name: [] for name in ("n1", "n2")}
    site.gres = "gpu:a100:4"
    [line] = site.examine()[1:]
    assert (line.status, line.found) == (
        "warning",
        "partition debug has gpu:a100:4, and this job asked for none",
    )
    assert site.examine(gpus_per_node=4)[1:] == []


def test_the_script_looks_for_the_store_first(tmp_path, request_):
    folder = tmp_path / "it's; a $(store)"
    folder.mkdir()
    asked = doctor_cluster.parameters(
        ClusterSection.model_validate({"slurm_setup": ("true",)}),
        replace(request_, folder=str(folder), wait_s=1),
    )
    assert asked["slurm_setup"][0] == "true"
    script = "\n".join([*asked["slurm_setup"], "echo went on"])
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (77, "")
    (folder / "nonce").write_text("abc")
    assert subprocess.run(["bash", "-c", script], capture_output=True, text=True).stdout == "went on\n"


@contextmanager
def quiet():
    yield lambda _: None


def test_the_command_tells_what_went_wrong(monkeypatch, capsys):
    def late(*_, **__):
        raise doctor_cluster.NotStarted("SLURM job 7 has not started within 1 s: Resources; it is cancelled")

    monkeypatch.setattr(doctor_cluster, "on_slurm", late)
    monkeypatch.setattr(doctor_schedulers, "slurm", list)
    monkeypatch.setattr(examined, "_progress", quiet)
    plain = {"address": None, "data": None, "store": None, "wait_s": 1, "as_json": True}
    assert examined.on_cluster("slurm", [], **plain) == 1
    [told] = json.loads(capsys.readouterr().out)
    assert (told["name"], told["status"]) == ("job", "problem")
    with pytest.raises(ConfigError, match="--on: unknown 'pbs'"):
        examined.on_cluster("pbs", [], **plain)
    with pytest.raises(ConfigError, match="only what the job asks for"):
        examined.on_cluster("slurm", ["nodes=2"], **plain)
    with pytest.raises(ConfigError, match="unknown key 'node'"):
        examined.on_cluster("slurm", ["cluster.node=2"], **plain)


# The schedulers.


def partition(name="debug", **changes):
    plain = {"is_default": True, "is_up": True, "limit": "1:00:00", "nodes_up": 2, "nodes": 2, "cpus": "16"}
    plain |= {"gres": "", "preempt_mode": "OFF", "grace_s": 0.0}
    return slurm_site.Partition(name=name, **{**plain, **changes})


def test_partitions_that_take_no_job_are_a_problem():
    status, found, _ = doctor_schedulers.of_partitions([partition(gres="gpu:a100:4")])
    assert (status, found) == (
        "ok",
        "debug (default): 2 of 2 nodes up, 16 CPUs each, gpu:a100:4, at most 1:00:00",
    )
    assert doctor_schedulers.of_partitions([partition(nodes_up=0)])[0] == "problem"
    assert doctor_schedulers.of_partitions([partition(is_up=False)])[0] == "problem"
    assert doctor_schedulers.of_partitions([partition(is_default=False)])[0] == "warning"
    assert "and 2 more" in doctor_schedulers.of_partitions([partition(f"p{i}") for i in range(10)])[1]


@pytest.mark.parametrize(
    ("changes", "settings", "status", "words"),
    [
        ({}, {}, "ok", "left alone"),
        ({"preempt_mode": "REQUEUE", "grace_s": 60}, {}, "ok", "told by SIGTERM, 60 s to save"),
        (
            {"preempt_mode": "REQUEUE", "grace_s": 60},
            {"SlurmctldParameters": "preempt_send_user_signal"},
            "ok",
            "told by USR2",
        ),
        ({"preempt_mode": "REQUEUE"}, {}, "warning", "too short"),
        ({"preempt_mode": "CANCEL", "grace_s": 60}, {}, "warning", "does not requeue"),
        ({"preempt_mode": "CANCEL"}, {"PreemptType": "preempt/none"}, "ok", "left alone"),
        ({}, {"PreemptType": "preempt/qos"}, "ok", "sacctmgr show qos"),
    ],
)
def test_what_preemption_costs(changes, settings, status, words):
    told = doctor_schedulers.of_preemption(
        {"PreemptType": "preempt/partition_prio", **settings}, [partition(**changes)]
    )
    assert told[0] == status
    assert words in told[1]


OUTPUTS = {
    "sinfo --version": "slurm-wlm 22.05.8\n",
    "scontrol show config": "ClusterName = lab\nAccountingStorageType = accounting_storage/slurmdbd\nPreemptMode = OFF\n",
    "scontrol --oneliner": "PartitionName=gpu AllowGroups=ALL PreemptMode=REQUEUE GraceTime=20 MaxNodes=4\n",
    "sinfo --noheader": "gpu*|up|infinite|1/2/1/4|16|gpu:a100:4(S:0-1)\ngpu*|up|infinite|0/1/0/1|64|(null)\n",
    "sacct --allocations": "",
}


@pytest.fixture
def told(monkeypatch):
    """What SLURM's commands print."""
    outputs = dict(OUTPUTS)

    def run(*command):
        text = outputs[" ".join(command)] if " ".join(command) in outputs else outputs[" ".join(command[:2])]
        fails = text.startswith("error")
        return subprocess.CompletedProcess(command, int(fails), "" if fails else text, text if fails else "")

    monkeypatch.setattr(slurm_site, "run", run)
    monkeypatch.setattr(slurm_queue, "is_here", lambda: True)
    return outputs


def test_what_slurm_says_of_itself(told):
    [found] = slurm_site.partitions()
    assert (found.name, found.is_default, found.nodes_up, found.nodes) == ("gpu", True, 4, 5)
    assert (found.cpus, found.gres, found.grace_s) == ("16 or 64", "gpu:a100:4", 20.0)
    assert [check.status for check in doctor_schedulers.slurm()] == ["ok"] * 4
    told["sacct --allocations"] = "error: slurm_persist_conn_open: no answer"
    checks = {check.name: check for check in doctor_schedulers.slurm()}
    assert checks["slurm accounting"].status == "warning"
    told["scontrol show config"] = "error: Unable to contact slurm controller"
    [check] = doctor_schedulers.slurm()
    assert check.status == "warning"
    assert "Unable to contact slurm controller" in check.found


def test_a_ray_cluster_that_does_not_answer_warns(monkeypatch):
    monkeypatch.setattr(slurm_queue, "is_here", lambda: False)
    none, ray = doctor_schedulers.examine()
    assert (none.found, ray.status) == ("none on this machine", "ok")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    check = doctor_schedulers.examine()[1]
    assert check.status == "warning"
    assert check.found.startswith("$RAY_API_SERVER_ADDRESS: Ray at http://127.0.0.1:1: does not answer")
    monkeypatch.setattr(doctor_schedulers, "version_at", lambda _: "2.60.0")
    assert doctor_schedulers.examine()[1].found == "Ray 2.60.0 at http://127.0.0.1:1"


def test_what_a_job_on_ray_has_found(monkeypatch, tmp_path):
    asked = {}

    def submit(entrypoint, **settings):
        asked.update(settings, request=json.loads(entrypoint[4]))
        return settings["submission_id"]

    log = f"noise\n{doctor_far_side.ANSWER}{json.dumps([answer('a (1)', 0, Check('ray', 'ok', '2'))])}\n"
    monkeypatch.setattr(ray_jobs, "submit", submit)
    monkeypatch.setattr(ray_jobs, "look", lambda _: JobStatus(JobState.SUCCEEDED, "SUCCEEDED"))
    monkeypatch.setattr(ray_jobs, "logs", lambda _: log)
    section = ClusterSection(address="http://h:8265")
    settings = {"store": tmp_path / "s", "data": None, "wait_s": 1, "tell": lambda _: None}
    job, ray = doctor_cluster.on_ray(section, **settings)
    assert (ray.found, ray.nodes) == ("2", ("a",))
    assert job.found.endswith("at http://h:8265")
    assert asked["request"]["versions"] == code.versions()
    assert not (tmp_path / "s").exists()
    log = "error: the head has no srloss\n"
    with pytest.raises(ValueError, match="the head has no srloss"):
        doctor_cluster.on_ray(section, **settings)


def test_the_block_of_a_sweep_asks_for_the_same_place(request_):
    section = ClusterSection(slurm_partition="gpu", slurm_account="lab", mem_gb=8)
    asked = doctor_cluster.parameters(section, request_)
    swept = slurm_submission.parameters_of(section, name="x")
    assert [asked[name] for name in ("slurm_partition", "slurm_account", "mem_gb")] == ["gpu", "lab", 8.0]
    assert set(swept) <= set(asked)
