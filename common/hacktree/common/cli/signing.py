"""Private keys that a command line names, and their passphrases."""

import argparse
import getpass
import sys
from pathlib import Path

from securesystemslib.signer import CryptoSigner

from hacktree.common.trust.keys import KeyFileError, is_encrypted, load_signer


def load_key(args: argparse.Namespace, name: str) -> CryptoSigner:
    """The private key in the file `name`; its passphrase is in `--passphrase-file` or asked for."""
    path = Path(name)
    return load_signer(path, _passphrase(args, name) if is_encrypted(path) else None)


def passphrase_in(path: str) -> bytes:
    """The passphrase in a file: all of it but the line's end."""
    try:
        passphrase = Path(path).read_bytes().rstrip(b"\n")
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from error
    if not passphrase:
        raise KeyFileError(f"{path} is empty")
    return passphrase


def _passphrase(args: argparse.Namespace, name: str) -> bytes:
    if args.passphrase_file is not None:
        return passphrase_in(args.passphrase_file)
    if not sys.stdin.isatty():
        raise KeyFileError(f"{name} is encrypted", hint="--passphrase-file FILE")
    return getpass.getpass(f"Passphrase of {name}: ").encode()
