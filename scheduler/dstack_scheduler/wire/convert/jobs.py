"""A job as messages, and back: its key, its specification, its states."""

from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration

from dstack_mesh.signing import Signed
from dstack_mesh.v1 import job_pb2
from dstack_scheduler.app import App
from dstack_scheduler.job import (
    MOST_NODES,
    MOST_PORTS,
    Input,
    JobKey,
    JobSpec,
    JobState,
    Node,
    Revision,
    Source,
    StateChange,
)
from dstack_scheduler.needs import Needs
from dstack_scheduler.prebuild import Prebuild
from dstack_scheduler.retry import MOST_ATTEMPTS, Retry
from dstack_scheduler.secret import RegistryAuth, is_placeholder, why_no_name
from dstack_scheduler.wire import fields

_STATES: dict[JobState, job_pb2.JobState.ValueType] = {
    JobState.SUBMITTED: job_pb2.JOB_STATE_SUBMITTED,
    JobState.WAITING: job_pb2.JOB_STATE_WAITING,
    JobState.PREPARING: job_pb2.JOB_STATE_PREPARING,
    JobState.RUNNING: job_pb2.JOB_STATE_RUNNING,
    JobState.SAVING: job_pb2.JOB_STATE_SAVING,
    JobState.DONE: job_pb2.JOB_STATE_DONE,
    JobState.FAILED: job_pb2.JOB_STATE_FAILED,
    JobState.STOPPING: job_pb2.JOB_STATE_STOPPING,
    JobState.STOPPED: job_pb2.JOB_STATE_STOPPED,
    JobState.ABORTING: job_pb2.JOB_STATE_ABORTING,
    JobState.ABORTED: job_pb2.JOB_STATE_ABORTED,
    JobState.LOST: job_pb2.JOB_STATE_LOST,
}
_STATES_BACK = {wire: state for state, wire in _STATES.items()}

_PREBUILDS: dict[Prebuild, job_pb2.Prebuild.ValueType] = {
    Prebuild.USUAL: job_pb2.PREBUILD_UNSPECIFIED,
    Prebuild.FORCE: job_pb2.PREBUILD_FORCE,
    Prebuild.NEVER: job_pb2.PREBUILD_NEVER,
}
_PREBUILDS_BACK = {wire: prebuild for prebuild, wire in _PREBUILDS.items()}


def key_to_wire(key: JobKey) -> job_pb2.JobKey:
    return job_pb2.JobKey(run_id=key.run_id, job=key.job, attempt=key.attempt)


def key_from_wire(wire: job_pb2.JobKey, newest: bool = False) -> JobKey:
    """An attempt's key. Attempt 0 is valid only where it may stand for the `newest` one."""
    attempt = wire.attempt if newest else fields.attempt(wire.attempt)
    return JobKey(fields.run_id(wire.run_id), fields.index(wire.job), attempt)


def needs_to_wire(needs: Needs) -> job_pb2.Needs:
    return job_pb2.Needs(
        cpus=needs.cpus,
        memory_bytes=needs.memory_bytes,
        gpus=needs.gpus,
        gpu_name=needs.gpu_name,
        gpu_memory_bytes=needs.gpu_memory_bytes,
        shm_bytes=needs.shm_bytes,
        interruptible=needs.interruptible,
        gpu_memory_most_bytes=needs.gpu_memory_most_bytes,
    )


def needs_from_wire(wire: job_pb2.Needs) -> Needs:
    return Needs(
        cpus=wire.cpus,
        memory_bytes=wire.memory_bytes,
        gpus=wire.gpus,
        gpu_name=fields.line(wire.gpu_name, "The name of the card"),
        gpu_memory_bytes=wire.gpu_memory_bytes,
        shm_bytes=wire.shm_bytes,
        interruptible=wire.interruptible,
        gpu_memory_most_bytes=wire.gpu_memory_most_bytes,
    )


def source_to_wire(source: Source) -> job_pb2.Source:
    return job_pb2.Source(peer_id=source.peer_id, addresses=source.addresses)


def source_from_wire(wire: job_pb2.Source) -> Source:
    return Source(fields.peer_id(wire.peer_id), fields.addresses(wire.addresses))


def sources_from_wire(wires: Iterable[job_pb2.Source]) -> tuple[Source, ...]:
    return tuple(source_from_wire(wire) for wire in fields.items(wires, "Sources"))


def input_to_wire(what: Input) -> job_pb2.Input:
    return job_pb2.Input(
        digest=what.digest,
        path=what.path,
        sources=[source_to_wire(source) for source in what.sources],
        origin=what.origin,
        size_bytes=what.size_bytes,
    )


def input_from_wire(wire: job_pb2.Input) -> Input:
    return Input(
        digest=fields.digest(wire.digest, "The input's digest"),
        path=fields.path(wire.path, "The input's path"),
        sources=sources_from_wire(wire.sources),
        origin=fields.line(wire.origin, "The input's origin", fields.PATH),
        size_bytes=wire.size_bytes,
    )


def revision_to_wire(revision: Revision) -> job_pb2.Revision:
    return job_pb2.Revision(
        repo=revision.repo, branch=revision.branch, commit=revision.commit, dirty=revision.dirty
    )


def revision_from_wire(wire: job_pb2.Revision) -> Revision:
    return Revision(
        repo=fields.line(wire.repo, "The repository", fields.PATH),
        branch=fields.line(wire.branch, "The branch"),
        commit=fields.line(wire.commit, "The commit"),
        dirty=wire.dirty,
    )


def auth_to_wire(auth: RegistryAuth | None) -> job_pb2.RegistryAuth | None:
    return auth and job_pb2.RegistryAuth(username=auth.username, password=auth.password)


def auth_from_wire(wire: job_pb2.RegistryAuth) -> RegistryAuth:
    """Raises Invalid if the password is there in plain."""
    if not is_placeholder(wire.password):
        raise fields.refuse("The registry's password", "…", "it is no placeholder of a secret")
    return RegistryAuth(fields.line(wire.username, "The registry's user"), wire.password)


def retry_to_wire(retry: Retry | None) -> job_pb2.Retry | None:
    return retry and job_pb2.Retry(
        attempts=retry.attempts,
        events=retry.events,
        duration=_limit_to_wire(retry.duration_seconds),
    )


def retry_from_wire(wire: job_pb2.Retry) -> Retry:
    if wire.attempts > MOST_ATTEMPTS:
        raise fields.refuse("The attempts", wire.attempts, f"they are at most {MOST_ATTEMPTS}")
    limit = fields.seconds_from_wire(wire.duration) if wire.HasField("duration") else None
    return Retry(wire.attempts, fields.lines(wire.events, "What is tried again after"), limit)


def _limit_to_wire(seconds: float | None) -> Duration | None:
    return None if seconds is None else fields.seconds_to_wire(seconds)


def app_to_wire(app: App) -> job_pb2.App:
    return job_pb2.App(
        name=app.name,
        port=app.port,
        local=app.local,
        path=app.path,
        query=app.query,
        token=app.token,
        web=app.web,
        ssh=app.ssh,
        editor=app.editor,
    )


def apps_from_wire(wires: Iterable[job_pb2.App], ports: int) -> tuple[App, ...]:
    """Apps of a job with so many ports. Raises Invalid for a port that it has not."""
    return tuple(_app_from_wire(wire, ports) for wire in fields.items(wires, "Apps", MOST_PORTS))


def _app_from_wire(wire: job_pb2.App, ports: int) -> App:
    if wire.port >= ports:
        raise fields.refuse("The app's port", wire.port, f"the job has {ports}")
    if wire.token and (why := why_no_name(wire.token)):
        raise fields.refuse("The variable of the app's token", wire.token, why)
    return App(
        name=fields.line(wire.name, "The app's name"),
        port=wire.port,
        local=fields.port(wire.local),
        path=fields.line(wire.path, "The app's path"),
        query=fields.line(wire.query, "The app's query"),
        token=wire.token,
        web=wire.web,
        ssh=wire.ssh,
        editor=wire.editor,
    )


def node_to_wire(node: Node | None) -> job_pb2.Node | None:
    return node and job_pb2.Node(rank=node.rank, count=node.count, master=node.master)


def node_from_wire(wire: job_pb2.Node) -> Node:
    """Raises Invalid if the rank is none of the gang's."""
    if not wire.rank < wire.count <= MOST_NODES:
        raise fields.refuse("The node", wire.rank, f"it is none of {wire.count}")
    return Node(wire.rank, wire.count, fields.line(wire.master, "The master's address"))


def spec_to_wire(spec: JobSpec) -> job_pb2.JobSpec:
    return job_pb2.JobSpec(
        key=key_to_wire(spec.key),
        run_name=spec.run_name,
        workflow=spec.workflow,
        provider=spec.provider,
        commands=spec.commands,
        image=spec.image,
        entrypoint=spec.entrypoint,
        env=spec.env,
        working_dir=spec.working_dir,
        artifacts=[job_pb2.ArtifactRequest(path=path) for path in spec.artifacts],
        inputs=[input_to_wire(each) for each in spec.inputs],
        code_digest=spec.code_digest,
        python=spec.python,
        stop_grace=fields.seconds_to_wire(spec.stop_grace_seconds),
        max_duration=_limit_to_wire(spec.max_duration_seconds),
        owner=spec.owner,
        revision=revision_to_wire(spec.revision),
        variables=spec.variables,
        submitted_at=fields.instant_to_wire(spec.submitted_at),
        needs=needs_to_wire(spec.needs),
        secret_names=spec.secret_names,
        target=spec.target,
        job_count=spec.job_count,
        ports=spec.ports,
        registry_auth=auth_to_wire(spec.registry_auth),
        installs=spec.installs,
        idle_timeout=_limit_to_wire(spec.idle_timeout_seconds),
        retry=retry_to_wire(spec.retry),
        cache=spec.cache,
        counted=spec.counted,
        apps=[app_to_wire(app) for app in spec.apps],
        node=node_to_wire(spec.node),
        makes=spec.makes,
        prebuild=_PREBUILDS[spec.prebuild],
    )


def spec_from_wire(wire: job_pb2.JobSpec) -> JobSpec:
    limit = fields.seconds_from_wire(wire.max_duration) if wire.HasField("max_duration") else None
    idle = fields.seconds_from_wire(wire.idle_timeout) if wire.HasField("idle_timeout") else None
    return JobSpec(
        key=key_from_wire(wire.key),
        run_name=fields.run_name(wire.run_name),
        workflow=fields.line(wire.workflow, "The workflow"),
        provider=fields.line(wire.provider, "The provider"),
        commands=fields.texts(wire.commands, "Commands"),
        image=fields.line(wire.image, "The image", fields.PATH),
        entrypoint=fields.texts(wire.entrypoint, "The entrypoint"),
        env=fields.mapping(wire.env, "The environment"),
        working_dir=fields.start(wire.working_dir, "The working directory"),
        artifacts=tuple(
            fields.path(each.path, "The artifact's path")
            for each in fields.items(wire.artifacts, "Artifacts")
        ),
        inputs=tuple(input_from_wire(each) for each in fields.items(wire.inputs, "Inputs")),
        code_digest=fields.digest(wire.code_digest, "The code's digest"),
        python=fields.line(wire.python, "The Python version"),
        stop_grace_seconds=fields.seconds_from_wire(wire.stop_grace),
        max_duration_seconds=limit,
        owner=fields.line(wire.owner, "The owner"),
        revision=revision_from_wire(wire.revision),
        variables=fields.mapping(wire.variables, "Variables"),
        submitted_at=fields.instant_from_wire(wire.submitted_at),
        needs=needs_from_wire(wire.needs),
        secret_names=fields.lines(wire.secret_names, "Names of secrets"),
        target=fields.line(wire.target, "The target"),
        job_count=wire.job_count or 1,
        ports=tuple(fields.port(each) for each in fields.items(wire.ports, "Ports", MOST_PORTS)),
        registry_auth=auth_from_wire(wire.registry_auth)
        if wire.HasField("registry_auth")
        else None,
        installs=fields.texts(wire.installs, "What is installed"),
        idle_timeout_seconds=idle,
        retry=retry_from_wire(wire.retry) if wire.HasField("retry") else None,
        cache=tuple(
            fields.path(each, "A folder that stays")
            for each in fields.items(wire.cache, "Folders that stay")
        ),
        counted=fields.lines(wire.counted, "Patterns of files"),
        apps=apps_from_wire(wire.apps, len(wire.ports)),
        node=node_from_wire(wire.node) if wire.HasField("node") else None,
        makes=fields.line(wire.makes, "The workflow whose jobs it makes"),
        prebuild=_PREBUILDS_BACK.get(wire.prebuild, Prebuild.USUAL),
    )


def state_to_wire(change: StateChange) -> job_pb2.StateChange:
    return job_pb2.StateChange(
        key=key_to_wire(change.key),
        state=_STATES[change.state],
        cause=change.cause,
        at=fields.instant_to_wire(change.at),
        reason=change.reason,
        exit_code=change.exit_code,
    )


def state_from_wire(wire: job_pb2.StateChange) -> StateChange:
    state = _STATES_BACK.get(wire.state)
    if state is None:
        raise fields.refuse("The state", wire.state, "it is none that this version knows")
    return StateChange(
        key=key_from_wire(wire.key),
        state=state,
        at=fields.instant_from_wire(wire.at),
        cause=fields.text(wire.cause, "The cause"),
        reason=fields.line(wire.reason, "The reason"),
        exit_code=wire.exit_code if wire.HasField("exit_code") else None,
    )


def signed_to_wire(signed: Signed) -> job_pb2.SignedSpecification:
    return job_pb2.SignedSpecification(body=signed.body, key=signed.key, signature=signed.signature)


def signed_from_wire(wire: job_pb2.SignedSpecification) -> Signed:
    """Believe it only after it was checked."""
    return fields.signed(wire.body, wire.key, wire.signature)
