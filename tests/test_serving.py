"""The web service, asked as a client asks it.  pytest tests/test_serving.py"""

import json
import threading
import time
import urllib.parse
import urllib.request

import numpy as np
import pytest

uvicorn = pytest.importorskip("uvicorn")

from bert4keras3.snippets import WebServing  # noqa: E402

pytestmark = pytest.mark.once


def similar(text, n=2):
    return {"text": text, "scores": np.arange(n) / 2, "best": np.float32(0.5)}


def broken(text):
    raise LookupError(f"no such text: {text}")


running = []


def takes_turns():
    running.append(1)
    time.sleep(0.05)
    count = len(running)
    running.pop()
    return count


@pytest.fixture(scope="module")
def address():
    web = WebServing("127.0.0.1", 0, max_body=1000)
    arguments = {"text": (None, True), "n": (int, False)}
    web.route("/similar", similar, arguments)
    web.route("/post", similar, arguments, "POST")
    web.route("/broken", broken, {"text": (None, True)})
    web.route("/nan", lambda: float("nan"), {})
    web.route("/object", object, {})
    web.route("/turns", takes_turns, {})
    server = uvicorn.Server(
        uvicorn.Config(web.app, host=web.host, port=web.port, log_level="error")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def ask(address, body=None, **query):
    if query:
        address += "?" + urllib.parse.urlencode(query)
    headers = {"Content-Type": "application/json"} if body and body[:1] in b"{[!" else {}
    with urllib.request.urlopen(urllib.request.Request(address, body, headers)) as reply:
        assert reply.headers["Content-Type"] == "application/json"
        return json.loads(reply.read())


def test_get(address):
    reply = ask(f"{address}/similar", text="科学 & 技术", n="3")
    data = {"text": "科学 & 技术", "scores": [0, 0.5, 1], "best": 0.5}
    assert reply == {"code": 0, "desc": "succeeded", "data": data}
    assert ask(f"{address}/similar", text="")["data"]["text"] == ""
    reply = ask(f"{address}/similar", n=3)
    assert reply == {"code": 1, "desc": 'lack of "text" argument', "data": {}}
    reply = ask(f"{address}/similar", text="a", n="many")
    assert reply["code"] == 1 and "argument \"n\": 'many'" in reply["desc"]


def test_post(address):
    form = urllib.parse.urlencode({"text": "科学", "n": "1"}).encode()
    assert ask(f"{address}/post", form)["data"]["text"] == "科学"
    reply = ask(f"{address}/post", json.dumps({"text": "科学", "n": 1, "other": 2}).encode())
    assert reply["data"]["scores"] == [0]
    for body, text in ((b"[1]", "not a JSON object"), (b"{", "not JSON"), (b"!", "not JSON")):
        reply = ask(f"{address}/post", body)
        assert reply["code"] == 1 and text in reply["desc"]
    reply = ask(f"{address}/post", b"text=" + b"a" * 2000)
    assert reply == {"code": 1, "desc": "the body is larger than 1000 bytes", "data": {}}


def test_failures(address):
    reply = ask(f"{address}/broken", text="x")
    assert reply == {"code": 2, "desc": "LookupError: no such text: x", "data": {}}
    assert "cannot be sent as JSON" in ask(f"{address}/object")["desc"]
    assert ask(f"{address}/nan")["code"] == 2
    assert ask(f"{address}/similar", text="still there")["code"] == 0


def test_calls_take_turns(address):
    counts = []
    threads = [
        threading.Thread(target=lambda: counts.append(ask(f"{address}/turns")["data"]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [1, 1, 1, 1]


def test_servers():
    assert WebServing(server="paste").port == 8000
    with pytest.raises(ValueError, match="expected 'uvicorn', got 'gunicorn'"):
        WebServing(server="gunicorn")
