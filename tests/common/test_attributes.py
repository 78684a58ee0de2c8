"""Which extended attributes a tree may carry."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.strategies import xattrs
from hacktree.common.objects.attributes import (
    MAX_XATTR_VALUE,
    MAX_XATTRS,
    Xattrs,
    check_xattrs,
    is_versioned_xattr,
)
from hacktree.common.objects.errors import FormatError

VERSIONED = [
    "security.capability",
    "system.posix_acl_access",
    "system.posix_acl_default",
    "user.x",
    "user.mime_type",
    "user.overlayed",
    "user.\N{LATIN SMALL LETTER E WITH ACUTE}",
    "user." + "a" * 250,
]
NOT_VERSIONED = [
    "",
    "user",
    "user.",
    "User.x",
    "user.overlay.opaque",
    "user.overlay.",
    "trusted.overlay.opaque",
    "trusted.x",
    "security.selinux",
    "security.ima",
    "security.evm",
    "security.SMACK64",
    "security.capability2",
    "system.nfs4_acl",
    "com.apple.quarantine",
    "user.a\0b",
    "user." + "a" * 251,
    # 5 + 2 * 126 bytes: the limit counts bytes, not characters.
    "user." + "\N{LATIN SMALL LETTER E WITH ACUTE}" * 126,
    # What Python makes of a name that is not UTF-8.
    "user.\udcff",
]


@pytest.mark.parametrize("name", VERSIONED)
def test_attributes_that_belong_to_a_file_are_versioned(name: str) -> None:
    """Capabilities, POSIX ACLs and the user's own."""
    assert is_versioned_xattr(name)
    check_xattrs(((name, b"value"),))


@pytest.mark.parametrize("name", NOT_VERSIONED)
def test_attributes_of_a_machine_or_an_overlay_are_not(name: str) -> None:
    """A commit leaves them out, and a tree that carries one is refused."""
    assert not is_versioned_xattr(name)
    with pytest.raises(FormatError):
        check_xattrs(((name, b"value"),))


@given(st.text(st.characters()))
def test_any_name_gets_an_answer(rest: str) -> None:
    """Commit and decode agree about every string that Python can hold, lone surrogates too."""
    name = f"user.{rest}"
    if is_versioned_xattr(name):
        check_xattrs(((name, b""),))
    else:
        with pytest.raises(FormatError):
            check_xattrs(((name, b""),))


@given(xattrs)
def test_sorted_allowed_attributes_pass(valid: Xattrs) -> None:
    """The rules refuse nothing else."""
    check_xattrs(valid)


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        ((("user.b", b""), ("user.a", b"")), "ascending"),
        ((("user.a", b"1"), ("user.a", b"2")), "ascending"),
        ((("user.a", bytes(MAX_XATTR_VALUE + 1)),), "exceeds"),
        (tuple((f"user.{i:03}", b"") for i in range(MAX_XATTRS + 1)), "more than"),
    ],
)
def test_order_and_limits(bad: Xattrs, rule: str) -> None:
    """One list of attributes has one spelling and a bounded size."""
    with pytest.raises(FormatError, match=rule):
        check_xattrs(bad)


def test_the_limits_themselves_are_allowed() -> None:
    """64 attributes, and one of 64 KiB, as on Linux."""
    check_xattrs(tuple((f"user.{i:03}", b"") for i in range(MAX_XATTRS)))
    check_xattrs((("user.a", bytes(MAX_XATTR_VALUE)),))
