"""Scrape a running service with a real Prometheus, and ask it all that the dashboard would ask.

    python3 docker/observe.py BIN URL [URL...]

BIN holds the programs ``prometheus`` and ``promtool``; each URL is a service that is being asked
questions meanwhile. Needs nothing but Python. A query without an answer fails: every series of the
dashboard is there from the start, or after the first request.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from wire import Service, check, free_port

HERE = Path(__file__).resolve().parent / "observability"
WITHIN_S = 60.0
STANDS_FOR = {"$__rate_interval": "30s", "$instance": ".*", "$route": "/v1/rank"}
"""What Grafana would put in place of the dashboard's variables."""
DISCOVERY = re.compile(r"    dns_sd_configs:\n(?:      .*\n)+")


def expressions(panels: list[dict[str, Any]]) -> list[str]:
    """Every query of a dashboard, with its variables replaced."""
    found = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    for name, value in STANDS_FOR.items():
        found = [one.replace(name, value) for one in found]
    return found


def configure(folder: Path, targets: list[str]) -> Path:
    """Copy the configuration, with given targets instead of those that a name server tells."""
    text = (HERE / "prometheus.yaml").read_text()
    check(len(DISCOVERY.findall(text)) == 1, "prometheus.yaml: expected one dns_sd_configs")
    text = DISCOVERY.sub(f"    static_configs: [{{targets: {json.dumps(targets)}}}]\n", text)
    text = re.sub(r"(scrape|evaluation)_interval: \d+s", r"\1_interval: 1s", text)
    config = folder / "prometheus.yaml"
    config.write_text(text)
    (folder / "alerts.yaml").write_text((HERE / "alerts.yaml").read_text())
    return config


def query(prometheus: Service, expression: str) -> list[Any]:
    """The result of a query; empty is an answer, too."""
    path = f"/api/v1/query?query={urllib.parse.quote(expression)}"
    status, answer = prometheus.call(path)
    check(status == 200 and answer["status"] == "success", f"{expression}: {status} {answer}")
    result: list[Any] = answer["data"]["result"]
    return result


def check_dashboard(prometheus: Service) -> int:
    """Wait until every query of the dashboard has an answer; how many there are."""
    panels = json.loads((HERE / "nextchunk.json").read_text())["panels"]
    asked = expressions(panels)
    left, until = asked, time.monotonic() + WITHIN_S
    while left:
        left = [one for one in left if not query(prometheus, one)]
        check(not left or time.monotonic() < until, f"no answer after {WITHIN_S:g} s: {left}")
        time.sleep(0.5)
    return len(asked)


def check_alerts(prometheus: Service) -> list[str]:
    """Every alert has been evaluated over series that exist; those that fire."""
    groups = prometheus.ok("/api/v1/rules")["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    check(len(rules) == (HERE / "alerts.yaml").read_text().count("- alert:"), f"rules: {rules}")
    for rule in rules:
        check(rule["health"] == "ok", f"{rule['name']}: {rule['health']} {rule.get('lastError')}")
        for name in re.findall(r"\b(?:nextchunk_[a-z_]+|up)\b", rule["query"]):
            check(bool(query(prometheus, f"count({name})")), f"{rule['name']}: no {name}")
    return [rule["name"] for rule in rules if rule["state"] != "inactive"]


def main(binaries: Path, urls: list[str]) -> None:
    """Start Prometheus, ask it, and stop it."""
    targets = [urllib.parse.urlsplit(url).netloc for url in urls]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = configure(folder, targets)
        for kind, path in (("config", config), ("rules", folder / "alerts.yaml")):
            command = [str(binaries / "promtool"), "check", kind, str(path)]
            told = subprocess.run(command, capture_output=True, text=True)
            check(told.returncode == 0, f"promtool check {kind}: {told.stdout}{told.stderr}")
        address = f"127.0.0.1:{free_port()}"
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(
                [
                    str(binaries / "prometheus"),
                    f"--config.file={config}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address={address}",
                ],
                stdout=log,
                stderr=log,
            )
            try:
                prometheus = Service(f"http://{address}")
                prometheus.wait("/-/ready")
                queries = check_dashboard(prometheus)
                up = query(prometheus, 'up{job="nextchunk"} == 1')
                check(len(up) == len(targets), f"expected {len(targets)} targets up, got {up}")
                firing = check_alerts(prometheus)
            finally:
                server.terminate()
                server.wait()
    sys.stdout.write(
        f"dashboard: {queries} queries, each with an answer, of {len(targets)} targets\n"
        f"alerts:    all evaluated; not inactive: {', '.join(firing) or 'none'}\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
