"""Options of commands that steer a farm elsewhere, and what they connect to."""

import argparse
import hashlib
import ssl
from pathlib import Path

from securesystemslib.signer import CryptoSigner

from hacktree.common.errors import UserError
from hacktree.common.repository.durable import make_directories
from hacktree.common.trust.verifying import (
    FIRST_ROOT,
    TrustedRemote,
    check_anchor,
    limit_of,
)
from hacktree.server.promotion.farm_client import FarmClient
from hacktree.server.promotion.signingkey import read_signing_key


def add_farm_options(parser: argparse.ArgumentParser, grant: str) -> None:
    """`--server` and what goes with it; `grant`: what its token has to allow."""
    parser.add_argument("--server", metavar="URL", help="the farm; else --repo is the farm's own")
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help=f"holds a token for {grant}; default: $HACKTREE_TOKEN",
    )
    parser.add_argument("--tls-ca", metavar="FILE", help="authority of the server's certificate")


def add_signer_options(parser: argparse.ArgumentParser) -> None:
    """The key, and whom a signer elsewhere believes."""
    parser.add_argument(
        "--sign-with",
        "--key",
        dest="key",
        metavar="FILE",
        help="the branch's key, for a signed farm",
    )
    parser.add_argument("--passphrase-file", metavar="FILE", help="if the key is encrypted")
    parser.add_argument(
        "--source", metavar="BRANCH", help="with --server: the branch whose builds may be signed"
    )
    parser.add_argument(
        "--root-fingerprint",
        metavar="SHA256",
        help="with --server: of the root whose signatures count; needed the first time",
    )
    parser.add_argument(
        "--state",
        metavar="DIR",
        help="with --server: remembers what was signed (default: $STATE_DIRECTORY, "
        "~/.local/state/hacktree)",
    )


def require_local(args: argparse.Namespace, *names: str) -> None:
    """Refuse options that only make sense with `--server`."""
    for name in names:
        if getattr(args, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} goes with --server URL")


def refuse_name(args: argparse.Namespace) -> None:
    """Refuse `--by`: over HTTP it is the token that says who asks."""
    if args.by is not None:
        raise UserError("over HTTP the farm names the token", hint="Leave --by out.")


def given_key(args: argparse.Namespace) -> CryptoSigner | None:
    """The key of `add_signer_options`, if one is given; raises as `read_signing_key` does."""
    passphrase = Path(args.passphrase_file) if args.passphrase_file else None
    return read_signing_key(Path(args.key) if args.key else None, passphrase)


def connect(url: str, secret: str, tls_ca: str | None) -> FarmClient:
    """The farm at `url`; raises `UserError`."""
    try:
        tls = None if tls_ca is None else ssl.create_default_context(cafile=tls_ca)
    except OSError as error:
        raise UserError(f"{tls_ca}: {error}") from error
    return FarmClient(url, secret, tls)


def trust_farm(farm: FarmClient, state: Path, fingerprint: str | None) -> TrustedRemote:
    """Whom to believe about a farm: the root with this fingerprint, or the one from last time.

    Raises `TrustError` for another root, `UserError` where there is none to begin with.
    """
    name = hashlib.sha256(farm.url.rstrip("/").encode()).hexdigest()[:16]
    directory = state / "trust" / name
    trusted = TrustedRemote(
        directory, farm.url, "Say --root-fingerprint SHA256, which `hacktree trust status` shows."
    )
    if fingerprint is None:
        return trusted
    if not trusted.has_anchor:
        data = farm.read(f"trust/{FIRST_ROOT}", limit_of(FIRST_ROOT))
        check_anchor(data, fingerprint)
        # Durable from the top: what was seen is forgotten with its directory, and older counts.
        make_directories(Path("/"), directory.absolute().relative_to("/"), mode=0o700)
        trusted.keep_anchor(data)
    else:
        trusted.check_anchor(fingerprint)
    return trusted
