"""Runs two nodes behind each proxy of docs/deploy, with TLS, and looks at what passes: requests, sockets, event streams, addresses, and
nodes that stop or are killed.

usage: proxies.py path/to/switchboard [nginx|haproxy|caddy…]

It needs an empty PostgreSQL database in PGHOST, PGPORT, PGUSER, PGPASSWORD (pg_virtualenv sets them), redis-server, openssl and curl.
"""

import http.client
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

from servers import PATIENCE, ROOT, Node, Proxy, free_port, until

PASSWORD = "correct horse battery staple"


def what_passes(proxy, admin):
    """Requests, sockets and streams."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.plain_port, timeout=PATIENCE)
    connection.request("GET", "/docs", headers={"Host": "localhost"})
    response = connection.getresponse()
    location = response.headers["Location"]
    assert response.status == 308 and location.startswith("https://localhost") and location.endswith("/docs"), location
    url = f"https://localhost:{proxy.port}"
    assert proxy.curl("--http2", f"{url}/healthz") == ("2", "200")
    large = proxy.folder / "large"
    large.write_bytes(b" " * 3_000_000)
    answer = proxy.curl("--http2", "--header", "Content-Type: application/json", "--data-binary", f"@{large}", f"{url}/auth/login")
    assert answer == ("2", "413"), answer

    for path in ("/metrics", "/%6detrics", "//metrics"):
        status, text, _ = proxy.call("GET", path)
        assert status in (401, 403, 404) and "switchboard_" not in str(text), f"{path}: {status}"

    # a path with an encoded slash, and a topic that has one in its name
    topic = f"plant/{secrets.token_hex(4)}"
    proxy.answer("POST", "/topics/create", {"topic_id": topic}, token=admin)
    assert topic in json.dumps(proxy.answer("GET", "/topics/" + topic.replace("/", "%2F"), token=admin))

    devices = [proxy.answer("POST", "/register", {"name": f"device {number}", "uuid": str(uuid.uuid4())}) for number in range(2)]
    with proxy.socket(devices[0]["token"]) as first, proxy.socket(devices[1]["token"]) as second:
        first.send(to=devices[1]["uuid"], msgid="1", content="Hello!")
        assert second.frame()["content"] == "Hello!"
        assert first.frame()["type"] == "sent"

    # an event comes while the stream goes on
    with proxy.socket(devices[0]["token"]) as device:
        command = {"target": devices[0]["uuid"], "method": "GET", "url": "/"}
        command = proxy.answer("POST", "/api/commands", command, token=admin, headers={"Prefer": "respond-async"})["id"]
        assert device.frame()["command_id"] == command
        stream = proxy.open("GET", f"/api/commands/{command}/events", token=admin)
        lines = iter(stream.readline, b"")
        device.send(type="progress", command_id=command, progress="half")
        assert any(line == b"event: progress\n" for line in lines)
        device.send(command_id=command, result="done")
        assert any(line == b"event: finished\n" for line in lines)


def who_it_is(proxy):
    """The address, the scheme and the host of the client, as the broker sees them."""
    body = {"username": "root", "password": PASSWORD}
    status, _, headers = proxy.call("POST", "/auth/login", body)
    cookie = headers["Set-Cookie"]
    assert status == 200 and "Secure" in cookie, "X-Forwarded-Proto"
    cookie = cookie.split(";")[0]
    for origin, expected in ((f"https://localhost:{proxy.port}", 200), ("https://evil.example", 403)):
        topic = {"topic_id": secrets.token_hex(8)}
        status, answer, _ = proxy.call("POST", "/topics/create", topic, headers={"Cookie": cookie, "Origin": origin})
        assert status == expected, f"X-Forwarded-Host: {origin}: {status} {answer}"

    def fail_from(address):
        """A failed login, which pretends to come from elsewhere."""
        wrong = {"username": secrets.token_hex(8), "password": "wrong"}
        forged = {"X-Forwarded-For": f"203.0.113.{secrets.randbelow(250)}", "Forwarded": "for=203.0.113.1"}
        return proxy.call("POST", "/auth/login", wrong, source=address, headers=forged)[0]

    source = f"127.9.{secrets.randbelow(250)}.{1 + secrets.randbelow(250)}"
    codes = [fail_from(source) for _ in range(11)]
    assert codes == [401] * 10 + [429], f"X-Forwarded-For: {codes}"
    assert fail_from("127.8.8.8") == 401


class Load:
    """Reads and writes through a proxy, one after the other, and their statuses."""

    def __init__(self, proxy, admin):
        self.proxy, self.admin, self.reads, self.writes, self.is_over = proxy, admin, [], [], False
        self.threads = [threading.Thread(target=self.run, args=work) for work in ((self.read, self.reads), (self.write, self.writes))]

    def read(self):
        return self.proxy.call("GET", "/api/users/me", token=self.admin)[0]

    def write(self):
        return self.proxy.call("POST", "/topics/create", {"topic_id": secrets.token_hex(8)}, token=self.admin)[0]

    def run(self, call, statuses):
        while not self.is_over:
            try:
                statuses.append(call())
            except (OSError, http.client.HTTPException) as error:
                statuses.append(repr(error))

    def more(self, count=25):
        """Waits for so many further requests of each kind."""
        reads, writes = len(self.reads), len(self.writes)
        until("requests are answered", lambda: len(self.reads) >= reads + count and len(self.writes) >= writes + count)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        self.more()
        return self

    def __exit__(self, *_):
        self.is_over = True
        for thread in self.threads:
            thread.join()


def nodes_that_stop(proxy, nodes, admin):
    devices = [proxy.answer("POST", "/register", {"name": f"device {number}", "uuid": str(uuid.uuid4())}) for number in range(6)]
    sockets = [proxy.socket(device["token"]) for device in devices]
    with Load(proxy, admin) as load:
        nodes[0].begin_to_stop()
        load.more()
        until("the proxy knows", lambda: all(proxy.call("GET", "/readyz")[0] == 200 for _ in range(20)))
        assert set(load.reads + load.writes) == {200}, f"a node announces its end: {set(load.reads + load.writes)}"
        nodes[0].stop()
        load.more()
    assert set(load.reads) == {200}, f"reads while a node stops: {set(load.reads)}"
    # a proxy without checks may still send it writes
    assert set(load.writes) <= {200, 503}, f"writes while a node stops: {set(load.writes)}"
    codes = [socket.close_code() for socket in sockets]
    assert 1001 in codes and set(codes) <= {1001, None}, f"sockets of a node that stopped: {codes}"
    for device, code in zip(devices, codes):
        if code:
            proxy.socket(device["token"]).close()
    nodes[0].start()
    # until the proxy uses it again
    until("sockets come to both nodes", lambda: is_spread(proxy, devices, nodes))

    with Load(proxy, admin) as load:
        nodes[1].kill()
        load.more()
    assert set(load.reads) == {200}, f"reads while a node is killed: {set(load.reads)}"
    nodes[1].start()


def is_spread(proxy, devices, nodes):
    """Whether new sockets come to each node."""
    def connections(node):
        connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=PATIENCE)
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("switchboard_connections_opened_total{"))
    before = [connections(node) for node in nodes]
    for device in [proxy.socket(device["token"]) for device in devices]:
        device.close()
    return all(connections(node) > count for node, count in zip(nodes, before))


def no_node_is_ready(proxy, nodes, admin):
    """A node that is not ready still answers, and is asked if there is no other."""
    for node in nodes:
        node.begin_to_stop()
    until("the proxy knows", lambda: proxy.call("GET", "/readyz")[0] == 503)
    with Load(proxy, admin) as load:
        load.more(100)
    assert set(load.reads + load.writes) == {200}, f"no node is ready: {set(load.reads + load.writes)}"
    for node in nodes:
        node.stop()
    for node in nodes:
        node.start()


def main(program, *names):
    with tempfile.TemporaryDirectory(prefix="proxies-") as folder:
        folder = Path(folder)
        folder.chmod(0o755)
        redis_port = free_port()
        redis = subprocess.Popen(["redis-server", "--bind", "127.0.0.1", "--port", str(redis_port), "--save", "", "--dir", folder],
                                 stdout=subprocess.DEVNULL)
        database = "postgres://{PGUSER}:{PGPASSWORD}@{PGHOST}:{PGPORT}/postgres".format(**os.environ)
        environment = {
            "PATH": os.environ["PATH"],
            "RUST_LOG": "warn",
            "DATABASE_URL": database,
            "REDIS_URL": f"redis://127.0.0.1:{redis_port}",
            "SECRET_KEY": secrets.token_hex(32),
            "SWITCHBOARD__HTTP__TRUSTED_PROXIES": "127.0.0.1",
            # much comes from one address and one user
            "SWITCHBOARD__LIMITS__REGISTRATIONS_PER_MINUTE": "0",
            "SWITCHBOARD__LIMITS__TOPICS_PER_CLIENT": "0",
        }
        nodes = []
        try:
            for number in range(2):
                nodes.append(Node(program, folder / f"node{number}", environment))
            create = [program, "user", "create", "--config", ROOT / "config/production.toml", "--username", "root", "--role", "admin"]
            subprocess.run([*create, "--password-stdin"], input=PASSWORD, text=True, env=environment, check=True, cwd=folder,
                           stdout=subprocess.DEVNULL)
            for name in names or ("nginx", "haproxy", "caddy"):
                began = time.monotonic()
                proxy = Proxy(name, folder / name, nodes)
                try:
                    token = proxy.answer("POST", "/auth/login", {"username": "root", "password": PASSWORD})["access_token"]
                    what_passes(proxy, token)
                    who_it_is(proxy)
                    nodes_that_stop(proxy, nodes, token)
                    no_node_is_ready(proxy, nodes, token)
                except BaseException:
                    for log in (*folder.glob(f"{name}/*log"), *folder.glob("node*/log")):
                        print(f"-- {log.relative_to(folder)}\n{log.read_text()[-2000:]}", file=sys.stderr)
                    raise
                finally:
                    proxy.stop()
                print(f"{name}: TLS, HTTP/2, sockets, streams, addresses, a node stopped, killed, none ready: {time.monotonic() - began:.0f} s", flush=True)
        finally:
            for node in nodes:
                node.kill()
            redis.terminate()
            redis.wait()


main(str(Path(sys.argv[1]).resolve()), *sys.argv[2:])
