"""One uvicorn worker around the application."""

import socket
import ssl
from collections.abc import Callable

import uvicorn

from service.app import create_app
from service.embedding import LoadEmbedder, load_installed
from service.settings import Settings, SettingsError, flag_of, variable_of


class Server(uvicorn.Server):
    """A uvicorn server that tells its address once it listens.

    Args:
        config: uvicorn's configuration.
        announce: Told one line with the address.
    """

    def __init__(self, config: uvicorn.Config, announce: Callable[[str], None]) -> None:
        super().__init__(config)
        self._announce = announce
        self.url = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then tell where."""
        await super().startup(sockets)
        if self.started:
            bound = self.servers[0].sockets[0].getsockname()
            host = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
            self.url = f"{'https' if self.config.is_ssl else 'http'}://{host}:{bound[1]}"
            self._announce(f"listening on {self.url}")


def build_server(
    settings: Settings,
    *,
    load_embedder: LoadEmbedder = load_installed,
    announce: Callable[[str], None] = lambda _: None,
) -> Server:
    """Build a server that is not running yet.

    Args:
        settings: All settings.
        load_embedder: Loads an embedding model by name, at the first text.
        announce: Told single lines for a person: address, checkpoint, readiness.

    Raises:
        SettingsError: If a file or a package that a setting needs is missing or unfit.
    """
    _check_tls(settings)
    app = create_app(settings, load_embedder=load_embedder, announce=announce)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        lifespan="on",
        server_header=False,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
        timeout_graceful_shutdown=settings.drain_s,
    )
    return Server(config, announce)


def _check_tls(settings: Settings) -> None:
    """Load certificate and key once, since uvicorn would only tell by a traceback."""
    name = "tls_certificate"
    try:
        if settings.tls_certificate is None:
            if settings.tls_key is None:
                return
            raise ValueError(f"a certificate is needed beside {flag_of('tls_key')}")
        for name in ("tls_key", "tls_certificate"):
            path = getattr(settings, name)
            if path is not None:
                path.read_bytes()
        # An encrypted key fails by the empty password; without one, a person would be asked.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            settings.tls_certificate, settings.tls_key, password=""
        )
    except ssl.SSLError as error:
        why = (error.reason or "not PEM").replace("_", " ").lower()
        trouble = f"{settings.tls_certificate} does not load with its key: {why}"
    except OSError as error:
        trouble = f"{error.filename}: {error.strerror}"
    except ValueError as error:
        trouble = str(error)
    else:
        return
    raise SettingsError(f"{flag_of(name)} ({variable_of(name)}): {trouble}")
