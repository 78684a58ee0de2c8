"""Throw-away certificates for tests of TLS: an authority, a server's and a client's."""

import dataclasses
import ipaddress
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclasses.dataclass(frozen=True, slots=True)
class ServerTls:
    """Files of a server: its chain and key, and who may sign its clients' certificates."""

    certificate: Path
    key: Path
    client_authority: Path


@dataclasses.dataclass(frozen=True, slots=True)
class Certificates:
    """Files of both sides, in PEM; one authority signs both."""

    authority: Path
    server: ServerTls
    client_certificate: Path
    client_key: Path


def make_certificates(directory: Path) -> Certificates:
    """Certificates for 127.0.0.1 and localhost, and for a client named `tester`."""
    authority, authority_key = directory / "authority.pem", directory / "authority.key"
    _request(
        authority,
        authority_key,
        "/CN=hacktree test authority",
        ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"],
    )
    signer = ["-CA", str(authority), "-CAkey", str(authority_key)]
    server, server_key = directory / "server.pem", directory / "server.key"
    names = "subjectAltName=IP:127.0.0.1,DNS:localhost"
    _request(server, server_key, "/CN=localhost", [*_LEAF, names], *signer)
    client, client_key = directory / "client.pem", directory / "client.key"
    _request(client, client_key, "/CN=tester", _LEAF, *signer)
    return Certificates(
        authority=authority,
        server=ServerTls(certificate=server, key=server_key, client_authority=authority),
        client_certificate=client,
        client_key=client_key,
    )


def make_untimely(directory: Path, begins: int) -> ServerTls:
    """A certificate of 127.0.0.1, its own authority, for ten days from so many days from now on."""
    signer = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    begin = datetime.now(UTC) + timedelta(days=begins)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder(name, name, signer.public_key(), x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=10))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    paths = directory / "untimely.pem", directory / "untimely.key"
    paths[0].write_bytes(certificate.public_bytes(pem))
    private = serialization.PrivateFormat.PKCS8
    paths[1].write_bytes(signer.private_bytes(pem, private, serialization.NoEncryption()))
    return ServerTls(*paths, client_authority=paths[0])


_LEAF = ["basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature"]


def _request(
    certificate: Path, key: Path, subject: str, extensions: list[str], *signer: str
) -> None:
    program = shutil.which("openssl")
    if program is None:
        pytest.fail("these tests make certificates: install the package openssl")
    command = [program, "req", "-x509", "-nodes", "-days", "2", "-subj", subject]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-keyout", str(key), "-out", str(certificate), *signer]
    for extension in extensions:
        command += ["-addext", extension]
    subprocess.run(command, check=True, capture_output=True)
