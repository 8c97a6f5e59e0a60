"""A station at the line: pictures come in by HTTP or in a folder, verdicts go out.

    pip install 'diffad_jax[serve]'
    python -m diffad_jax.main --mode serve --model bottle_model --watch camera

The log shows the page's address with the token that whoever changes something needs. A bundle is
judged without JAX and TensorFlow. What is kept lies in `MODEL-station`, or --output:

    station.json        the threshold that a person has set
    corrections.jsonl   what people said of verdicts, and corrections/, the pictures
    predictions.csv, predictions.jsonl, maps/, overlays/   of the watched folder

SIGTERM and Ctrl-C finish what was taken, and take no more.
"""

import contextlib
import logging
import pathlib
import secrets
import signal
import socket

from configs.errors import UserError
from diffad_jax.runs import lock
from input_pipeline.on_disk import is_remote

try:
    import python_multipart  # noqa: F401 - Starlette asks for it when a form comes
    import uvicorn

    from diffad_jax.serving import app, corrections, guard, models, sending, station, watching
except ModuleNotFoundError as missing:
    missed = (missing.name or "").partition(".")[0]
    raise UserError(f"{missed} is not installed: pip install 'diffad_jax[serve]'") from missing

logger = logging.getLogger(__name__)
LOOPBACK = ("127.0.0.1", "::1", "localhost")
PATIENCE = 60  # s that requests have to end when the station does


def run(
    model: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    watch: str | None = None,
    output: str | None = None,
    webhook: str | None = None,
    mqtt: str | None = None,
    threshold: float | None = None,
) -> None:
    """Serve until told to stop; see above and the flags of --mode serve.

    Raises:
      UserError: no model, another station in the folder, or an address that is taken.
      KeyboardInterrupt: Ctrl-C.
    """
    for flag, given in (("output", output or model), ("watch", watch or "")):
        if is_remote(given):
            raise UserError(f"{given} is not local: give a local --{flag}")
    place = pathlib.Path(output or f"{model.rstrip('/')}-station").expanduser()
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock.Hold(place))
        listening = stack.enter_context(_bound(host, port))
        served = models.opened(model, threshold)
        senders = [sending.Webhook(webhook)] if webhook else []
        senders += [sending.Mqtt(mqtt)] if mqtt else []
        for sender in senders:
            stack.callback(sender.close)  # after the station's end
        line = station.Station(served, folder=place, threshold=threshold)
        stack.callback(line.close)
        line.listeners += senders
        named = None
        if watch:
            watcher = watching.Watcher(line, pathlib.Path(watch).expanduser(), place)
            watcher.start()
            stack.callback(watcher.stop)
            named = pathlib.Path(watch).absolute().name
        service = app.App(line, corrections.Corrections(place), named)
        port, secret = listening.getsockname()[1], token or secrets.token_urlsafe(16)
        hosts = (*LOOPBACK, host) if host in LOOPBACK else ()
        guarded = guard.Guard(service.asgi, secret, token is not None, hosts, port)
        shown = f"[{host}]" if ":" in host else host
        logger.info("%s at http://%s:%d/?token=%s", served.category, shown, port, secret)
        signal.signal(signal.SIGTERM, lambda *_: None)  # which uvicorn raises again when it is done
        serving(service, guarded).run([listening])


def _bound(host: str, port: int) -> socket.socket:
    if port > 65535:
        raise UserError(f"there is no port {port}: they end at 65535")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise UserError(f"cannot listen on {host}, port {port}: {error.strerror}") from error


def serving(service: app.App, guarded: guard.Guard) -> uvicorn.Server:
    """What runs them; when it ends, pages that listen are let go."""
    config = uvicorn.Config(
        guarded,
        http=guard.Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=PATIENCE,
    )
    server = uvicorn.Server(config)
    service.closing = lambda: server.should_exit
    return server
