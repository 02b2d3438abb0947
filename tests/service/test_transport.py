"""TLS, CORS, the pages about the API, and what is logged: over real sockets."""

import base64
import json
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import trustme
from fastapi import FastAPI

from service import errors
from service.__main__ import main
from service.security import Guard, RateLimiter

from .conftest import Live, live
from .test_error_shapes import check_problem
from .test_security import SCOPES, UNKNOWN, Keys, add_probes, basic, bearer


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


def test_docs_need_a_key_and_nothing_from_elsewhere(data: Path, keys: Keys) -> None:
    with live(data, api_keys=keys.file, docs=True) as running:
        _check_docs(running.http.get, keys)


def _check_docs(get: Callable[..., httpx.Response], keys: Keys) -> None:
    for path in ("/docs", "/openapi.json"):
        response = get(path)
        check_problem(response, errors.UnauthenticatedError)
        assert response.headers["WWW-Authenticate"] == 'Basic realm="nextchunk", charset="UTF-8"'
        for wrong in ("Basic %%", "Basic", "Basic " + base64.b64encode(b"\xff:").decode()):
            response = get(path, headers={"Authorization": wrong})
            check_problem(response, errors.UnauthenticatedError)
        response = get(path, headers=bearer(UNKNOWN))
        assert response.headers["WWW-Authenticate"].startswith("Bearer ")
        for headers in (bearer(keys.of["read"]), basic(keys.of["read"])):
            assert get(path, headers=headers).status_code == 200
    page = get("/docs", headers=basic(keys.of["read"])).text
    assert "http:" not in page
    assert "https:" not in page
    parts = re.findall(r'(?:href|src)="(.*?)"', page)
    assert len(parts) == 3
    for part in parts:
        assert part.startswith("/docs/static/")
        assert get(part).status_code == 200
    assert "'/openapi.json'" in page


PAGE = "https://app.example.org"


def test_cors_lets_listed_origins_call_and_see_the_refusals(data: Path, keys: Keys) -> None:
    origins = f"http://localhost:3000, {PAGE}"

    def fail(app: FastAPI) -> None:
        add_probes(app)
        app.state.guard = Guard(limiter=RateLimiter(0.01, 1))
        app.add_api_route("/probe/fail", lambda: 1 / 0, include_in_schema=False)

    allow = "Access-Control-Allow-Origin"
    with live(data, prepare=add_probes, api_keys=keys.file, cors_origins=origins) as running:
        preflight = running.http.options(
            "/probe/write",
            headers={
                "Origin": PAGE,
                "Access-Control-Request-Method": "PUT",
                "Access-Control-Request-Headers": "authorization,idempotency-key,content-type",
            },
        )
        assert (preflight.status_code, preflight.headers[allow]) == (200, PAGE)
        assert "PUT" in preflight.headers["Access-Control-Allow-Methods"]
        for headers, status in ((bearer(keys.of["write"]), 200), ({}, 401)):
            response = running.http.put("/probe/write", headers={"Origin": PAGE, **headers})
            assert (response.status_code, response.headers[allow]) == (status, PAGE)
            exposed = set(response.headers["Access-Control-Expose-Headers"].split(", "))
            assert {"X-Request-ID", "Server-Timing", "Retry-After"} <= exposed
            assert "Access-Control-Allow-Credentials" not in response.headers
        foreign = {"Origin": "https://other.example.org", **bearer(keys.of["write"])}
        assert allow not in running.http.put("/probe/write", headers=foreign).headers
    with live(data, prepare=fail, cors_origins="*") as running:
        for path, status in (("read", 200), ("read", 429), ("fail", 500), ("none", 404)):
            response = running.http.get(f"/probe/{path}", headers={"Origin": PAGE})
            assert (response.status_code, response.headers[allow]) == (status, "*")


def test_cors_is_off_by_default(service: Live) -> None:
    headers = {"Origin": PAGE, "Access-Control-Request-Method": "PUT"}
    assert service.http.options("/v1/rank", headers=headers).status_code == 405
    response = service.http.get("/livez", headers={"Origin": PAGE})
    assert not [name for name in response.headers if name.startswith("access-control")]


class Certificates:
    """A certificate for loopback, its key, and whom a client must trust."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1", "localhost")
        self.key, self.chain = folder / "key.pem", folder / "chain.pem"
        self.both, self.foreign = folder / "both.pem", folder / "foreign.pem"
        issued.private_key_pem.write_to_path(self.key)
        for blob in issued.cert_chain_pems:
            blob.write_to_path(self.chain, append=True)
        issued.private_key_and_cert_chain_pem.write_to_path(self.both)
        authority.issue_cert("127.0.0.1").private_key_pem.write_to_path(self.foreign)
        self.trust = ssl.create_default_context()
        authority.configure_trust(self.trust)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


def _serve(*flags: str) -> tuple[subprocess.Popen[str], str]:
    """Start the command as a person does; returns it with what it said until it was ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "serve", "--port", "0", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said = ""
    # What is small may be loaded before the socket listens.
    while not ("ready: " in said and "listening on " in said):
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        said += line
    return process, said


@pytest.mark.parametrize("files", [("chain", "key"), ("both",)])
def test_it_speaks_tls_and_logs_names_but_no_keys(
    data: Path, keys: Keys, certificates: Certificates, files: tuple[str, ...]
) -> None:
    flags = ["--tls-certificate", "--tls-key"]
    tls: list[str] = []
    for flag, file in zip(flags, files, strict=False):
        tls += [flag, str(getattr(certificates, file))]
    process, said = _serve(
        *tls, "--data", str(data), "--api-keys", str(keys.file), "--log-level", "debug"
    )
    try:
        match = re.search(r"listening on (https://127\.0\.0\.1:\d+)$", said, re.MULTILINE)
        assert match
        with httpx.Client(base_url=match[1], verify=certificates.trust) as http:
            assert http.get("/livez").status_code == 200
            for secret in (*keys.secrets, UNKNOWN):
                for headers in (bearer(secret), {"X-API-Key": secret}, basic(secret)):
                    response = http.get("/openapi.json", headers=headers)
                    assert response.status_code in (200, 401)
                    assert secret not in response.text + str(response.headers)
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            httpx.get(f"{match[1]}/livez")
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(match[1].replace("https", "http") + "/livez")
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    said += out + err
    assert not [secret for secret in [*keys.secrets, UNKNOWN] if secret in said]
    assert not [secret for secret in keys.secrets if basic(secret)["Authorization"][6:] in said]
    logs = [json.loads(line) for line in err.splitlines()]
    asked = [log for log in logs if log.get("route") == "/openapi.json"]
    names = [log["key"] for log in asked if log["status"] == 200]
    assert names == [f"{scope}-key" for scope in SCOPES for _ in range(3)]
    assert [log["key"] for log in asked if log["status"] == 401] == [None] * 6


def _stop_line(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """Start the command, expect it to end at once, and return the one line it says."""
    assert main(["serve", "--data", "x", "--port", "0", *flags]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_files_that_are_missing_or_unfit_stop_the_start(
    tmp_path: Path, certificates: Certificates, capsys: pytest.CaptureFixture[str]
) -> None:
    files, none = certificates, tmp_path / "none"
    locked, junk = tmp_path / "locked.pem", tmp_path / "junk"
    locked.write_bytes(_encrypted(files.key))
    junk.write_text("junk")
    certificate = "--tls-certificate (NEXTCHUNK_TLS_CERTIFICATE)"
    for chain, key, said in (
        (none, files.key, f"{certificate}: {none}: No such file or directory"),
        (files.chain, none, f"--tls-key (NEXTCHUNK_TLS_KEY): {none}: No such file or directory"),
        (files.chain, files.foreign, f"{certificate}: {files.chain} does not load with its key: "),
        (files.chain, locked, f"{certificate}: {files.chain} does not load with its key: "),
        (files.chain, None, f"{certificate}: {files.chain} does not load with its key: "),
        (junk, files.key, f"{certificate}: {junk} does not load with its key: "),
        (None, files.key, f"{certificate}: a certificate is needed beside --tls-key"),
    ):
        flags = ["--tls-certificate", str(chain)] if chain else []
        flags += ["--tls-key", str(key)] if key else []
        assert _stop_line(capsys, *flags).startswith(f"serve: {said}")
    for file, why in ((none, "No such file or directory"), (junk, "not JSON")):
        said = f"serve: --api-keys (NEXTCHUNK_API_KEYS): {file}: {why}\n"
        assert _stop_line(capsys, "--api-keys", str(file)) == said


def _encrypted(key: Path) -> bytes:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    loaded = load_pem_private_key(key.read_bytes(), None)
    return loaded.private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"secret")
    )


@pytest.mark.parametrize(
    "origin", [f"{PAGE}/", f"{PAGE}/page", "app.example.org", "null", f"{PAGE} x", "https://*.x"]
)
def test_what_is_no_origin_stops_the_start(origin: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = _stop_line(capsys, "--cors-origins", f"{PAGE}, {origin}")
    assert line.startswith("serve: --cors-origins (NEXTCHUNK_CORS_ORIGINS): expected origins")


def test_docs_without_their_extra_stop_the_start() -> None:
    start = (
        "import sys; sys.modules['fastapi_offline'] = None; from service.__main__ import main; "
        "sys.exit(main(['serve', '--data', 'x', '--docs', 'true']))"
    )
    ended = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr == ("serve: --docs (NEXTCHUNK_DOCS): needs pip install 'nextchunk[docs]'\n")
