"""A stand-in for the Hub on 127.0.0.1 that speaks as much of its protocol as pushes need, for its real client."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

TOKEN = "hf_a-token-of-the-tests"
PIPELINES = ("image-segmentation", "image-classification")
LARGE = (".safetensors", ".png", ".bin", ".pt")


class HubStub(ThreadingHTTPServer):
    """
    Repositories of one user, whose commits add files or delete them.

    Attributes:
        files (`dict[str, bytes]`): what arrived, by `repository/path`.
        commits (`list`): repository and message of each.
        refusals (`dict`): HTTP status by a pattern of requests, such as `{"POST .*/commit/": 503}`.
        requests (`list[str]`): method and path of each.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Requests)
        self.files: dict[str, bytes] = {}
        self.repositories: set[str] = set()
        self.objects: dict[str, bytes] = {}
        self.commits: list[tuple[str, str]] = []
        self.refusals: dict[str, int] = {}
        self.requests: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def environment(self) -> dict[str, str]:
        """For a process that pushes here."""
        return {"HF_ENDPOINT": self.address, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}

    def arrived(self, repository: str) -> dict[str, bytes]:
        """The files of a repository, by their paths in it."""
        start = f"{repository}/"
        return {path.removeprefix(start): data for path, data in self.files.items() if path.startswith(start)}


@contextmanager
def running_stub():
    stub = HubStub()
    thread = threading.Thread(target=stub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        stub.shutdown()
        stub.server_close()
        thread.join()


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubStub

    def log_message(self, *arguments):
        """Nothing: what was asked stands in `requests`."""

    def do_GET(self):
        self._answer()

    def do_POST(self):
        self._answer()

    def do_PUT(self):
        self._answer()

    def do_HEAD(self):
        self._answer()

    def _answer(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        request = f"{self.command} {path}"
        self.server.requests.append(request)
        for pattern, status in self.server.refusals.items():
            if re.match(pattern, request):
                return self._send(status, {"error": "refused by the test"})
        # Uploads go to addresses that are signed instead.
        if not path.startswith("/storage/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401, {"error": "Invalid username or password."})
        for pattern, answer in _ANSWERS.items():
            match = re.fullmatch(pattern, request)
            if match:
                return answer(self, *match.groups())
        return self._send(404, {"error": f"no such thing: {request}"}, {"X-Error-Code": "EntryNotFound"})

    def _send(self, status, content, headers=None):
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def who_am_i(self):
        self._send(200, {"type": "user", "name": "someone", "auth": {"accessToken": {"role": "write"}}})

    def validate(self):
        """The metadata of a card: what the Hub turns down is no mapping, or names no known task."""
        metadata = yaml.safe_load(json.loads(self.body)["content"].split("---\n")[1])
        wrong = not isinstance(metadata, dict) or metadata.get("pipeline_tag", PIPELINES[0]) not in PIPELINES
        self._send(400 if wrong else 200, {"errors": [{"message": "wrong metadata"}] * wrong, "warnings": []})

    def create(self):
        wanted = json.loads(self.body)
        repository = f"{wanted.get('organization') or 'someone'}/{wanted['name']}"
        known = repository in self.server.repositories
        self.server.repositories.add(repository)
        address = f"{self.server.address}/{repository}"
        self._send(409 if known else 200, {"url": address, "id": repository, "name": repository})

    def describe(self, repository):
        if repository not in self.server.repositories:
            return self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        siblings = [{"rfilename": path} for path in self.server.arrived(repository)]
        self._send(200, {"id": repository, "sha": "0" * 40, "siblings": siblings, "private": False, "tags": []})

    def preupload(self, repository, revision):
        files = json.loads(self.body)["files"]
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for file in files
        ]
        self._send(200, {"files": modes})

    def batch(self, repository):
        wanted = json.loads(self.body)["objects"]
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.server.address}/storage/{one['oid']}"}}} for one in wanted
        ]
        self._send(200, {"transfer": "basic", "objects": objects})

    def store(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self._send(400, {"error": "another file than was announced"})
        self.server.objects[oid] = self.body
        self._send(200, {})

    def commit(self, repository, revision):
        lines = [json.loads(line) for line in self.body.splitlines()]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.server.files[f"{repository}/{value['path']}"] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.server.files[f"{repository}/{value['path']}"] = self.server.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del self.server.files[f"{repository}/{value['path']}"]
        self.server.commits.append((repository, lines[0]["value"]["summary"]))
        oid = f"{len(self.server.commits):040x}"
        address = f"{self.server.address}/{repository}/commit/{oid}"
        self._send(200, {"success": True, "commitOid": oid, "commitUrl": address})

    def resolve(self, repository, path):
        data = self.server.files.get(f"{repository}/{path}")
        if data is None:
            return self._send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        self.send_response(200)
        etag = hashlib.sha256(data).hexdigest()
        for name, value in {"ETag": f'"{etag}"', "X-Repo-Commit": "0" * 40, "Content-Length": len(data)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


_REPOSITORY = r"([\w.-]+/[\w.-]+)"
_ANSWERS = {
    r"GET /api/whoami-v2": _Requests.who_am_i,
    r"POST /api/validate-yaml": _Requests.validate,
    r"POST /api/repos/create": _Requests.create,
    rf"GET /api/models/{_REPOSITORY}(?:/revision/[^/]+)?": _Requests.describe,
    rf"POST /api/models/{_REPOSITORY}/preupload/([^/]+)": _Requests.preupload,
    rf"POST /{_REPOSITORY}\.git/info/lfs/objects/batch": _Requests.batch,
    r"PUT /storage/([0-9a-f]{64})": _Requests.store,
    rf"POST /api/models/{_REPOSITORY}/commit/([^/]+)": _Requests.commit,
    rf"(?:GET|HEAD) /{_REPOSITORY}/resolve/[^/]+/(.+)": _Requests.resolve,
}
