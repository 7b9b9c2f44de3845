"""A visdom server as this program talks to it: where it stands, who logs in, and what went wrong in words."""
import importlib.util
import ipaddress
import os
import urllib.parse
from dataclasses import dataclass

from engine.arguments import integer
from errors import InputError

TIMEOUT = 3  # seconds that the server may take for one request
PASSWORD = "VISDOM_PASSWORD"  # the server itself reads its password from it
SERVER = {
    "visdom_env": dict(metavar="NAME", help="show the run in this visdom environment"),
    "visdom_server": dict(metavar="URL", default="http://localhost", help="where visdom runs"),
    "visdom_port": dict(type=integer(1), default=8097, help="its port"),
    "visdom_base_url": dict(metavar="/PATH", default="/", help="its -base_url"),
    "visdom_user": dict(metavar="NAME", help=(
        f"log in with this name; the password comes from the environment variable {PASSWORD}"))}


class Trouble(ConnectionError):
    """What a server did instead of taking a request: 'does not answer', 'answers 404 Not Found'."""


@dataclass(frozen=True)
class VisdomServer:
    """address : URL without a path; base_url : path, from / on; user : name for the login, None without one."""
    address: str = "http://localhost"
    port: int = 8097
    base_url: str = "/"
    user: str | None = None

    @classmethod
    def of(cls, options):
        return cls(options.visdom_server, options.visdom_port, options.visdom_base_url, options.visdom_user)

    @property
    def url(self):
        return f"{self.address.rstrip('/')}:{self.port}{self.base_url.rstrip('/')}"

    def check(self, env):
        """Refuse what the client would drop or stumble over, and names of environments that visdom would change (it
        takes '/' for a path and writes '_') or cannot store."""
        if not env.strip() or not env.isprintable() or set("/\\") & set(env) or len(env.encode()) > 200:
            raise InputError(f"--visdom_env={env!r} cannot name a dashboard: it takes 1 to 200 letters, digits or "
                             "signs, but no slash")
        if self.port > 65535:
            raise InputError(f"--visdom_port={self.port} is above 65535")
        try:
            parts = urllib.parse.urlsplit(_with_scheme(self.address))
            told = parts.scheme not in ("http", "https") and f"it begins with {parts.scheme}:" or \
                not parts.hostname and "it names no machine" or \
                "@" in parts.netloc and f"the name goes into --visdom_user, the password into {PASSWORD}" or \
                parts.port and "the port goes into --visdom_port" or \
                (parts.path.strip("/") or parts.query or parts.fragment) and "the path goes into --visdom_base_url"
        except ValueError as error:
            told = str(error)
        if told:
            shown = _without_password(self.address)
            raise InputError(f"--visdom_server={shown} is no address like http://localhost: {told}")
        if not self.base_url.startswith("/") or not self.base_url.isprintable() or set(" ?#") & set(self.base_url):
            raise InputError(f"--visdom_base_url={self.base_url} is no path like /visdom")
        if self.user is not None and not os.environ.get(PASSWORD):
            raise InputError(f"--visdom_user={self.user} needs its password in the environment variable {PASSWORD}")
        if importlib.util.find_spec("visdom") is None:
            raise InputError("--visdom_env needs visdom, which is not installed: pip install -r requirements.txt")

    def client(self, env):
        """A `visdom.Visdom` that raises `Trouble`, prints nothing and waits at most TIMEOUT.

        As it comes, visdom has no timeout, takes an error page for success, and posts while it is constructed: so it is
        constructed offline, and gets a `_handle_post` (which is there to be overridden) of its own.
        """
        import requests
        import visdom
        session = requests.Session()
        if self.is_loopback():
            session.trust_env = False  # a proxy would look for it on its own machine

        def request(url, **content):
            try:
                # A redirect leads a POST to a page, such as that of a login, which would look like success.
                return session.post(url, timeout=TIMEOUT, allow_redirects=False, **content)
            except requests.exceptions.SSLError as error:
                raise Trouble(f"cannot be spoken to by TLS ({error})") from None
            except requests.Timeout:
                raise Trouble(f"does not answer within {TIMEOUT} s") from None
            except requests.RequestException:
                raise Trouble("does not answer" + self._through(session)) from None

        def post(url, data=None):
            reply = request(url, data=data)
            if reply.status_code != 200 or reply.text.lstrip().startswith("<"):
                raise Trouble(self._told(reply) + self._through(session))
            return reply.text
        client = visdom.Visdom(_with_scheme(self.address), port=self.port, base_url=self.base_url.rstrip("/") or "/",
                               env=env, raise_exceptions=True, use_incoming_socket=False, offline=True,
                               log_to_filename=os.devnull)
        client.offline, client.log_to_filename, client._handle_post = False, None, post
        if self.user is not None:
            self._log_in(request, session)
        return client

    def _log_in(self, request, session):
        """As visdom's own page does, or, where a web server before it asks, by HTTP's basic authentication."""
        import hashlib
        password = os.environ.get(PASSWORD, "")
        login = {"username": self.user, "password": hashlib.sha256(password.encode()).hexdigest()}
        reply = request(self.url, json=login)
        if reply.status_code == 401 and "basic" in reply.headers.get("WWW-Authenticate", "").lower():
            session.auth = self.user.encode(), password.encode()
            reply = request(self.url, json=login)
            if reply.status_code != 401:
                return  # visdom behind it may want no login of its own
        if reply.status_code in (400, 401, 403):
            raise Trouble(f"refuses the login of --visdom_user={self.user} with the password in {PASSWORD} (it "
                          f"answers {_status(reply)})")

    def _told(self, reply):
        """What a reply says that is not visdom's."""
        said = f"answers {_status(reply)}"
        if reply.status_code in (400, 401, 403) and self.user is None:
            return f"{said}: it seems to want a login (--visdom_user, and the password in {PASSWORD})"
        if reply.status_code == 200:
            return f"{said} with a web page: it is no visdom server, or wants a login at another place"
        if reply.is_redirect:
            return f"{said}, which leads to {reply.headers['Location']}"
        if reply.status_code in (404, 405, 500):
            return f"{said}: visdom may stand below another path (--visdom_base_url={self.base_url})"
        return said

    def _through(self, session):
        """Which proxy an answer came from."""
        from requests.utils import get_environ_proxies, select_proxy
        proxy = session.trust_env and select_proxy(self.url, get_environ_proxies(self.url))
        return f", through the proxy {_without_password(proxy)}" if proxy else ""

    def is_loopback(self):
        host = urllib.parse.urlsplit(_with_scheme(self.address)).hostname or ""
        if host == "localhost" or host.endswith(".localhost"):
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return address.is_loopback or address.is_unspecified


def _status(reply):
    by = reply.headers.get("Server", "").strip()
    return f"{reply.status_code} {reply.reason}" + (f" ({by})" if by else "")


def _with_scheme(address):
    return address if "//" in address else "http://" + address


def _without_password(address):
    """An address as messages may have it."""
    scheme, slashes, rest = address.rpartition("//")
    return scheme + slashes + rest.rpartition("@")[2]
