"""A stand-in for the Hugging Face hub's HTTP API: one repository in memory, enough to push, look and download."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading

LARGE = (".safetensors",)


class Hub:
    """The server's memory.

    Attributes:
        url: its address.
        files: name -> content of the last commit.
        requests: "METHOD path" of each request.
        refuses: whether every request is refused.
    """

    def __init__(self):
        self.url, self.files, self.blobs, self.requests, self.refuses = "", {}, {}, [], False

    @property
    def commit(self) -> str:
        """The name of the commit, 40 hexadecimal digits."""
        return hashlib.sha1(b"".join(self.files[name] for name in sorted(self.files))).hexdigest()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes | dict, dict]:
        """(status, content or JSON, headers) for a request."""
        if self.refuses:
            return 403, {"error": "no right to write"}, {}
        if path == "/api/repos/create":
            given = json.loads(body)
            return 200, {"url": f"{self.url}/{given['organization']}/{given['name']}"}, {}
        if path == "/api/validate-yaml":
            assert "library_name: kd-cookbook" in json.loads(body)["content"]
            return 200, {"errors": [], "warnings": []}, {}
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": n, "uploadMode": "lfs" if n.endswith(LARGE) else "regular"} for n in names]
            return 200, {"files": [{**mode, "shouldIgnore": False} for mode in modes]}, {}
        if path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            actions = [{"upload": {"href": f"{self.url}/blobs/{o['oid']}"}} for o in objects]
            found = [{**o, "actions": action} for o, action in zip(objects, actions, strict=True)]
            return 200, {"transfer": "basic", "objects": found}, {}
        if method == "PUT":
            digest = hashlib.sha256(body).hexdigest()
            assert path == f"/blobs/{digest}"
            self.blobs[digest] = body
            return 200, b"", {}
        if "/commit/" in path:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    self.files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    self.files[value["path"]] = self.blobs[value["oid"]]
            return 200, {"commitUrl": f"{self.url}/me/tiny/commit/{self.commit}", "commitOid": self.commit}, {}
        if re.match(r"/api/models/me/tiny(/revision/.*)?$", path) and self.files:
            siblings = [{"rfilename": name} for name in sorted(self.files)]
            return 200, {"id": "me/tiny", "sha": self.commit, "siblings": siblings, "private": False}, {}
        if path.startswith("/api/models/me/tiny/tree/") and self.files:
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in self.files.items()
            ]
            return 200, entries, {}
        if (name := path.rpartition("/")[2]) in self.files and "/resolve/" in path:
            content = self.files[name]
            facts = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": self.commit}
            return 200, content, facts
        return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}


@contextlib.contextmanager
def running():
    """A server in a thread; yields its `Hub`."""
    hub = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        def reply(self):
            path = self.path.partition("?")[0]
            hub.requests.append(f"{self.command} {path}")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, content, headers = hub.answer(self.command, path, body)
            if not isinstance(content, bytes):
                content, headers = json.dumps(content).encode(), {**headers, "Content-Type": "application/json"}
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = reply  # noqa: N815  # the names of http.server

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
