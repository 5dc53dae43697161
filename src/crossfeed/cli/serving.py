"""Commands from a bundle to recommendations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crossfeed.cli import output, tables
from crossfeed.cli.history_file import read_history
from crossfeed.cli.options import Json, Overwrite

if TYPE_CHECKING:
    from crossfeed.bundle import Bundle
    from crossfeed.serving.histories.history import HistoryStore

__all__ = ["export_histories", "forget_user", "load_histories", "recommend", "serve"]

BundleFolder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder that export wrote.")]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--history-store",
        metavar="URL",
        help="sqlite://PATH or redis://HOST:PORT/0; by default BUNDLE.histories.sqlite beside it.",
    ),
]


def recommend(
    bundle: BundleFolder,
    *,
    domain: Annotated[str | None, typer.Option(metavar="D", help="The target domain.")] = None,
    user: Annotated[str | None, typer.Option(metavar="ID", help="A user of the bundle.")] = None,
    history: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What anybody did, as a JSON array; - is stdin."),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many items.")] = 10,
    all_users: Annotated[bool, typer.Option("--all", help="For every user, to a file.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --all: .parquet, .csv, .jsonl.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Recommend items of a domain to one user, or of every domain to all users.

    A history is a JSON array of {"item_id", "domain", "timestamp"}.

    \b
    crossfeed recommend BUNDLE --domain books --user ann
    crossfeed recommend BUNDLE --domain books --history history.json -k 5 --json
    crossfeed recommend BUNDLE --all --out recommendations.parquet
    """
    if all_users:
        if out is None or user is not None or history is not None:
            raise typer.BadParameter("--all needs --out FILE, and neither --user nor --history")
        _recommend_all(bundle, domain=domain, k=k, out=out, overwrite=overwrite)
        return
    if out is not None:
        raise typer.BadParameter("--out goes with --all; one user's items are printed")
    if domain is None or (user is None) == (history is None):
        raise typer.BadParameter("give --domain and either --user or --history, or --all")
    from crossfeed.serving.recommend.recommender import Recommender

    events = None if history is None else read_history(history)
    recommender = Recommender.load(bundle)
    found = recommender.recommend(domain=domain, user_id=user, history=events, k=k)
    if as_json:
        output.print_json(dataclasses.asdict(found))
    else:
        output.stdout().print(tables.recommendations(found))
    if found.fallback:
        held_back = domain in recommender.bundle.held_back
        why = f"the gate holds '{domain}' back" if held_back else "nothing is known of this user"
        steps = dict.fromkeys(item.source for item in found.items) or [found.fallback]
        output.say(f"{why}: these are the domain's {' and '.join(steps)} items")
    if found.reason:
        output.say(found.reason)
    if not as_json:
        output.say(f"next: {output.command('serve', bundle)}")


def serve(
    bundle: BundleFolder,
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    history_store: StoreUrl = None,
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="Processes that answer; they share the model.")
    ] = 1,
    requests_per_second: Annotated[
        float | None, typer.Option(min=0.01, help="For each API key; by default no limit.")
    ] = None,
    requests_at_once: Annotated[
        int, typer.Option(min=1, help="Requests above this limit get 503.")
    ] = 100,
    timeout_seconds: Annotated[
        float, typer.Option(min=0.1, help="For a request to come, and for its answer.")
    ] = 10.0,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A Host that is answered; by default all, without keys "
            "this machine's own names alone.",
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="A site whose pages may ask (CORS), or *."),
    ] = None,
    root_path: Annotated[
        str, typer.Option(metavar="PATH", help="The path below which a proxy shows the service.")
    ] = "",
    otel: Annotated[
        bool, typer.Option("--otel", help="Send traces; the variables OTEL_* say where.")
    ] = False,
    fallbacks: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TOML: what users without history get, by domain."),
    ] = None,
) -> None:
    """Serve a bundle over HTTP, with a store of the users' histories.

    Beyond this machine it asks for an API key: set CROSSFEED_API_KEYS. SIGHUP puts the bundle that
    lies in the folder by then into service.

    \b
    crossfeed serve BUNDLE
    crossfeed serve BUNDLE --port 9000 --history-store sqlite://histories.sqlite --workers 4
    crossfeed serve BUNDLE --history-store redis://localhost:6379/0
    """
    from crossfeed.serving.http.guards.access import Access
    from crossfeed.serving.http.guards.limits import Limits
    from crossfeed.serving.process.server import serve

    limits = Limits(
        requests_per_second=requests_per_second,
        requests_at_once=requests_at_once,
        timeout_seconds=timeout_seconds,
    )
    serve(
        bundle,
        host=host,
        port=port,
        history_store=history_store,
        limits=limits,
        access=Access(tuple(allow_host or ()), tuple(allow_origin or ()), root_path),
        fallbacks=fallbacks,
        workers=workers,
        otel=otel,
        announce=_announce,
    )


def load_histories(
    bundle: BundleFolder,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Parquet, as export writes it.")],
    *,
    history_store: StoreUrl = None,
) -> None:
    """Add events of a file to a history store; events known by their id are left as they are.

    \b
    crossfeed histories load BUNDLE events.parquet
    """
    with _open_store(bundle, history_store) as (loaded, store):
        new, known = store.bulk.load(
            file, user_ids=loaded.user_id_type, item_ids=loaded.item_id_type
        )
    output.say(f"{new:,} events are new, {known:,} are stored already or belong to forgotten users")


def export_histories(
    bundle: BundleFolder,
    *,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="The file to write: .parquet, .csv, .jsonl.")
    ],
    history_store: StoreUrl = None,
    overwrite: Overwrite = False,
) -> None:
    """Write all events of a history store to a file: a log to train on again.

    \b
    crossfeed histories export BUNDLE --out events.parquet
    """
    from crossfeed.outputs import require_apart

    with _open_store(bundle, history_store) as (_, store):
        require_apart(out, [bundle])
        written = store.bulk.export(out, overwrite=overwrite)
    output.say(f"wrote {written:,} events to {out}")


def forget_user(
    bundle: BundleFolder,
    user: Annotated[str, typer.Argument(metavar="USER", help="The user's id.")],
    *,
    history_store: StoreUrl = None,
) -> None:
    """Erase all events of a user from a history store.

    The bundle itself keeps its exported histories; export it again, or with --without-histories.

    \b
    crossfeed histories forget BUNDLE ann
    """
    from crossfeed.serving.ids import restore_id

    with _open_store(bundle, history_store) as (loaded, store):
        erased = store.forget(restore_id(user, loaded.user_id_type, field="USER"))
    output.say(f"erased {erased:,} events of '{user}'")


def _recommend_all(bundle: Path, *, domain: str | None, k: int, out: Path, overwrite: bool) -> None:
    from crossfeed.serving.recommend.recommender import Recommender

    Recommender.load(bundle).recommend_all(out, domain=domain, k=k, overwrite=overwrite)
    output.say(f"wrote recommendations to {out}")


def _announce(url: str) -> None:
    output.say(f"serving on {url}, OpenAPI at {url}/docs; Ctrl-C ends")


@contextmanager
def _open_store(bundle: Path, url: str | None) -> Iterator[tuple[Bundle, HistoryStore]]:
    """Open the store of a bundle, filled as the service would fill it."""
    from crossfeed.bundle import Bundle
    from crossfeed.serving.histories.url import default_store_url, open_store

    loaded = Bundle.load(bundle)
    store = open_store(url or default_store_url(bundle))
    try:
        store.bulk.fill(loaded.histories(), origin=loaded.version)
        yield loaded, store
    finally:
        store.close()
