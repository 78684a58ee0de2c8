"""deploy/nginx/hacktree.conf as it is shipped, and with its TLS lines."""

import contextlib
import http.client
import ssl
import subprocess
from pathlib import Path

import pytest

from support.certificates import Certificates, make_certificates
from support.layouts import published_layout
from support.servers import (
    SITE_CONFIGURATION,
    nginx_program,
    nginx_serving,
    write_main_configuration,
)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A throw-away authority, a server's and a client's certificate."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def test_the_shipped_file_is_valid(tmp_path: Path) -> None:
    """Only the log goes elsewhere: the directory of the packaged nginx may not be there."""
    site = SITE_CONFIGURATION.read_text().replace("/var/log/nginx/", f"{tmp_path}/")
    main = write_main_configuration(tmp_path, site)
    errors = str(tmp_path / "error.log")
    command = [nginx_program(), "-t", "-p", str(tmp_path), "-e", errors, "-c", str(main)]
    tested = subprocess.run(command, capture_output=True, text=True)
    assert tested.returncode == 0, tested.stderr
    assert "[warn]" not in tested.stderr
    assert "test is successful" in tested.stderr


def test_client_certificates(tmp_path: Path, certificates: Certificates) -> None:
    """With the #tls lines: who shows a certificate may read, who shows none may not."""
    with (
        published_layout(tmp_path / "repository") as layout,
        nginx_serving(layout.directory, tls=certificates.server) as server,
    ):
        known = ssl.create_default_context(cafile=certificates.authority)
        known.load_cert_chain(certificates.client_certificate, certificates.client_key)
        for path in (layout.ref, layout.large):
            status, body = https_get(server.address, path, known)
            assert (status, body) == (200, layout.content(path))
        stranger = ssl.create_default_context(cafile=certificates.authority)
        status, body = https_get(server.address, layout.ref, stranger)
        assert status == 400
        assert layout.content(layout.ref) not in body


def https_get(address: tuple[str, int], path: str, context: ssl.SSLContext) -> tuple[int, bytes]:
    connection = http.client.HTTPSConnection(*address, context=context, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
