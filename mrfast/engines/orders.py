"""What a cluster's workers are sent: a few KiB for each task; what is longer waits for them in the store."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import orjson

from ..app import App, load_source, with_params
from ..errors import AppError
from ..model import inter_key
from ..storage.base import Store, read

INLINE_BYTES_MAX = 8192

Document = dict[str, Any]


def app_of_file(path: str, params: dict[str, str]) -> Document:
    """An application file as its workers get it: its text, so that they need not have it."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    except OSError as error:
        raise AppError(f"{path}: cannot read the application: {error.strerror}") from None
    return {
        "path": path,
        "source": base64.b64encode(text.encode("utf-8", "surrogateescape")).decode(),
        "params": params,
    }


def app_of_functions(app: App, params: dict[str, str]) -> Document:
    """An App of functions as its workers get it: pickled by value where they are a notebook's or a script's."""
    import cloudpickle

    try:
        data = cloudpickle.dumps(app)
    except Exception as error:  # noqa: BLE001 (whatever an object's own __reduce__ raises)
        raise AppError(
            f"{app.name}: its functions cannot be sent to a cluster: {error}; what they refer to must be picklable, "
            "or put them into a file"
        ) from None
    return {"pickle": base64.b64encode(data).decode(), "params": params}


def loader(document: Document) -> Callable[[], App]:
    """What gives the App of `app_of_file` or `app_of_functions`."""
    if "source" in document:
        path, source = document["path"], base64.b64decode(document["source"])
        return with_params(lambda: load_source(path, source), document["params"])

    def unpickled() -> App:
        import pickle

        app = pickle.loads(base64.b64decode(document["pickle"]))
        assert isinstance(app, App)
        return app

    return with_params(unpickled, document["params"])


def parcel(store: Store, job: str, name: str, document: Document) -> bytes | str:
    """The document's bytes, or if they are many the key of the job's object that holds them."""
    data = orjson.dumps(document)
    if len(data) <= INLINE_BYTES_MAX:
        return data
    key = inter_key(job, name)  # goes with the map outputs when the job ends
    store.put(key, [data])
    return key


def opened(store: Store, sent: bytes | str) -> Document:
    """The document of a parcel."""
    document: Document = orjson.loads(sent if isinstance(sent, bytes) else read(store, sent))
    return document
