"""One uvicorn worker around the application."""

import socket
from collections.abc import Callable

import uvicorn

from service.app import create_app
from service.embedding import LoadEmbedder, load_installed
from service.settings import Settings

GRACE_S = 10


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
            self.url = f"http://{host}:{bound[1]}"
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
    """
    app = create_app(settings, load_embedder=load_embedder, announce=announce)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    return Server(config, announce)
