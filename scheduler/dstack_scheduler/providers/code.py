"""`provider: code`: VS Code in the browser, by a server that is installed where the job runs.

None is downloaded: they come from no package registry, and a lab's network may be closed.
"""

from collections.abc import Mapping

from dstack_scheduler.app import TOKEN, App
from dstack_scheduler.plan import PlannedJob
from dstack_scheduler.providers.options import tool_version
from dstack_scheduler.providers.port import Direct, Provider, one_job, preparation
from dstack_scheduler.providers.tools import WORKPLACE_KEYS, own_port
from dstack_scheduler.workflow.model import Workflow

_MISSING = 127

_SERVE = """umask 077
held="${{DSTACK_SECRETS_DIR:-}}"
if [ -z "$held" ]; then
  held="${{TMPDIR:-/tmp}}"; printf %s "$CONNECTION_TOKEN" >"$held/CONNECTION_TOKEN"
fi
tokens="$held/CONNECTION_TOKEN" port={port}
check() {{
  [ -z "{version}" ] && return
  case "$("$1" --version 2>/dev/null | head -n 1)" in
    *{version}*) ;;
    *) echo "$1 is not version {version}, which the workflow asks for." >&2; exit 1;;
  esac
}}
for name in openvscode-server code-server code; do
  command -v "$name" >/dev/null 2>&1 || continue
  check "$name"
  umask 022
  case "$name" in
    openvscode-server)
      exec "$name" --host "$DSTACK_APP_HOST" --port "$port" --connection-token-file "$tokens" \\
        --default-folder "$PWD" --telemetry-level off --accept-server-license-terms;;
    code-server)
      export PASSWORD="$CONNECTION_TOKEN"
      exec "$name" --bind-addr "$DSTACK_APP_HOST:$port" --auth password --disable-telemetry \\
        --disable-update-check "$PWD";;
    code)
      exec "$name" serve-web --host "$DSTACK_APP_HOST" --port "$port" \\
        --connection-token-file "$tokens" --accept-server-license-terms \\
        --default-folder "$PWD";;
  esac
done
echo "There is no VS Code server on this machine." >&2
echo "Install openvscode-server, code-server, or the command code of VS Code there." >&2
exit {missing}"""


def _jobs(workflow: Workflow, variables: Mapping[str, str]) -> tuple[PlannedJob, ...]:
    version = workflow.options.get("version", "")
    serve = _SERVE.format(port=own_port(workflow), version=version, missing=_MISSING)
    app = App("code", query=f"tkn={TOKEN}", token="CONNECTION_TOKEN", web=True)
    return one_job(workflow, variables, (*preparation(workflow), serve), apps=(app,))


CODE = Provider(
    name="code",
    about="Opens VS Code in the browser",
    keys={"version": tool_version(), **WORKPLACE_KEYS},
    required=(),
    direct=Direct(usage="dstack run code"),
    appends_args=False,
    jobs=_jobs,
)
