"""Plans one call of every operation in the OpenAPI document, each with things of its own to act on, so that it succeeds.

usage: plan.py URL ADMIN_PASSWORD OPENAPI.json > PLAN.json

The plan is a list of {id, method, path, token, parameters, content_type, body, status, answers_json}. The body is the declared example with
the names of things that exist. Event streams are left out, since they have no end.
"""

import json
import secrets
import sys
import urllib.parse
import urllib.request
import uuid

METHODS = ("get", "post", "put", "patch", "delete")
PASSWORD = "correct horse battery staple"

url, admin_password, document_path = sys.argv[1:]
with open(document_path, encoding="utf-8") as file:
    document = json.load(file)


def call(method, path, body=None, token=None, form=False):
    """A plain request; the answer as JSON."""
    data = None
    headers = {}
    if body is not None:
        data = (urllib.parse.urlencode(body) if form else json.dumps(body)).encode()
        headers["Content-Type"] = "application/x-www-form-urlencoded" if form else "application/json"
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url + path, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def login(username, password):
    return call("POST", "/token", {"username": username, "password": password}, form=True)


class Things:
    """What one call may act on, all of it new."""

    def __init__(self):
        name = secrets.token_hex(6)
        self.name = name
        self.admin = login("admin", admin_password)
        token = self.admin["access_token"]
        self.device = call("POST", "/register", {"name": name, "uuid": str(uuid.uuid4())})
        self.user = call("POST", "/register", {"username": name, "password": PASSWORD})
        topic = {"topic_id": name, "history": {"size": 10}}
        self.topic = call("POST", "/topics/create", topic, token)["topic_id"]
        self.room = call("POST", "/api/rooms/", {"name": name}, token)["id"]
        call("POST", f"/api/rooms/{self.room}/members", {"user_id": self.user["id"]}, token)
        message = {"content": "Hello!", "room_id": self.room}
        self.message = call("POST", f"/api/rooms/{self.room}/messages", message, token)["id"]
        gateway = {"name": name, "address": "tcp://127.0.0.1:9"}
        self.gateway = call("POST", "/api/gateways", gateway, token)["id"]
        command = {"target": self.device["uuid"], "method": "GET", "url": "/", "deliver_within_secs": 60}
        self.command = call("POST", "/api/commands", command | {"deliver_within_secs": 0}, token)["id"]
        message = {"to": self.device["uuid"], "msgid": name, "content": "Hello!", "acknowledge": True}
        self.acknowledged = call("POST", "/api/messages", message, token)["id"]

    def parameter(self, path, name):
        if name == "id":
            for prefix, value in (
                ("/api/commands/", self.command),
                ("/api/gateways/", self.gateway),
                ("/api/messages/", self.acknowledged),
                ("/api/users/", self.user["id"]),
            ):
                if path.startswith(prefix):
                    return value
        return {
            "topic_id": self.topic,
            "room_id": self.room,
            "message_id": self.message,
            "user_id": str(self.user["id"]),
            "device_id": self.device["uuid"],
            "target": self.device["uuid"],
            "msgid": self.name,
            "file": "index.html",
        }[name]

    def body(self, operation_id, example):
        """The example, with the names of these things instead of those of its own."""
        new = f"new-{self.name}"
        return example | {
            "post_register": {"uuid": str(uuid.uuid4())},
            "post_api_users": {"username": new, "email": f"{new}@example.org"},
            "post_api_users_me_password": {"old_password": PASSWORD, "new_password": f"{PASSWORD} 2"},
            "post_token": {"username": self.name, "password": PASSWORD},
            "post_api_token": {"username": self.name, "password": PASSWORD},
            "post_auth_login": {"username": self.name, "password": PASSWORD},
            "post_auth_refresh": {"refresh_token": self.device["refresh_token"]},
            "post_admin_tokens_revoke": {"client_uuid": self.device["uuid"]},
            "post_topics_create": {"topic_id": new},
            "post_topics_subscribe": {"topic_id": self.topic},
            "post_topics_unsubscribe": {"topic_id": self.topic},
            "post_topics_publish": {"topic_id": self.topic},
            "post_rooms": {"name": new},
            "post_api_rooms": {"name": new},
            "post_api_rooms_room_id_messages": {"room_id": self.room},
            "post_api_rooms_room_id_members": {"user_id": self.user["id"]},
            "post_api_rooms_room_id_read": {"message_id": self.message},
            "post_api_commands": {"target": self.device["uuid"]},
            "post_api_messages": {"to": self.device["uuid"]},
        }.get(operation_id, {})

    def token(self, operation_id):
        """The token of whoever may do this: an admin, unless it is about the caller's own password."""
        if operation_id == "post_api_users_me_password":
            return login(self.name, PASSWORD)["access_token"]
        return self.admin["access_token"]


def resolve(schema):
    while "$ref" in schema:
        node = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            node = node[part]
        schema = node
    return schema


def example(content):
    schema = resolve(content["schema"])
    return schema["example"] if "example" in schema else resolve(schema["oneOf"][0])["example"]


def plan(path, method, operation):
    things = Things()
    parameters = {
        parameter["name"]: things.parameter(path, parameter["name"])
        for parameter in operation.get("parameters", [])
        if parameter["in"] == "path"
    }
    content_type, body = None, None
    if "requestBody" in operation:
        content_type, content = next(iter(operation["requestBody"]["content"].items()))
        body = things.body(operation["operationId"], example(content))
    status = 200
    if path == "/send-command/{target}":
        status = 400  # the device is not connected
    elif path.startswith("/topics/") and "{" not in path and method != "post":
        status = 404  # no topic has the name of a route
    return {
        "id": operation["operationId"],
        "method": method,
        "path": path,
        "token": things.token(operation["operationId"]),
        "parameters": parameters,
        "content_type": content_type,
        "body": body,
        "status": status,
        "answers_json": "application/json" in operation["responses"][str(status)].get("content", {}),
    }


calls = [
    plan(path, method, item[method])
    for path, item in document["paths"].items()
    for method in METHODS
    if method in item and "text/event-stream" not in item[method]["responses"]["200"].get("content", {})
]
json.dump(calls, sys.stdout, indent=1)
