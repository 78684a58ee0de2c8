"""A suite's private key, for a process that nobody sits in front of."""

from pathlib import Path

from securesystemslib.signer import CryptoSigner

from hacktree.common.trust.keys import KeyFileError, load_signer


def read_signing_key(key: Path | None, passphrase_file: Path | None) -> CryptoSigner | None:
    """The key in `key`, None for none; raises `KeyFileError`. Nobody is asked for a passphrase."""
    if key is None:
        return None
    if passphrase_file is None:
        return load_signer(key, None)
    try:
        passphrase = passphrase_file.read_bytes().rstrip(b"\n")
    except OSError as error:
        raise KeyFileError(f"{passphrase_file}: {error.strerror}") from error
    return load_signer(key, passphrase)
