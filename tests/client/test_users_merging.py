"""The machine's people are merged into a build's account files, and nothing else is touched."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hacktree.client.users.accounts import FILES, Table, names_and_ids
from hacktree.client.users.merging import Merge, merge_people
from hacktree.client.users.people import choose_people
from hacktree.client.users.renumbering import renumber_primary_groups
from support.machines import BUILD, HASH, MACHINE, as_bytes


def merge(
    machine: dict[str, str] | None = None,
    build: dict[str, str] | None = None,
    *,
    names: tuple[str, ...] = (),
    groups: tuple[str, ...] = (),
    programs: tuple[str, ...] = ("/bin/bash", "/bin/sh", "/bin/zsh"),
) -> Merge:
    host = as_bytes(MACHINE | (machine or {}))
    people = choose_people(host, host["login.defs"] or b"", names, groups)
    return merge_people(as_bytes(BUILD | (build or {})), people, programs.__contains__)


def lines(result: Merge, name: str) -> list[str]:
    return result.files[name].decode().splitlines()


def added(result: Merge, name: str) -> list[str]:
    before = BUILD[name].splitlines()
    return [line for line in lines(result, name) if line not in before]


def test_people_come_with_their_ids_and_passwords() -> None:
    """Users by uid range, their groups, passwords and ranges; system users of the machine don't."""
    result = merge()
    assert added(result, "passwd") == [
        "jane:x:1000:1000:Jane Doe,,,:/home/jane:/bin/zsh",
        "bob:x:1001:985::/home/bob:/bin/bash",
    ]
    assert added(result, "group") == [
        "wheel:x:10:jane",
        "video:x:39:jane,bob",
        "jane:x:1000:",
        "lab:x:1500:jane,bob",
    ]
    assert added(result, "shadow") == [
        f"jane:{HASH}:19500:0:99999:7:::",
        "bob:!:19500:0:99999:7:::",
    ]
    assert added(result, "gshadow") == [
        "wheel:!::jane",
        "video:!::jane,bob",
        "jane:!::",
        "lab:!::jane,bob",
    ]
    assert lines(result, "subuid") == ["jane:100000:65536", "bob:165536:65536"]
    assert [p.absent_groups for p in result.placements] == [["docker"], []]
    assert len(result.notes) == 1
    assert "group users has gid 100 on this machine and 985 in this build" in result.notes[0]


def test_merging_twice_changes_nothing() -> None:
    """A root that has the people already stays as it is, byte for byte."""
    once = merge()
    build = BUILD | {name: data.decode() for name, data in once.files.items()}
    twice = merge(build=build)
    assert twice.files == {}
    assert [placement.state for placement in twice.placements] == ["present", "present"]


def test_others_come_by_name_and_by_group() -> None:
    """client.toml names a system user, or a group whose members come."""
    assert "postgres:x:105:110::/var/lib/postgresql:/bin/bash" in added(
        merge(names=("postgres",)), "passwd"
    )
    by_group = merge(groups=("video",))
    assert [p.person.user.name for p in by_group.placements] == ["postgres", "jane", "bob"]
    assert "member of video" in by_group.placements[0].person.why
    missing = merge(names=("ghost",), groups=("ghosts",))
    assert any(note.startswith("user ghost, which client.toml names") for note in missing.notes)
    assert any(note.startswith("group ghosts, which client.toml names") for note in missing.notes)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("jane:x:300:300::/:/bin/sh", "uid 1000 on this machine, 300 in this build"),
        ("live:x:1000:81::/:/bin/sh", "uid 1000 belongs to live in this build"),
        ("jane:x", "malformed line for jane"),
    ],
)
def test_a_conflict_leaves_the_persons_out(line: str, reason: str) -> None:
    """The build's users stay; the note has the reason, and nothing of the person is added."""
    result = merge(build={"passwd": BUILD["passwd"] + line + "\n"})
    placement = next(p for p in result.placements if p.person.user.name == "jane")
    assert placement.state == "left out"
    assert any(
        note.startswith("user jane is left out: ") and reason in note for note in result.notes
    )
    assert line in lines(result, "passwd")
    assert sum("jane" in text for text in lines(result, "passwd")) == line.count("jane")
    for name in ("shadow", "subuid", "subgid"):
        assert "jane" not in result.files[name].decode()
    assert "video:x:39:bob" in lines(result, "group")


def test_a_gid_that_is_taken_gives_nobody_that_groups_rights() -> None:
    """A number means another group there: the user stays out, rather than get into it."""
    result = merge(build={"group": BUILD["group"] + "secrets:x:1000:\n"})
    assert result.placements[0].state == "left out"
    assert any("gid 1000 belongs to secrets" in note for note in result.notes)
    nameless = merge(
        {"passwd": MACHINE["passwd"] + "eve:x:1002:42::/home/eve:/bin/sh\n"},
    )
    assert nameless.placements[2].state == "left out"
    assert any("primary gid 42 belongs to shadow" in note for note in nameless.notes)


def test_users_that_only_altfiles_knows_count_as_the_builds() -> None:
    """/usr/lib/passwd and /usr/lib/group of the tree; a group is written anew with its members."""
    result = merge(build={"lib/passwd": "live:x:1000:5::/:/bin/sh\n", "lib/group": "docker:x:5:\n"})
    assert result.placements[0].state == "left out"
    clean = merge(build={"lib/group": "docker:x:5:old\n"})
    assert "docker:x:5:old,jane" in added(clean, "group")


def test_a_build_without_users_is_said() -> None:
    """People come; that there is nobody else, not even root, is nothing to find out later."""
    people = choose_people(as_bytes(MACHINE), b"", (), ())
    result = merge_people({}, people, lambda path: True)
    assert lines(result, "passwd")[0].startswith("jane:")
    assert any("not even root. Have the build ship one." in note for note in result.notes)
    altfiles = merge_people({"lib/passwd": b"root:x:0:0::/:\n"}, people, lambda path: True)
    assert not any("not even root" in note for note in altfiles.notes)


def test_shells_that_the_root_lacks() -> None:
    """The root's bash or sh, and it is said; who may not log in never gets a shell."""
    result = merge(programs=("/bin/sh",))
    assert [p.shell for p in result.placements] == ["/bin/sh", "/bin/sh"]
    assert any("jane gets /bin/sh: this build has no /bin/zsh" in note for note in result.notes)
    locked = {"passwd": "eve:x:1002:100::/home/eve:/usr/sbin/nologin\n"}
    assert merge(locked).placements[0].shell == "/usr/sbin/nologin"
    assert merge(locked, programs=("/bin/false",)).placements[0].shell == "/bin/false"


def test_passwords() -> None:
    """Locked stays locked; unreadable, malformed or absent is locked; a hash in passwd moves."""
    host = as_bytes(MACHINE)
    host["shadow"] = None
    people = choose_people(host, b"", (), ())
    unread = merge_people(as_bytes(BUILD), people, lambda path: True)
    assert "jane:!:::::::" in lines(unread, "shadow")
    assert any("can't be read. Deploy as root" in note for note in unread.notes)
    broken = merge({"shadow": f"jane:{HASH}:1\n"})
    assert added(broken, "shadow") == ["jane:!:::::::", "bob:!:::::::"]
    assert any("malformed. Set it again (passwd jane)" in note for note in broken.notes)
    old = merge({"passwd": f"jane:{HASH}:1000:1000::/home/jane:/bin/bash\n"})
    assert added(old, "passwd") == ["jane:x:1000:1000::/home/jane:/bin/bash"]
    assert f"jane:{HASH}:::::::" in lines(old, "shadow")


def test_a_user_of_the_same_name_and_uid_is_the_same() -> None:
    """The build's line stays; a password comes where the build has none, and no other is lost."""
    line = "jane:x:1000:985:Build:/var/jane:/bin/sh\n"
    build = {"passwd": BUILD["passwd"] + line, "shadow": "jane:*:1::::::\n"}
    result = merge(build=build)
    assert result.placements[0].state == "present"
    assert line.strip() in lines(result, "passwd")
    assert f"jane:{HASH}:19500:0:99999:7:::" in lines(result, "shadow")
    kept = merge(build=build | {"shadow": "jane:$6$own:1::::::\n"})
    assert "jane:$6$own:1::::::" in lines(kept, "shadow")


def test_ranges_that_overlap_stay_with_the_build() -> None:
    """Ids of two users must not meet in containers."""
    result = merge(build={"subuid": "builder:120000:65536\n"})
    assert "subuid" not in result.files
    assert sum("doesn't get the subuid range" in note for note in result.notes) == 2
    assert lines(result, "subgid") == ["jane:100000:65536", "bob:165536:65536"]


def test_administrators_are_told_where_the_group_has_another_name() -> None:
    """Debian's sudo is Fedora's wheel: rights are not given by guess, but the way is shown."""
    result = merge({"group": "sudo:x:27:jane\njane:x:1000:\nusers:x:100:\n"})
    assert any("usermod -aG wheel jane" in note for note in result.notes)
    assert "wheel:x:10:jane" not in lines(result, "group")


def test_lines_that_are_nobodys_survive() -> None:
    """Comments, NIS, malformed lines, odd bytes, a missing last newline; ours come before NIS."""
    passwd = b"# people\nroot:x:0:0::/:\n\n:::\nd\xffd\r\n+@staff::::::\n-evil\n+::::::\n# end"
    host = as_bytes(MACHINE)
    people = choose_people(host, host["login.defs"] or b"", (), ())
    result = merge_people({**as_bytes(BUILD), "passwd": passwd}, people, lambda path: True)
    made = result.files["passwd"].split(b"\n")
    assert [line for line in made if not line.startswith((b"jane:", b"bob:"))] == [
        *passwd.split(b"\n"),
        b"",
    ]
    assert made.index(b"+@staff::::::") == made.index(b"bob:x:1001:985::/home/bob:/bin/bash") + 1


def test_what_is_wrong_on_the_machine_is_passed_over_and_said() -> None:
    """NIS and comments silently; malformed lines, doubles and control characters with a note."""
    extra = (
        "# a comment\n+@staff::::::\neve:x:1002\nmal:x:12x:1::/:/bin/sh\n"
        "a b:x:1003:100::/:/bin/sh\n123:x:1004:100::/:/bin/sh\nt\tb:x:1005:100::/:\n"
        "big:x:4294967295:100::/:\njane2:x:1000:100::/:/bin/sh\njane:x:1009:100::/:/bin/sh\n"
    )
    result = merge({"passwd": MACHINE["passwd"] + extra})
    assert [p.person.user.name for p in result.placements] == ["jane", "bob"]
    assert sum("is passed over" in note for note in result.notes) == 6
    assert sum("on this machine, too" in note for note in result.notes) == 2


LINE = st.one_of(
    st.text(st.characters(exclude_characters="\n"), max_size=20),
    st.lists(st.text("ajx:0+-#\x00\xff", max_size=5), min_size=2, max_size=9).map(":".join),
    st.sampled_from(["jane:x:1000:1000::/:", "jane:!::", "lab:x:7:bob", "+::::::", "wheel:x:10:"]),
)


@settings(max_examples=50)
@given(st.fixed_dictionaries({name: st.lists(LINE, max_size=6) for name in FILES}))
def test_no_line_of_a_build_is_ever_lost(build: dict[str, list[str]]) -> None:
    """Whatever is in them, the files keep their lines in order; only members and passwords grow."""
    root: dict[str, bytes | None] = {
        name: "\n".join(text).encode(errors="surrogatepass") for name, text in build.items()
    }
    host = as_bytes(MACHINE)
    people = choose_people(host, host["login.defs"] or b"", (), ())
    result = merge_people(root, people, lambda path: True)
    for name, data in result.files.items():
        before, after = (root[name] or b"").split(b"\n"), iter(data.split(b"\n"))
        for line in before[:-1] if before[-1] == b"" else before:
            own = line.split(b":")
            assert any(
                found == line
                or (name in ("group", "gshadow") and found.startswith(b":".join(own[:3]) + b":"))
                or (name == "shadow" and found.split(b":")[0] == own[0])
                for found in after
            ), (name, line)


@given(st.binary(max_size=200))
def test_a_table_that_nobody_changes_is_itself(data: bytes) -> None:
    """Byte for byte, whatever it holds."""
    assert Table(data).data() == data


@pytest.mark.parametrize("number", ["9" * 5000, "²", "4294967295", "-1", ""])
def test_what_is_no_id_is_nobodys(number: str) -> None:
    """Whatever a build or a script wrote there: the line stays as it is."""
    data = f"odd:x:{number}:{number}::/:\n".encode()
    assert names_and_ids(Table(data)) == {}
    assert renumber_primary_groups(data, {"odd": 1}, {1: 2}) == data
