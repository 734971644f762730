"""Brokers, proxies in front of them, and sockets through these, for proxies.py."""

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path

import websocket

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "docs/deploy"
PATIENCE = 60


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def until(what, holds):
    """Waits until something holds, and returns it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            found = holds()
        except (OSError, http.client.HTTPException):
            found = None
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited for this in vain: {what}")


class Device:
    """A socket of a device, after its greeting."""

    def __init__(self, url, tls):
        self.socket = websocket.create_connection(url, timeout=PATIENCE, sslopt={"context": tls})
        assert self.frame()["type"] == "connection"

    def frame(self):
        return json.loads(self.socket.recv())

    def send(self, **frame):
        self.socket.send(json.dumps(frame))

    def close_code(self):
        """The code with which the broker has closed the socket, None if it is open."""
        self.socket.settimeout(0.2)
        try:
            opcode, data = self.socket.recv_data()
        except websocket.WebSocketTimeoutException:
            return None
        assert opcode == websocket.ABNF.OPCODE_CLOSE, data
        return int.from_bytes(data[:2], "big")

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Node:
    """A broker with the settings of production; it stops when it gets SIGTERM twice, or 60 seconds after the first one."""

    def __init__(self, program, folder, environment):
        self.port, self.folder = free_port(), folder
        folder.mkdir()
        self.command = [program, "serve", "--config", ROOT / "config/production.toml"]
        self.environment = environment | {
            "SWITCHBOARD__HTTP__BIND": f"127.0.0.1:{self.port}",
            "SWITCHBOARD__STORAGE__DATA_DIR": str(folder / "data"),
            "SWITCHBOARD__HTTP__SHUTDOWN_DELAY_SECS": "60",
        }
        self.start()

    def start(self):
        with open(self.folder / "log", "a", encoding="utf-8") as log:
            self.process = subprocess.Popen(self.command, env=self.environment, cwd=self.folder, stdout=log, stderr=log)
        until("a node is ready", lambda: self.readiness()[0] == 200)

    def readiness(self):
        assert self.process.poll() is None, (self.folder / "log").read_text()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        return response.status, json.load(response)

    def begin_to_stop(self):
        self.process.send_signal(signal.SIGTERM)
        until("the node says that it stops", lambda: self.readiness()[1]["draining"])

    def stop(self):
        """After `begin_to_stop`."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE)
        assert code == 0, f"a node ended with {code}"

    def kill(self):
        self.process.kill()
        self.process.wait()


class Proxy:
    """A proxy with its file of docs/deploy, on ports of this test."""

    def __init__(self, name, folder, nodes):
        self.name, self.folder, self.port, self.plain_port = name, folder, free_port(), free_port()
        folder.mkdir()
        self.certify()
        self.nodes = nodes
        self.environment = dict(os.environ)
        check, command = getattr(self, name)()
        subprocess.run(check, env=self.environment, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.log = open(folder / "log", "w", encoding="utf-8")
        self.process = subprocess.Popen(command, env=self.environment, cwd=folder, stdout=self.log, stderr=self.log)
        until(f"{name} is there", lambda: self.call("GET", "/readyz")[0] == 200)

    def certify(self):
        key, certificate = self.folder / "key.pem", self.folder / "fullchain.pem"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                   "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        (self.folder / "both.pem").write_text(certificate.read_text() + key.read_text())
        self.tls = ssl.create_default_context(cafile=certificate)

    def file(self, path, replaced):
        """The file with other ports and directories; all that is replaced must be there."""
        text = (DEPLOY / path).read_text()
        for old, new in replaced.items():
            assert old in text, f"{path} has no {old!r}"
            text = text.replace(old, new)
        copy = self.folder / Path(path).name
        copy.write_text(text)
        return copy

    def nginx(self):
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        places = "".join(f"    {kind}_temp_path {self.folder}/{kind};\n" for kind in kinds)
        file = self.file("nginx/nginx.conf", {
            "http {\n": f"http {{\n{places}",
            "listen 80;": f"listen 127.0.0.1:{self.plain_port};",
            "listen 443 ": f"listen 127.0.0.1:{self.port} ",
            "127.0.0.1:8081": f"127.0.0.1:{self.nodes[0].port}",
            "127.0.0.1:8082": f"127.0.0.1:{self.nodes[1].port}",
            "/etc/ssl/switchboard": str(self.folder),
            "/var/log/nginx": str(self.folder),
            "/run/nginx.pid": f"{self.folder}/pid",
        })
        nginx = ["/usr/sbin/nginx", "-e", self.folder / "start.log", "-c", file]
        return [*nginx, "-t"], [*nginx, "-g", "daemon off;"]

    def haproxy(self):
        file = self.file("haproxy/haproxy.cfg", {
            "bind :80": f"bind 127.0.0.1:{self.plain_port}",
            "bind :443": f"bind 127.0.0.1:{self.port}",
            "127.0.0.1:8081": f"127.0.0.1:{self.nodes[0].port}",
            "127.0.0.1:8082": f"127.0.0.1:{self.nodes[1].port}",
            "/etc/ssl/switchboard": str(self.folder),
            "/run/haproxy": str(self.folder),
        })
        haproxy = ["/usr/sbin/haproxy", "-f", file]
        return [*haproxy, "-c"], [*haproxy, "-db"]

    def caddy(self):
        options = f"admin off\n\tskip_install_trust\n\thttp_port {self.plain_port}\n\thttps_port {self.port}\n\tdefault_bind 127.0.0.1\n"
        file = self.file("caddy/Caddyfile", {
            "\n{\n": f"\n{{\n\t{options}",
            "{$SITE:broker.example.org} {\n": f"{{$SITE:broker.example.org}} {{\n\ttls {self.folder}/fullchain.pem {self.folder}/key.pem\n",
        })
        nodes = " ".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        self.environment |= {"SITE": "localhost", "NODES": nodes, "HOME": str(self.folder), "XDG_DATA_HOME": str(self.folder)}
        caddy = ["caddy", "--config", file, "--adapter", "caddyfile"]
        return [caddy[0], "validate", *caddy[1:]], [caddy[0], "run", *caddy[1:]]

    def open(self, method, path, body=None, token=None, source="127.0.0.1", headers=None):
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=PATIENCE, context=self.tls, source_address=(source, 0))
        headers = dict(headers or {})
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        return connection.getresponse()

    def call(self, method, path, body=None, **more):
        with self.open(method, path, body, **more) as response:
            text = response.read().decode()
            is_json = response.headers.get("Content-Type", "").startswith("application/json")
            return response.status, json.loads(text) if is_json else text, response.headers

    def answer(self, method, path, body=None, **more):
        status, answer, _ = self.call(method, path, body, **more)
        assert status in (200, 201, 202), f"{method} {path}: {status} {answer}"
        return answer

    def curl(self, *arguments):
        """The version of HTTP and the status."""
        command = ["curl", "--silent", "--cacert", self.folder / "fullchain.pem", "--output", "/dev/null"]
        done = subprocess.run([*command, "--write-out", "%{http_version} %{http_code}", *arguments], stdout=subprocess.PIPE, text=True)
        return tuple(done.stdout.split())

    def socket(self, token):
        return Device(f"wss://localhost:{self.port}/ws?token={token}", self.tls)

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.log.close()
