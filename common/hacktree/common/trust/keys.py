"""Key files: a private Ed25519 key as encrypted PKCS#8, its public half beside it, both as PEM."""

from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import CryptoSigner, SSlibKey

from hacktree.common.errors import UserError
from hacktree.common.repository.durable import write_durably

PUBLIC_SUFFIX: Final = ".pub"
_MAX_KEY_FILE: Final = 64 << 10


class KeyFileError(UserError):
    """A key file is missing, damaged or locked by another passphrase."""


class PassphraseNeededError(KeyFileError):
    """The key file is encrypted and no passphrase was given."""


def generate_key(path: Path, passphrase: bytes | None) -> CryptoSigner:
    """Make a key and write both files; an existing file is never written over."""
    if path.exists() or public_path(path).exists():
        raise KeyFileError(f"{path} exists already", hint="Choose another name, or use that key.")
    if not path.parent.is_dir():
        raise KeyFileError(f"there is no directory {path.parent}", hint="Make it, with mode 0700.")
    private = Ed25519PrivateKey.generate()
    encryption: KeySerializationEncryption = (
        BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    )
    signer = CryptoSigner(private)
    write_durably(path, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    write_durably(public_path(path), encode_public(signer.public_key), mode=0o644)
    return signer


def public_path(path: Path) -> Path:
    """Where the public half of a private key file is."""
    return path.with_name(path.name + PUBLIC_SUFFIX)


def is_encrypted(path: Path) -> bool:
    """Whether a passphrase is needed to use the private key."""
    return b"BEGIN ENCRYPTED" in _read(path)


def load_signer(path: Path, passphrase: bytes | None) -> CryptoSigner:
    """The key in a private key file; raises `KeyFileError`."""
    data = _read(path)
    if passphrase is None and b"BEGIN ENCRYPTED" in data:
        raise PassphraseNeededError(
            f"{path} is encrypted", hint="Give its passphrase: --passphrase-file FILE."
        )
    try:
        private = load_pem_private_key(data, passphrase if b"BEGIN ENCRYPTED" in data else None)
    except (ValueError, TypeError) as error:
        raise KeyFileError(
            f"{path} can't be read as a private key", hint="Is the passphrase right?"
        ) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise KeyFileError(f"{path} is not an Ed25519 key", hint="hacktree trust new-key FILE")
    return CryptoSigner(private)


def encode_public(key: SSlibKey) -> bytes:
    """The contents of a public key file."""
    raw = bytes.fromhex(key.keyval["public"])
    public = Ed25519PublicKey.from_public_bytes(raw)
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def load_public(path: Path) -> SSlibKey:
    """The key in a public key file, or the public half of a private key file; `KeyFileError`."""
    if path.suffix != PUBLIC_SUFFIX and public_path(path).exists():
        path = public_path(path)
    try:
        public = load_pem_public_key(_read(path))
    except ValueError as error:
        raise KeyFileError(
            f"{path} can't be read as a public key",
            hint="`hacktree trust new-key FILE` writes FILE.pub.",
        ) from error
    if not isinstance(public, Ed25519PublicKey):
        raise KeyFileError(f"{path} is not an Ed25519 key", hint="hacktree trust new-key FILE")
    return SSlibKey.from_crypto(public)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_MAX_KEY_FILE)
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from error
