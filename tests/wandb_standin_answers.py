"""What the stand-in for the W&B server remembers of its runs, and what it answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

HISTORY = "wandb-history.jsonl"


class BadRequestError(Exception):
    """A request that the stand-in cannot make sense of; the text goes back to the client."""


@dataclass
class StandinRun:
    """What has arrived of one run."""

    id: str
    project: str
    entity: str
    group: str = ""
    job_type: str = ""
    display_name: str = ""
    notes: str = ""
    tags: list[str] = field(default_factory=list)
    raw_config: dict[str, Any] = field(default_factory=dict)
    """As W&B holds it: `{"key": {"value": ...}}`, and the client's own in `_wandb`."""
    streams: dict[str, list[str]] = field(default_factory=dict)
    """Lines of each streamed file, at the offsets that the client gave."""
    files: dict[str, bytes] = field(default_factory=dict)
    artifacts: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """By name without a version; the newest version's files."""
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    """When rows came (time.monotonic()), and how many there were then."""
    state: str = "running"
    exit_code: int | None = None
    is_preempting: bool = False

    @property
    def config(self) -> dict[str, Any]:
        """Without W&B's wrapping."""
        return {name: entry["value"] for name, entry in self.raw_config.items() if name != "_wandb"}

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows in order, doubles included."""
        return [json.loads(line) for line in self.streams.get(HISTORY, ()) if line]

    @property
    def summary(self) -> dict[str, Any]:
        lines = self.streams.get("wandb-summary.json")
        return json.loads(lines[-1]) if lines else {}

    @property
    def last_step(self) -> int:
        return max((row["_step"] for row in self.history), default=-1)

    def place(self, name: str, offset: int, lines: list[str]) -> None:
        """Puts lines where they belong: what is sent again replaces itself rather than doubling."""
        if name == "wandb-summary.json":
            offset, lines = 0, lines[-1:]
        have = self.streams.setdefault(name, [])
        have.extend([""] * (offset + len(lines) - len(have)))
        have[offset : offset + len(lines)] = lines
        if name == HISTORY and lines:
            self.arrivals.append((time.monotonic(), len(have)))

    def end(self, exit_code: int) -> None:
        """W&B calls a run preempted when it said that it would be and did not end well."""
        self.exit_code = exit_code
        badly = "preempted" if self.is_preempting else "failed"
        self.state = badly if exit_code else "finished"

    def begin_again(self) -> None:
        """A client goes on with it."""
        self.state, self.exit_code, self.is_preempting = "running", None, False

    def answer(self) -> dict[str, Any]:
        """All of it that GraphQL's queries may ask for; clients take what they asked for."""
        rows = self.history
        return {
            "id": f"storage-{self.id}",
            "name": self.id,
            "projectId": "1",
            "displayName": self.display_name,
            "state": self.state,
            "group": self.group,
            "jobType": self.job_type,
            "tags": self.tags,
            "notes": self.notes,
            "description": "",
            "commit": None,
            "sweepName": None,
            "readOnly": False,
            "createdAt": "2026-01-01T00:00:00",
            "heartbeatAt": "2026-01-01T00:00:00",
            "user": {"name": "standin", "username": "standin"},
            "config": json.dumps(self.raw_config),
            # The client takes a run without `t` for one that never was.
            "wandbConfig": json.dumps({"t": 1}),
            "summaryMetrics": json.dumps(self.summary),
            "systemMetrics": "{}",
            "historyLineCount": len(self.streams.get(HISTORY, ())),
            "eventsLineCount": len(self.streams.get("wandb-events.jsonl", ())),
            "logLineCount": len(self.streams.get("output.log", ())),
            "historyTail": json.dumps(self.streams.get(HISTORY, [])[-1:]),
            "eventsTail": json.dumps(self.streams.get("wandb-events.jsonl", [])[-1:]),
            "historyKeys": {"lastStep": self.last_step, "sets": [], "keys": _history_keys(rows)},
        }


def _history_keys(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: {"typeCounts": [{"type": "number"}]} for row in rows for name in row}


@dataclass
class _Artifact:
    run: str
    name: str
    type: str
    digest: str
    is_committed: bool = False


class Answers:
    """State of the stand-in and the table of what it answers, by the name of GraphQL's operation."""

    entity = "lab"

    def __init__(self, url: Callable[[], str]) -> None:
        self.runs: dict[str, StandinRun] = {}
        self.views: list[dict[str, Any]] = []
        self.unknown: list[str] = []
        self._url = url
        self._artifacts: list[_Artifact] = []
        self._resuming: set[str] = set()
        self._lock = threading.RLock()
        self._table: dict[str, Callable[[dict[str, Any]], object]] = {
            "Viewer": self._viewer,
            "GetViewer": self._viewer,
            "OrganizationCoreWeaveOrganizationID": lambda _v: {
                "entity": {"organization": {"coreWeaveOrganizationId": None}}
            },
            "ServerFeaturesQuery": lambda _v: {"serverInfo": {"features": []}},
            "UpsertBucket": self._upsert_run,
            "RunResumeStatus": self._resume_status,
            "CreateRunFiles": self._run_files,
            "ArtifactType": self._artifact_type,
            "CreateArtifact": self._create_artifact,
            "CreateArtifactManifest": self._create_manifest,
            "UpdateArtifactManifest": self._update_manifest,
            "CreateArtifactFiles": self._artifact_files,
            "CommitArtifact": self._commit_artifact,
            "UpsertView2": self._upsert_view,
            "View": self._view,
            "Run": self._run,
            "RunState": self._run,
            "RunHistoryKeys": self._run,
            "RunFullHistory": self._full_history,
            "RunSampledHistory": self._sampled_history,
            "SampledHistoryPage": self._sampled_history,
            "RunParquetHistory": self._parquet_history,
            "HistoryPage": self._history_page,
            "Runs": self._runs,
            "RunFiles": self._list_files,
        }

    def graphql(self, name: str, variables: dict[str, Any]) -> object:
        """The `data` of the answer."""
        with self._lock:
            if name not in self._table:
                self.unknown.append(name)
                raise BadRequestError(f"the stand-in for W&B does not know the GraphQL operation {name}")
            return self._table[name](variables)

    def file_stream(self, run_id: str, body: dict[str, Any]) -> None:
        """Lines of streamed files, a heartbeat, or the end."""
        with self._lock:
            if run_id not in self.runs:
                raise BadRequestError(f"file_stream of the run {run_id}, which nobody has created")
            run = self.runs[run_id]
            for name, part in (body.get("files") or {}).items():
                run.place(name, part.get("offset", 0), part.get("content") or [])
            if body.get("preempting"):
                run.is_preempting = True
            if body.get("complete"):
                run.end(body.get("exitcode", 0))
            else:
                run.state, run.exit_code = "preempting" if run.is_preempting else "running", None

    def upload(self, path: str, body: bytes) -> str:
        """Keeps a file that was put to an address given out before; gives its name."""
        with self._lock:
            _, kind, owner, name = path.split("/", 3)
            if kind == "run-file":
                self.runs[owner].files[name] = body
            elif kind == "artifact-file":
                artifact = self._artifacts[int(owner)]
                self.runs[artifact.run].artifacts.setdefault(artifact.name, {})[name] = body
            elif kind != "artifact-manifest":
                raise BadRequestError(f"the stand-in for W&B gave nobody the address {path}")
            return name

    def _viewer(self, _variables: dict[str, Any]) -> object:
        return {
            "viewer": {
                "id": "user-1",
                "entity": self.entity,
                "username": "standin",
                "name": "standin",
                "email": "standin@localhost",
                "flags": "{}",
                "admin": False,
                "teams": {"edges": [{"node": {"name": self.entity}}]},
            }
        }

    def _project_of(self, run: StandinRun) -> dict[str, Any]:
        entity = {"id": "entity-1", "name": run.entity}
        return {"id": "project-1", "name": run.project, "entity": entity}

    def _upsert_run(self, variables: dict[str, Any]) -> object:
        run_id = variables.get("name") or str(variables.get("id", "")).removeprefix("storage-")
        inserted = run_id not in self.runs
        project, entity = variables.get("project") or "uncategorized", variables.get("entity") or self.entity
        run = self.runs.setdefault(run_id, StandinRun(run_id, project, entity, display_name=run_id))
        kept = {
            "groupName": "group",
            "jobType": "job_type",
            "displayName": "display_name",
            "notes": "notes",
            "tags": "tags",
        }
        for sent, attribute in kept.items():
            if variables.get(sent) is not None:
                setattr(run, attribute, variables[sent])
        if run_id in self._resuming:
            self._resuming.remove(run_id)
            run.begin_again()
        if variables.get("config"):
            run.raw_config = json.loads(variables["config"])
        if variables.get("summaryMetrics"):
            run.place("wandb-summary.json", 0, [variables["summaryMetrics"]])
        bucket = {**run.answer(), "project": self._project_of(run)}
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _resume_status(self, variables: dict[str, Any]) -> object:
        run = self.runs.get(variables["name"])
        if run:
            # Asked at the start of a client; its first UpsertBucket follows.
            self._resuming.add(run.id)
        entity = {"id": "entity-1", "name": variables.get("entity") or self.entity}
        model = {"id": "project-1", "name": variables.get("project"), "entity": entity}
        return {"model": {**model, "bucket": run and run.answer()}}

    def _run_files(self, variables: dict[str, Any]) -> object:
        run = variables["run"]
        files = [
            {"name": name, "uploadUrl": f"{self._url()}/run-file/{run}/{name}"} for name in variables["files"]
        ]
        return {"createRunFiles": {"runID": f"storage-{run}", "uploadHeaders": [], "files": files}}

    def _artifact_type(self, variables: dict[str, Any]) -> object:
        name = variables["name"].partition(":")[0]
        known = next((artifact for artifact in self._artifacts if artifact.name == name), None)
        return {"project": {"artifact": known and {"artifactType": {"name": known.type}}}}

    def _create_artifact(self, variables: dict[str, Any]) -> object:
        sent = variables["input"]
        name = (sent.get("artifactCollectionNames") or [sent.get("artifactCollectionName")])[0]
        same = (a for a in self._artifacts if (a.name, a.digest) == (name, sent["digest"]))
        artifact = next(same, None)
        if artifact is None:
            artifact = _Artifact(sent["runName"], name, sent["artifactTypeName"], sent["digest"])
            self._artifacts.append(artifact)
        number = self._artifacts.index(artifact)
        answer = {
            "id": str(number),
            "digest": artifact.digest,
            "state": "COMMITTED" if artifact.is_committed else "PENDING",
            "artifactSequence": {"id": f"sequence-{name}", "latestArtifact": None},
        }
        return {"createArtifact": {"artifact": answer}}

    def _manifest(self, artifact: str, name: str) -> dict[str, Any]:
        address = f"{self._url()}/artifact-manifest/{artifact}/{name}"
        file = {"id": f"file-{artifact}", "uploadUrl": address, "uploadHeaders": []}
        return {"artifactManifest": {"id": f"manifest-{artifact}", "file": file}}

    def _create_manifest(self, variables: dict[str, Any]) -> object:
        return {"createArtifactManifest": self._manifest(variables["artifactID"], variables["name"])}

    def _update_manifest(self, variables: dict[str, Any]) -> object:
        artifact = variables["artifactManifestID"].removeprefix("manifest-")
        return {"updateArtifactManifest": self._manifest(artifact, "wandb_manifest.json")}

    def _artifact_files(self, variables: dict[str, Any]) -> object:
        edges = []
        for file in variables["input"]["artifactFiles"]:
            number, name = file["artifactID"], file["name"]
            node = {
                "storagePath": name,
                "uploadUrl": f"{self._url()}/artifact-file/{number}/{name}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": number},
            }
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _commit_artifact(self, variables: dict[str, Any]) -> object:
        artifact = self._artifacts[int(variables["artifactID"])]
        artifact.is_committed = True
        return {"commitArtifact": {"artifact": {"id": variables["artifactID"], "digest": artifact.digest}}}

    def _upsert_view(self, variables: dict[str, Any]) -> object:
        self.views.append({**variables, "spec": json.loads(variables["spec"])})
        view = {"id": variables.get("id") or f"view-{len(self.views)}", "name": variables["name"]}
        return {"upsertView": {"view": view, "inserted": not variables.get("id")}}

    def _view(self, variables: dict[str, Any]) -> object:
        mine = [
            {
                "id": view.get("id") or f"view-{number}",
                "displayName": view["displayName"],
                "spec": json.dumps(view["spec"]),
            }
            for number, view in enumerate(self.views, start=1)
            if (view["entityName"], view["projectName"], view["name"])
            == (variables["entityName"], variables["projectName"], variables["viewName"])
        ]
        return {"project": {"allViews": {"edges": [{"node": view} for view in mine[-1:]]}}}

    def _found(self, variables: dict[str, Any]) -> StandinRun | None:
        run = self.runs.get(variables.get("run") or variables.get("runName") or variables.get("name") or "")
        asked = (variables["entity"], variables["project"])
        return run if run and (run.entity, run.project) == asked else None

    def _run(self, variables: dict[str, Any]) -> object:
        run = self._found(variables)
        return {"project": {"run": run and run.answer()}}

    def _rows(
        self, variables: dict[str, Any], value: Callable[[list[dict[str, Any]]], dict[str, Any]]
    ) -> object:
        run = self._found(variables)
        return {"project": {"run": run and value(run.history)}}

    def _full_history(self, variables: dict[str, Any]) -> object:
        return self._rows(variables, lambda rows: {"history": [json.dumps(r) for r in rows], "events": []})

    def _sampled_history(self, variables: dict[str, Any]) -> object:
        wanted = [set(json.loads(spec)["keys"]) for spec in variables.get("specs") or [variables["spec"]]]
        return self._rows(
            variables,
            lambda rows: {"sampledHistory": [[r for r in rows if keys <= set(r)] for keys in wanted]},
        )

    def _parquet_history(self, variables: dict[str, Any]) -> object:
        # Nothing has been exported to Parquet: the client reads the rows page by page.
        return self._rows(
            variables, lambda rows: {"parquetHistory": {"parquetUrls": [], "liveData": rows[:1]}}
        )

    def _history_page(self, variables: dict[str, Any]) -> object:
        steps = range(int(variables["minStep"]), int(variables["maxStep"]))
        size = variables["pageSize"]
        return self._rows(
            variables, lambda rows: {"history": [json.dumps(r) for r in rows if r["_step"] in steps][:size]}
        )

    def _list_files(self, variables: dict[str, Any]) -> object:
        run = self._found(variables)
        names = sorted(run.files) if run else []
        start = int(variables.get("fileCursor") or 0)
        page = names[start : start + (variables.get("fileLimit") or 50)]
        end = start + len(page)
        sizes = {name: len(run.files[name]) for name in page} if run else {}
        edges = [
            {"node": {"id": name, "name": name, "sizeBytes": str(size)}, "cursor": str(start + n + 1)}
            for n, (name, size) in enumerate(sizes.items())
        ]
        files = {"edges": edges, "pageInfo": {"endCursor": str(end), "hasNextPage": end < len(names)}}
        return {"project": {"internalId": "1", "run": run and {"fileCount": len(names), "files": files}}}

    def _runs(self, variables: dict[str, Any]) -> object:
        asked = (variables["entity"], variables["project"])
        wanted = json.loads(variables.get("filters") or "{}")
        runs = [
            run for run in self.runs.values() if (run.entity, run.project) == asked and _fits(run, wanted)
        ]
        start = int(variables.get("cursor") or 0)
        page = runs[start : start + (variables.get("perPage") or 50)]
        end = start + len(page)
        edges = [{"node": run.answer(), "cursor": str(start + n + 1)} for n, run in enumerate(page)]
        paging = {"endCursor": str(end), "hasNextPage": end < len(runs)}
        project = {"internalId": "1", "runCount": len(runs), "readOnly": False}
        return {"project": {**project, "runs": {"edges": edges, "pageInfo": paging}}}


def _fits(run: StandinRun, wanted: dict[str, Any]) -> bool:
    fields = {"group": run.group, "jobType": run.job_type, "displayName": run.display_name, "name": run.id}
    fields |= {"display_name": run.display_name, "state": run.state}
    fields |= {f"config.{name}": value for name, value in run.config.items()}
    if strange := set(wanted) - set(fields):
        raise BadRequestError(f"the stand-in for W&B cannot filter runs by {', '.join(sorted(strange))}")
    return all(fields[name] == value for name, value in wanted.items())
