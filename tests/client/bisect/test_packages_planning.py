"""Whose a change is, what comes only together, and what a mixture holds."""

from collections.abc import Iterable, Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from hacktree.client.bisect.components.dpkg import fits
from hacktree.client.bisect.components.installed import Installed, PackageSet, Relation
from hacktree.client.bisect.components.mixing import Mixer
from hacktree.client.bisect.components.planning import REST, Plan, Sides, plan_components
from hacktree.common.objects.diff import Change, diff_trees
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.tree import (
    DirectoryEntry,
    FileEntry,
    SymlinkEntry,
    Tree,
    decode_tree,
    encode_tree,
)
from hacktree.common.objects.walk import walk_tree

INFO = b"var/lib/dpkg/info/"


def package(
    name: str,
    version: str = "1",
    *needs: Relation,
    source: str = "",
    against: Iterable[Relation] = (),
    provides: Iterable[str] = (),
) -> Installed:
    return Installed(
        name,
        version,
        "amd64",
        source or name,
        tuple((need,) for need in needs),
        tuple(against),
        tuple((one, "") for one in provides),
    )


def file(path: str, number: int = 1) -> FileEntry:
    name = path.rpartition("/")[2].encode()
    return FileEntry(name, 0o644, 0, 0, (), hash_bytes(b"%d" % number), 1)


def changed(path: str) -> Change:
    return Change(path.encode(), file(path), file(path, 2))


def plan(
    old: Iterable[Installed],
    new: Iterable[Installed],
    changes: Iterable[Change] = (),
    owners: Mapping[str, str] | None = None,
    new_owners: Mapping[str, str] | None = None,
) -> Plan:
    before, after = (
        {path.encode(): tuple(names.split()) for path, names in (side or {}).items()}
        for side in (owners, owners if new_owners is None else new_owners)
    )
    sides = Sides(
        PackageSet(tuple(old), before, fits),
        PackageSet(tuple(new), after, fits),
        INFO,
    )
    return plan_components(sides, list(changes))


def grouped(plan: Plan) -> list[list[str]]:
    return [sorted(one.names) for one in plan.components]


def needs(plan: Plan) -> dict[str, set[str]]:
    """By the first name of each component, the first names of those that it needs."""
    names = [min(one.names) for one in plan.components]
    return {
        names[at]: {names[other] for other in one.needs} for at, one in enumerate(plan.components)
    }


def test_a_path_belongs_to_whoever_lists_it_or_made_it() -> None:
    both = [package("kept")]
    paths = {
        "usr/bin/one": "one",
        INFO.decode() + "two:amd64.postinst": "two",
        "usr/lib/python3/three.py": "three",
        "usr/lib/python3/__pycache__/three.cpython-311.pyc": "three",
        "usr/share/four": "four",
        "usr/share/four/made/by-a-script": "four",
        "boot/initrd.img-6.1-amd64": "kernel",
        "usr/share/icons/cache": REST,
        "etc/passwd": REST,
    }
    owners = {
        "usr/bin/one": "one",
        "usr/lib/python3/three.py": "three",
        "usr/share/four": "four",
        "usr/lib/modules/6.1-amd64": "kernel",
        "usr/share/icons": "one two",
        "etc": "kept",
    }
    changing = ["one", "two", "three", "four", "kernel"]
    found = plan(
        [*both, *map(package, changing)],
        [*both, *(package(name, "2") for name in changing)],
        map(changed, paths),
        owners,
    )
    whose = {
        change.path.decode(): sorted(one.names)
        for one in found.components
        for change in one.changes
    }
    assert whose == {path: [owner] for path, owner in paths.items()}
    assert grouped(found)[0] == [REST]


def test_a_package_whose_files_differ_is_a_component_though_its_version_does_not() -> None:
    found = plan([package("one")], [package("one")], [changed("a")], {"a": "one"})
    assert [one.packages for one in found.components] == [(("one", "1", "1"),)]


def test_packages_of_one_source_and_shared_files_come_together() -> None:
    found = plan(
        [package("a1", source="a"), package("a2", source="a"), package("b"), package("c")],
        [
            package("a1", "2", source="a"),
            package("a2", "2", source="a"),
            package("b", "2"),
            package("c", "2"),
        ],
        [changed("both")],
        {"both": "b c"},
    )
    assert sorted(grouped(found)) == [["a1", "a2"], ["b", "c"]]


def test_versions_that_need_one_another_set_the_order() -> None:
    old = [package("app"), package("lib"), package("other", "1", Relation("lib", "=", "1"))]
    new = [
        package("app", "2", Relation("lib", ">=", "2")),
        package("lib", "2"),
        package("other", "2", Relation("lib", "=", "2")),
    ]
    found = plan(old, new)
    assert sorted(grouped(found)) == [["app"], ["lib", "other"]]
    assert needs(found)["app"] == {"lib"}
    assert found.close([1]) == {0, 1}


def test_what_satisfied_a_package_goes_only_when_another_has_come() -> None:
    user = package("user", "1", Relation("mta"))
    found = plan(
        [user, package("exim", provides=["mta"])], [user, package("postfix", provides=["mta"])]
    )
    assert needs(found) == {"exim": {"postfix"}, "postfix": set()}


def test_a_package_that_breaks_an_old_one_needs_the_new_one() -> None:
    found = plan(
        [package("a"), package("b"), package("c", "1", against=[Relation("b", ">=", "2")])],
        [
            package("a", "2", against=[Relation("b", "<<", "2")]),
            package("b", "2"),
            package("c", "2"),
        ],
    )
    assert needs(found) == {"a": {"b"}, "b": {"c"}, "c": set()}


def test_a_package_that_gave_a_file_up_needs_who_has_it_now() -> None:
    found = plan(
        [package("a"), package("b")],
        [package("a", "2"), package("b", "2")],
        [changed("f")],
        {"f": "a"},
        {"f": "b"},
    )
    assert needs(found) == {"a": {"b"}, "b": set()}


def test_what_is_below_a_link_that_was_a_directory_comes_with_it() -> None:
    directory = DirectoryEntry(b"d", 0o755, 0, 0, (), hash_bytes(b""), 1)
    changes = [
        Change(b"d", directory, SymlinkEntry(b"d", 0, 0, b"elsewhere")),
        Change(b"d/f", file("f"), None),
    ]
    found = plan(
        [package("a"), package("b")],
        [package("a", "2"), package("b", "2")],
        changes,
        {"d": "a", "d/f": "b"},
    )
    assert grouped(found) == [["a", "b"]]


# Mixtures

_LEAVES = st.one_of(st.integers(0, 3), st.just("link"))
_TREES = st.recursive(
    st.dictionaries(st.sampled_from("abc"), _LEAVES, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), st.one_of(_LEAVES, inner), max_size=3),
    max_leaves=12,
)


class Store:
    """Trees in memory."""

    def __init__(self) -> None:
        self.trees: dict[ObjectId, Tree] = {}

    def __call__(self, tree_id: ObjectId) -> Tree:
        return self.trees[tree_id]

    def add(self, spec: Mapping[str, object]) -> ObjectId:
        entries = tuple(self._entry(name, what) for name, what in sorted(spec.items()))
        return self.keep(encode_tree(Tree(1, entries)))

    def keep(self, data: bytes) -> ObjectId:
        self.trees[hash_bytes(data)] = decode_tree(data)
        return hash_bytes(data)

    def _entry(self, name: str, what: object) -> FileEntry | DirectoryEntry | SymlinkEntry:
        if isinstance(what, dict):
            tree = self.add(what)
            size = len(encode_tree(self.trees[tree]))
            return DirectoryEntry(name.encode(), 0o700 + len(what), 0, 0, (), tree, size)
        if isinstance(what, int):
            return file(name, what)
        return SymlinkEntry(name.encode(), 0, 0, b"target")


@settings(max_examples=60, deadline=None)
@given(_TREES, _TREES, st.data())
def test_a_mixture_has_each_path_from_its_package_s_side(
    old: dict[str, object], new: dict[str, object], data: st.DataObject
) -> None:
    store = Store()
    roots = (store.add(old), store.add(new))
    changes = list(diff_trees(store, *roots))
    mixer = Mixer(store, roots[0], changes)
    owners = {
        change.path.decode(): data.draw(st.sampled_from(["x", "y", "z"]), label=str(change.path))
        for change in changes
    }
    found = plan(
        [package(name) for name in "xyz"],
        [package(name, "2") for name in "xyz"],
        changes,
        owners,
    )
    everything = range(len(found.components))
    chosen = found.close(data.draw(st.sets(st.sampled_from(everything))))
    mixture = mixer.mix(found.changes(chosen))
    for tree in mixture.trees.values():
        store.keep(tree)

    if not chosen:
        assert mixture.root == roots[0]
    if len(chosen) == len(everything):
        assert mixture.root == roots[1]
    mixed = dict(walk_tree(store, mixture.root))
    before, after = (dict(walk_tree(store, root)) for root in roots)
    for at, component in enumerate(found.components):
        side = after if at in chosen else before
        for change in component.changes:
            expected = side.get(change.path)
            if not isinstance(expected, DirectoryEntry) and expected is not None:
                assert mixed[change.path] == expected
            elif expected is None and change.path in mixed:
                # A directory stays while another has something in it.
                assert isinstance(mixed[change.path], DirectoryEntry)
    differing = {change.path for change in changes}
    for path, entry in before.items():
        if path not in differing and not isinstance(entry, DirectoryEntry):
            assert mixed[path] == entry
