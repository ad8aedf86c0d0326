"""A real OpenID provider, npm's `oidc-provider`, as a process on a loopback port."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
from joserfc.jwk import RSAKey

from support.service import eventually

PACKAGE = "oidc-provider@9.13.3"
_SCRIPT = Path(__file__).with_suffix(".mjs")
_INSTALL_S = 90


def install_oidc_provider(folder: Path) -> str:
    """Have npm install the provider into a folder; return why it could not, or the empty string."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "node and npm, which run and install the OpenID provider, are absent"
    # Scripts of packages are not run: it needs none, and none is to run here.
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--fetch-retries", "0"]
    try:
        done = subprocess.run(
            ["npm", "install", "--prefix", folder, *options, PACKAGE],
            capture_output=True,
            text=True,
            timeout=_INSTALL_S,
        )
    except subprocess.TimeoutExpired:
        return f"npm did not install {PACKAGE} within {_INSTALL_S} s"
    return f"npm cannot install {PACKAGE}: {done.stderr.strip()[-200:]}" if done.returncode else ""


class OidcProvider:
    """Runs the provider; its keys can be exchanged.

    Args:
        folder: Where `install_oidc_provider` put it.
        port: Where it answers.
        audience: Whom its access tokens are meant for.
        redirect_uri: Where it sends browsers back to after a login.
        logged_out_uri: Where it sends them back to after a logout.
    """

    client_id = "cockpit"
    client_secret = "a secret/with:what is to be quoted"

    def __init__(self, folder: Path, port: int, *, audience: str, redirect_uri: str, logged_out_uri: str) -> None:
        self._folder = folder
        self._order = {"port": port, "client_id": self.client_id, "client_secret": self.client_secret}
        self._order |= {"audience": audience, "redirect_uri": redirect_uri, "logged_out_uri": logged_out_uri}
        self.issuer = f"http://127.0.0.1:{port}"
        self.asked = 0
        """How often a browser had to say who logs in."""
        self.process: subprocess.Popen[bytes] | None = None
        self.key = RSAKey.generate_key(2048, {"kid": "none yet"})

    def __enter__(self) -> Self:
        self.start("first")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, kid: str) -> None:
        """Start it with one new key of that id."""
        self.key = RSAKey.generate_key(2048, {"kid": kid, "use": "sig", "alg": "RS256"})
        order: dict[str, Any] = self._order | {"keys": [self.key.as_dict(private=True)]}
        with (self._folder / "provider.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["node", _SCRIPT, json.dumps(order)], cwd=self._folder, stdout=log, stderr=log
            )
        eventually(self._answers, 20, "the OpenID provider answers")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self._folder / "provider.log").read_text()
        try:
            return httpx.get(f"{self.issuer}/jwks", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def log_in(self, browser: httpx.Client, begin: str, account: str) -> httpx.Response:
        """Follow a browser from the service's login to what the service answers at its callback.

        Args:
            browser: Follows no redirects by itself.
            begin: The service's address of the login.
            account: Who logs in.
        """
        callback = str(self._order["redirect_uri"])
        answer = browser.get(begin)
        for _ in range(10):
            assert answer.status_code in (302, 303), (answer.status_code, answer.text)
            url = httpx.URL(str(answer.url)).join(answer.headers["location"])
            if urlsplit(str(url)).path.startswith("/interaction/"):
                self.asked += 1
                url = url.copy_merge_params({"as": account})
            answer = browser.get(url)
            if str(url).startswith(callback):
                return answer
        raise AssertionError(f"the login led nowhere: {answer.url}")

    def log_out(self, browser: httpx.Client, url: str) -> httpx.Response:
        """Follow a browser from where it is to end the provider's session to what the service answers it then.

        Args:
            browser: Follows no redirects by itself.
            url: Where the service sent it.
        """
        answer = browser.get(url)
        assert answer.status_code == 200, answer.text
        form = re.search(r'action="([^"]+)".*name="xsrf" value="([^"]+)"', answer.text)
        assert form is not None, answer.text
        # The button that says yes.
        answer = browser.post(form[1], data={"xsrf": form[2], "logout": "yes"})
        assert answer.status_code in (302, 303), (answer.status_code, answer.text)
        back = httpx.URL(form[1]).join(answer.headers["location"])
        assert str(back).startswith(str(self._order["logged_out_uri"]))
        return browser.get(back)
