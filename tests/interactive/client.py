"""A client of Outrigger in Python's standard library: begin, insert returning an id, node, point, commit.

    client.py DOOR KEY TABLE [prepare]

It waits for a line on standard input before each call and writes each answer as a line of JSON, so that a test can kill
the sidecar between any two calls. Whatever happens to a call, it asks afterwards, and its last line is the outcome: one
of the three answers that there are.
"""

import json
import sys
import time
import urllib.error
import urllib.request

DOOR, KEY, TABLE = sys.argv[1:4]
PREPARES = sys.argv[4:] == ["prepare"]


def call(method, path, body=None, headers=None):
    """Status and JSON of an answer; (None, None) where none came."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(DOOR + path, data=data, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)
    except OSError:
        return None, None


def say(**line):
    print(json.dumps(line), flush=True)


def step(name, method, path, body=None, headers=None):
    sys.stdin.readline()
    status, answer = call(method, path, body, headers)
    answer = answer or {}
    say(step=name, status=status, state=answer.get("state"), code=answer.get("code"))
    return status, answer


def operations(name, *items):
    return step(name, "POST", f"/v1/transactions/name:{KEY}/operations", {"operations": list(items)})


def talk():
    """The calls in their order; false as soon as one did not do what it should."""
    opening = {"interactive": True, "name": KEY, "lease_ms": 20000}
    status, _ = step("begin", "POST", "/v1/transactions", opening)
    if status != 201:
        return False
    insert = f"INSERT INTO {TABLE}(title) VALUES ($1) RETURNING id"
    status, answer = operations("insert", {"id": "row", "store": "pg", "sql": insert, "params": ["Mardi"]})
    if status != 200:
        return False
    # The id is looked at, as an application would, and used in its own words.
    number = answer["results"]["row"]["rows"][0]["id"]
    node = {"id": "node", "store": "graph", "cypher": f"CREATE (:{TABLE} {{id: $id}})", "params": {"id": number}}
    if operations("node", node)[0] != 200:
        return False
    point = {"id": number, "vector": [0.1, 0.2, 0.3, 0.4], "payload": {"title": "Mardi"}}
    upsert = {"id": "point", "store": "vectors", "collection": TABLE, "upsert": {"points": [point]}}
    if operations("point", upsert)[0] != 200:
        return False
    if PREPARES and step("prepare", "POST", f"/v1/transactions/name:{KEY}/prepare", {})[0] != 200:
        return False
    return step("commit", "POST", f"/v1/transactions/name:{KEY}/commit")[0] == 200


def outcome():
    """What became of it: asked until that is known."""
    for _ in range(300):
        status, answer = call("GET", f"/v1/transactions/name:{KEY}")
        if status == 404:
            return "nothing is known of it, so nothing was begun"
        if status == 200 and answer["state"] in ("committed", "aborted", "prepared"):
            return answer["state"]
        time.sleep(0.1)
    return "unknown"


talk()
say(outcome=outcome())
