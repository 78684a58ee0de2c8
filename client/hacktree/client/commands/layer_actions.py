"""What `hacktree layer ACTION` does."""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from hacktree.client.commands.layer_checks import (
    check_build,
    check_document,
    check_lines,
    check_live,
    live_build,
    runner,
)
from hacktree.client.layers.branch import commit_layer, layer_head, layer_versions
from hacktree.client.layers.capture import invoking_user
from hacktree.client.layers.definition import (
    LayerDefinition,
    MisfitPolicy,
    SourceKind,
    check_pattern,
    definition_path,
    encode_layer,
    forget_layer,
    hold_layers,
    layer_branch,
    next_order,
    read_layer,
    read_layers,
    reorder,
    write_layer,
)
from hacktree.client.sysroot import Sysroot, open_sysroot
from hacktree.common.cli.output import emit_json, format_time, say, show, warn
from hacktree.common.errors import UserError
from hacktree.common.repository.committing import CommitResult
from hacktree.common.repository.refs import delete_ref
from hacktree.common.repository.revision import resolve


def _add(args: argparse.Namespace) -> int:
    sysroot = open_sysroot(Path(args.sysroot))
    with hold_layers(sysroot):
        path = definition_path(sysroot, args.name)
        if path.exists():
            raise UserError(
                f"there is a layer {args.name} already",
                hint=f"`hacktree layer update {args.name}` reads it again, `layer remove` first "
                "takes it away.",
            )
        layer = _new_definition(args, next_order(read_layers(sysroot)))
        result = commit_layer(sysroot.repository, args.name, layer, int(time.time()), runner(args))
        write_layer(sysroot, args.name, layer)
    _report(args, sysroot, result)
    return 0


def _new_definition(args: argparse.Namespace, order: int) -> LayerDefinition:
    if (args.source is None) == (not args.command):
        raise UserError(
            "a layer comes from one of a directory, a tar archive and a command",
            hint="hacktree layer add NAME DIR, or NAME FILE.tar, or NAME -- COMMAND...",
        )
    if args.command:
        kind, path = SourceKind.COMMAND, os.getcwd()
    else:
        path = os.path.abspath(args.source)
        if not os.path.exists(path):
            raise UserError(f"{path} does not exist", hint="A command follows --.")
        kind = SourceKind.DIRECTORY if os.path.isdir(path) else SourceKind.TAR
    user = "" if args.as_root or not args.command else invoking_user(os.geteuid(), os.environ)
    layer = LayerDefinition(
        source=kind,
        path=path,
        command=tuple(args.command or ()),
        user=user,
        order=order,
        replace=_patterns(args.replace or ()),
        remove=_patterns(args.remove or ()),
        misfit=MisfitPolicy(args.misfit or "refuse"),
        keep_owners=args.keep_owners,
    )
    encode_layer(layer)  # Before the command runs: what can't be written down is refused.
    return layer


def _patterns(words: Sequence[str]) -> tuple[str, ...]:
    patterns = tuple(word for word in words if word)
    for pattern in patterns:
        try:
            check_pattern(pattern)
        except ValueError as error:
            raise UserError(str(error), hint="Example: 'usr/lib/*', relative to /.") from None
    return patterns


def _update(args: argparse.Namespace) -> int:
    sysroot = open_sysroot(Path(args.sysroot))
    with hold_layers(sysroot):
        layer = read_layer(sysroot, args.name)
        result = commit_layer(sysroot.repository, args.name, layer, int(time.time()), runner(args))
    _report(args, sysroot, result)
    return 0


def _report(args: argparse.Namespace, sysroot: Sysroot, result: CommitResult) -> None:
    """Say what was committed, and warn of what will stand in the way over the live build."""
    for line in result.report.warnings():
        warn(line)
    commit = result.commit
    found = check_live(sysroot)
    if args.json:
        emit_json(
            {
                "layer": args.name,
                "commit": result.id.hex(),
                "version": commit.sequence,
                "changed": result.changed,
                "files": commit.totals.files,
                "bytes": commit.totals.bytes,
                **check_document(found),
            }
        )
        return
    if result.changed:
        say(
            args,
            f"layer {args.name} is at version {commit.sequence}: {commit.totals.files} files; "
            "the next deploy lays it",
        )
    else:
        say(args, f"layer {args.name} is as it was: version {commit.sequence}")
    for line in check_lines(found):
        warn(line)


def _set(args: argparse.Namespace) -> int:
    sysroot = open_sysroot(Path(args.sysroot))
    changes: dict[str, object] = {}
    if args.replace is not None:
        changes["replace"] = _patterns(args.replace)
    if args.remove is not None:
        changes["remove"] = _patterns(args.remove)
    if args.misfit is not None:
        changes["misfit"] = MisfitPolicy(args.misfit)
    if not changes:
        raise UserError("nothing to set", hint="--replace, --remove or --misfit.")
    return _change(args, sysroot, changes)


def _enable(args: argparse.Namespace) -> int:
    return _change(args, open_sysroot(Path(args.sysroot)), {"enabled": True})


def _disable(args: argparse.Namespace) -> int:
    return _change(args, open_sysroot(Path(args.sysroot)), {"enabled": False})


def _change(args: argparse.Namespace, sysroot: Sysroot, changes: dict[str, object]) -> int:
    with hold_layers(sysroot):
        layer = msgspec.structs.replace(read_layer(sysroot, args.name), **changes)
        write_layer(sysroot, args.name, layer)
    found = check_live(sysroot)
    if args.json:
        emit_json({**_document(sysroot, args.name, layer), **check_document(found)})
        return 0
    state = "" if layer.enabled else "; it is laid over no new root"
    say(args, f"layer {args.name} is changed{state}")
    for line in check_lines(found):
        warn(line)
    return 0


def _list(args: argparse.Namespace) -> int:
    sysroot = open_sysroot(Path(args.sysroot))
    return _show_all(args, sysroot, read_layers(sysroot))


def _order(args: argparse.Namespace) -> int:
    sysroot = open_sysroot(Path(args.sysroot))
    with hold_layers(sysroot):
        layers = reorder(sysroot, args.names)
    return _show_all(args, sysroot, layers)


def _show_all(
    args: argparse.Namespace, sysroot: Sysroot, layers: dict[str, LayerDefinition]
) -> int:
    if args.json:
        emit_json([_document(sysroot, name, layer) for name, layer in layers.items()])
        return 0
    if not layers:
        say(args, "no layers; `hacktree layer add` makes one")
    for name, layer in layers.items():
        state = "" if layer.enabled else "\tdisabled"
        show(f"{name}\t{_version(sysroot, name)}\t{_source(layer)}{state}")
    return 0


def _version(sysroot: Sysroot, name: str) -> str:
    head = layer_head(sysroot.repository, name)
    if head is None:
        return "no files"
    commit = sysroot.repository.load_commit(head)
    return f"version {commit.sequence}, {format_time(commit.time)}, {commit.totals.files} files"


def _source(layer: LayerDefinition) -> str:
    if layer.source is SourceKind.COMMAND:
        import shlex

        return f"{shlex.join(layer.command)} (in {layer.path})"
    return layer.path


def _document(sysroot: Sysroot, name: str, layer: LayerDefinition) -> dict[str, object]:
    versions = layer_versions(sysroot.repository, name)
    return {
        "layer": name,
        **msgspec.to_builtins(layer),
        "branch": layer_branch(name),
        "versions": [
            {
                "version": commit.sequence,
                "commit": commit_id.hex(),
                "time": commit.time,
                "files": commit.totals.files,
                "bytes": commit.totals.bytes,
            }
            for commit_id, commit in versions
        ],
    }


def _show(args: argparse.Namespace) -> int:
    sysroot = open_sysroot(Path(args.sysroot))
    layer = read_layer(sysroot, args.name)
    if args.json:
        emit_json(_document(sysroot, args.name, layer))
        return 0
    show(f"layer: {args.name}")
    for key, value in msgspec.to_builtins(layer).items():
        if value not in ("", [], ()):
            show(f"{key}: {', '.join(value) if isinstance(value, list | tuple) else value}")
    show(f"branch: {layer_branch(args.name)}")
    for commit_id, commit in layer_versions(sysroot.repository, args.name):
        when = format_time(commit.time)
        files = commit.totals.files
        show(f"version {commit.sequence}: {commit_id.hex()[:12]}, {when}, {files} files")
    return 0


def _check(args: argparse.Namespace) -> int:
    sysroot = open_sysroot(Path(args.sysroot))
    if args.revision is not None:
        build = resolve(sysroot.repository, args.revision)
    else:
        live = live_build(sysroot)
        if live is None:
            raise UserError("no root is live", hint="Name a build: hacktree layer check REV.")
        build = live
    found = check_build(sysroot, build)
    if args.json:
        emit_json({"build": build.hex(), **check_document(found)})
    else:
        for line in check_lines(found):
            show(line)
        if not check_lines(found):
            say(args, f"the layers fit build {build.hex()[:9]}")
    return 1 if found[1].conflicts or found[1].misfits else 0


def _remove(args: argparse.Namespace) -> int:
    sysroot = open_sysroot(Path(args.sysroot))
    with hold_layers(sysroot):
        defined = definition_path(sysroot, args.name).exists()
        if not defined and layer_head(sysroot.repository, args.name) is None:
            read_layer(sysroot, args.name)
        # The definition first: without it the branch does nothing, and goes by the same command.
        if defined:
            forget_layer(sysroot, args.name)
        if layer_head(sysroot.repository, args.name) is not None:
            delete_ref(sysroot.repository, layer_branch(args.name))
    if args.json:
        emit_json({"layer": args.name, "removed": True})
    say(
        args, f"layer {args.name} removed; roots that have it keep it, `hacktree prune` frees space"
    )
    return 0


ACTIONS: Final[dict[str, Callable[[argparse.Namespace], int]]] = {
    "add": _add,
    "update": _update,
    "set": _set,
    "list": _list,
    "show": _show,
    "check": _check,
    "order": _order,
    "enable": _enable,
    "disable": _disable,
    "remove": _remove,
}
