"""Makes every planned call through the client that openapi-python-client generated, and checks that it reads each answer.

usage: call_python.py URL PLAN.json      (with the generated package on PYTHONPATH)
"""

import importlib
import inspect
import json
import pkgutil
import sys
import typing

import switchboard_client.api
from switchboard_client import AuthenticatedClient


def generated():
    """The generated modules by operation id."""
    packages = pkgutil.walk_packages(switchboard_client.api.__path__, "switchboard_client.api.")
    names = [package.name for package in packages if not package.ispkg]
    return {name.rsplit(".", 1)[1]: importlib.import_module(name) for name in names}


def body(kind, value):
    """The planned body as the first of the generated classes that takes it."""
    kinds = [one for one in (typing.get_args(kind) or [kind]) if hasattr(one, "from_dict")]
    for one in kinds:
        try:
            read = one.from_dict(dict(value))
        except KeyError:
            continue  # a required field of this one is missing
        if not getattr(read, "additional_properties", None):
            return read
    raise AssertionError(f"no generated class takes {value}")


def call(module, planned, url):
    client = AuthenticatedClient(base_url=url, token=planned["token"], raise_on_unexpected_status=True, timeout=60)
    wanted = inspect.signature(module.sync_detailed).parameters
    # a parameter that is a word of Python has an underscore
    parameters = {name if name in wanted else f"{name}_": value for name, value in planned["parameters"].items()}
    if planned["body"] is not None:
        parameters["body"] = body(wanted["body"].annotation, planned["body"])
    return module.sync_detailed(client=client, **parameters)


def main():
    url, plan_path = sys.argv[1:]
    with open(plan_path, encoding="utf-8") as file:
        plan = json.load(file)
    modules = generated()
    for planned in plan:
        response = call(modules[planned["id"]], planned, url)
        what = f"{planned['id']}: {int(response.status_code)} {response.content[:300]!r}"
        assert response.status_code == planned["status"], what
        if planned["answers_json"]:
            assert response.parsed is not None, what
    print(f"openapi-python-client: {len(plan)} operations")


main()
