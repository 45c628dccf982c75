"""A client of the admin API (broker/admin/API.md), on the standard library alone."""

import base64
import json
import urllib.error
import urllib.parse
import urllib.request
import uuid


class AdminError(Exception):
    """An answer other than 2xx: `status`, and `kind` and `reason` of the body."""

    def __init__(self, status, body):
        self.status = status
        try:
            answer = json.loads(body)
        except ValueError:
            answer = {}
        self.kind = answer.get("error", "")
        self.reason = answer.get("reason", "")
        super().__init__(f"{status} {self.kind}: {self.reason or body[:200]}")


class Admin:
    def __init__(self, url, user="guest", password="guest"):
        self._url = url
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._authorization = f"Basic {token}"

    def request(self, method, path, body=None, content_type="application/json", timeout_s=60):
        """Returns (status, decoded JSON or None)."""
        request = urllib.request.Request(f"{self._url}/api/{path}", data=body, method=method, headers={
            "Authorization": self._authorization, "Content-Type": content_type})
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as response:
                text = response.read()
                return response.status, json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            with error:
                raise AdminError(error.code, error.read()) from None

    def get(self, path):
        return self.request("GET", path)[1]

    def put(self, path, value):
        return self.request("PUT", path, json.dumps(value).encode())

    def post(self, path, value=None):
        return self.request("POST", path, b"" if value is None else json.dumps(value).encode())

    def delete(self, path):
        return self.request("DELETE", path)[0]

    # --- functions ---

    def deploy(self, name, image, **config):
        """Deploys the ELF in the file `image`; returns the function."""
        with open(image, "rb") as file:
            return self.deploy_bytes(name, file.read(), str(image).rpartition("/")[2], **config)

    def deploy_bytes(self, name, data, image_name="image", **config):
        return self.deploy_parts(name, {"image": data}, image_name=image_name, **config)

    def deploy_parts(self, name, parts, **config):
        """Deploys `parts`, of which there are "image" and "rootfs", as bytes."""
        form = {"config": json.dumps(config).encode(), **parts}
        return self._post_form("PUT", f"functions/{quoted(name)}", form)

    def _post_form(self, method, path, parts, timeout_s=120):
        boundary = uuid.uuid4().hex
        body = []
        for part, data in parts.items():
            body += [f"--{boundary}\r\nContent-Disposition: form-data; name=\"{part}\"; "
                     f"filename=\"{part}\"\r\n"
                     "Content-Type: application/octet-stream\r\n\r\n".encode(), data, b"\r\n"]
        body.append(f"--{boundary}--\r\n".encode())
        return self.request(method, path, b"".join(body),
                            f"multipart/form-data; boundary={boundary}", timeout_s)[1]

    def invoke(self, name, data=b"", timeout_s=60, **parts):
        """Calls a function by hand; the answer has `output` and `log` as bytes in addition.

        With `state` or `routing_key`, as bytes, the call is made by a form.
        """
        path = f"functions/{quoted(name)}/invoke"
        if parts:
            answer = self._post_form("POST", path, {"input": data, **parts}, timeout_s)
        else:
            answer = self.request("POST", path, data, "application/octet-stream", timeout_s)[1]
        answer["output"] = base64.b64decode(answer["output_base64"])
        answer["log"] = base64.b64decode(answer["log_base64"])
        return answer

    def logs(self, name, after=0, wait_ms=0):
        return self.get(f"functions/{quoted(name)}/logs?after={after}&wait_ms={wait_ms}")

    # --- subscriptions and queues ---

    def subscribe(self, name, queue, function, **settings):
        return self.put(f"subscriptions/{quoted(name)}",
                        {"queue": queue, "function": function, **settings})[0]

    def subscription(self, name):
        return self.get(f"subscriptions/{quoted(name)}")

    def queue(self, name):
        return self.get(f"queues/%2F/{quoted(name)}")


def quoted(name):
    return urllib.parse.quote(name, safe="")
