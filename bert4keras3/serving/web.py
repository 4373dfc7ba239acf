"""Python functions as JSON over HTTP, for one's own tools."""

import json
import threading

import numpy as np

# What `code` in a reply says.
SUCCEEDED, BAD_ARGUMENT, FAILED = 0, 1, 2
NO_STARLETTE = "WebServing needs starlette and uvicorn: pip install 'bert4keras3[serve]'"


class WebServing:
    """Serves functions: each route answers `{"code": ..., "desc": ..., "data": ...}`.

    `code` is 0 where the function succeeded (`data` is what it returned), 1 where an argument
    is missing or of the wrong form, 2 where the function failed (`desc` says how).

        web = WebServing(port=8864)
        web.route("/similar", similar, {"text": (None, True), "n": (int, False)})
        web.start()  # http://127.0.0.1:8864/similar?text=...&n=10

    Calls of functions take turns, as most models want it. The service has no access control:
    put it behind something that has, or give it the host '127.0.0.1'.

    Args:
        host: the address to listen on; '0.0.0.0' is every network the machine is in.
        port: the port.
        server: 'uvicorn', or 'paste' as in old scripts, which means the same.
        max_body: what a request's body may have, in bytes.

    Raises:
        ImportError: the extra `serve` is not installed.
        ValueError: another server.
    """

    def __init__(self, host="0.0.0.0", port=8000, server="uvicorn", max_body=1 << 20):
        try:
            from starlette.applications import Starlette
        except ImportError as error:
            raise ImportError(NO_STARLETTE) from error
        if server not in ("uvicorn", "paste"):
            raise ValueError(f"WebServing: server: expected 'uvicorn', got {server!r}")
        self.host = host
        self.port = port
        self.max_body = max_body
        self.app = Starlette()
        self._turn = threading.Lock()

    def wraps(self, func, arguments, method="GET"):
        """A function as an endpoint.

        Args:
            func: takes the arguments by name and returns what JSON can say; numpy arrays
                and numbers will do.
            arguments: `{name: (converter, required)}`; the converter is a function of the
                string that came, such as `int`, or None.
            method: 'GET': arguments stand in the address; 'POST': in the body, as a form or
                as a JSON object, whose values are converted where they are strings.

        Returns:
            An asynchronous function of a starlette request.
        """
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import Response

        async def endpoint(request):
            values, problem = await self._values(request, method)
            if problem is None:
                values, problem = _converted(values, arguments)
            if problem is None:
                body = await run_in_threadpool(self._answer, func, values)
            else:
                body = _reply(BAD_ARGUMENT, problem)
            return Response(body, media_type="application/json")

        return endpoint

    def route(self, path, func, arguments, method="GET"):
        """Serve a function at a path.

        Args:
            path: such as '/similar'.
            func, arguments, method: see `wraps`.
        """
        endpoint = self.wraps(func, arguments, method)
        self.app.add_route(path, endpoint, methods=[method])

    def start(self):
        """Serve until the process is interrupted."""
        try:
            import uvicorn
        except ImportError as error:
            raise ImportError(NO_STARLETTE) from error
        uvicorn.run(self.app, host=self.host, port=self.port)

    async def _values(self, request, method):
        """What was sent, by name, and what is wrong with it."""
        if method == "GET":
            return dict(request.query_params), None
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self.max_body:
                return {}, f"the body is larger than {self.max_body} bytes"
        if "json" not in request.headers.get("content-type", ""):
            return _form(bytes(body)), None
        try:
            values = json.loads(bytes(body))
        except ValueError as error:
            return {}, f"the body is not JSON: {error}"
        if not isinstance(values, dict):
            return {}, f"the body is not a JSON object but a {type(values).__name__}"
        return values, None

    def _answer(self, func, values):
        with self._turn:
            try:
                return _reply(SUCCEEDED, "succeeded", func(**values))
            except Exception as error:  # whatever it is, the service goes on
                return _reply(FAILED, f"{type(error).__name__}: {error}")


def _form(body):
    from urllib.parse import parse_qsl

    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))


def _converted(values, arguments):
    """The arguments of a call, and what is wrong with them."""
    converted = {}
    for name, (converter, required) in arguments.items():
        if values.get(name) is None:
            if required:
                return {}, f'lack of "{name}" argument'
            continue
        value = values[name]
        if converter is not None and isinstance(value, str):
            try:
                value = converter(value)
            except Exception as error:  # of the user's function
                return {}, f'argument "{name}": {value!r} is not as expected ({error})'
        converted[name] = value
    return converted, None


def _reply(code, description, data=None):
    reply = {"code": code, "desc": description, "data": {} if code else data}
    return json.dumps(reply, ensure_ascii=False, allow_nan=False, default=_plain)


def _plain(x):
    if isinstance(x, (np.ndarray, np.generic)):
        return x.tolist()
    raise TypeError(f"a {type(x).__name__} cannot be sent as JSON")
