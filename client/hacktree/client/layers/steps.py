"""The steps of a replay that lay the machine's layers, and the one that checks that they fit."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from hacktree.client.layers.branch import layer_head
from hacktree.client.layers.definition import MisfitPolicy, read_layers
from hacktree.client.layers.dependents import read_dependents
from hacktree.client.layers.fit import (
    SHOWN,
    Misfit,
    find_broken,
    find_misfits,
    library_name,
)
from hacktree.client.layers.laying import Laid, Layer, conflicts_of, lay, plan_layers
from hacktree.client.layers.linking import Linker
from hacktree.client.layers.placing import Conflict
from hacktree.client.layers.view import DiskView, RootView, TreeView
from hacktree.client.replay.step import Build, Root, Step, StepFailedError
from hacktree.client.sysroot import Sysroot
from hacktree.common.errors import UserError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.repository import Repository

_VERSION: Final = b"layers 1"
"""To be raised when the same layer over the same root comes out differently."""

_ALLOW: Final = (
    "`hacktree layer set NAME --replace PATTERN` lets a layer replace files, --remove PATTERN "
    "takes files away first; or `hacktree layer disable NAME`."
)
_UNFIT: Final = (
    "Build the layer against this build and run `hacktree layer update NAME`, or `hacktree layer "
    "disable NAME`; `hacktree layer set NAME --misfit warn` deploys nevertheless."
)


class LayerConflictError(UserError):
    """Layers can't be laid over the build; nothing was made."""


class LayerStep(msgspec.Struct, frozen=True):
    """Lays one layer."""

    layer: Layer
    repository: Repository
    digest: bytes

    @property
    def name(self) -> str:
        """As `Step.name`."""
        return f"layer {self.layer.name}"

    def apply(self, root: Root) -> None:
        """As `Step.apply`."""
        view = DiskView(root.path, self.repository)
        laid = lay(view, self.repository, self.layer)
        if laid.placement.conflicts:
            lines = list_conflicts(laid.placement.conflicts)
            raise StepFailedError(
                f"{self.name} conflicts with what an earlier step brought:\n{lines}", hint=_ALLOW
            )
        for pattern in laid.unmatched:
            root.say(f"nothing to remove matches {pattern}")
        root.say(describe_laid(laid))


class FitStep(msgspec.Struct, frozen=True):
    """Checks that what the layers need is there, once all are laid; changes nothing.

    `placed`: the paths of each layer's files in the root. `tolerant`: layers whose misfits are
    warnings. `before`: the root without layers. `libraries`: what layers bring or take, with the
    layer. `tree` is the commit's, in `repository`: what in it needs which libraries is known.
    """

    digest: bytes
    repository: Repository
    tree: ObjectId
    before: RootView
    placed: Mapping[str, Sequence[bytes]]
    tolerant: frozenset[str]
    libraries: Mapping[bytes, str]
    name: str = "check of layers"

    def apply(self, root: Root) -> None:
        """As `Step.apply`."""
        build = f"build {root.build.id.hex()[:9]}"
        found = self.misfits(DiskView(root.path, self.repository))
        for misfit in found:
            if misfit.layer in self.tolerant:
                root.say(f"warning: {misfit.describe(build)}")
        lines = [misfit.describe(build) for misfit in found if misfit.layer not in self.tolerant]
        if lines:
            raise StepFailedError(
                f"layers don't fit {build}:\n{listed(lines)}", hint=_UNFIT, log="\n".join(lines)
            )

    def misfits(self, view: RootView) -> list[Misfit]:
        """What doesn't fit in the root with the layers."""
        after = Linker(view)
        found = find_misfits(after, self.placed)
        # Looked up only now: a layer that is taken from the cache needs no check.
        known = read_dependents(self.repository, self.tree) if self.libraries else {}
        if dependents := sorted({path for name in self.libraries for path in known.get(name, ())}):
            found += find_broken(after, Linker(self.before), dependents, self.libraries)
        return found


class LayerSource:
    """The enabled layers, in their order."""

    def steps(self, build: Build) -> Sequence[Step]:
        """As `StepSource.steps`; raises `LayerConflictError`, which lists every conflict."""
        layers = enabled_layers(build.sysroot)
        return layer_steps(build, layers) if layers else ()


def enabled_layers(sysroot: Sysroot) -> list[tuple[ObjectId, Layer]]:
    """The newest version of every layer that is to be laid, in order."""
    repository = sysroot.repository
    found = []
    for name, definition in read_layers(sysroot).items():
        if not definition.enabled:
            continue
        head = layer_head(repository, name)
        if head is None:
            raise UserError(
                f"layer {name} has no files",
                hint=f"`hacktree layer update {name}` reads them from its source; or disable it.",
            )
        found.append((head, Layer(name, repository.load_commit(head), definition)))
    return found


def layer_steps(build: Build, layers: Sequence[tuple[ObjectId, Layer]]) -> list[Step]:
    """The steps that lay these layers over a root of that build, and check that they fit."""
    repository = build.sysroot.repository
    tree = build.commit.root.id
    called = f"build {build.id.hex()[:9]}"
    laid = [layer for _, layer in layers]
    plans, _ = plan_layers(repository, tree, laid, called)
    conflicts = conflicts_of(plans)
    if conflicts:
        raise LayerConflictError(
            f"layers conflict with {called} or with one another:\n"
            f"{list_conflicts(conflicts, with_layer=True)}",
            hint=_ALLOW,
        )
    steps: list[Step] = [
        LayerStep(layer, repository, _digest(head, layer)) for head, layer in layers
    ]
    digest = hashlib.sha256(b"".join(step.digest for step in steps)).digest()
    before = TreeView(repository, tree)
    return [*steps, fit_step(repository, tree, before, laid, plans, digest)]


class LayerCheck(msgspec.Struct, frozen=True):
    """What keeps layers from being laid over a build, or their programs from running."""

    conflicts: list[Conflict]
    misfits: list[Misfit]


def check_layers(
    repository: Repository, tree: ObjectId, layers: Sequence[Layer], build: str
) -> LayerCheck:
    """The conflicts and misfits of layers with a commit's tree, called `build`; makes nothing.

    What extensions and scripts bring is not in the tree: a deploy has the last word.
    """
    plans, view = plan_layers(repository, tree, layers, build)
    step = fit_step(repository, tree, TreeView(repository, tree), layers, plans, b"")
    return LayerCheck(conflicts_of(plans), step.misfits(view))


def fit_step(
    repository: Repository,
    tree: ObjectId,
    before: RootView,
    layers: Sequence[Layer],
    plans: Mapping[str, Laid],
    digest: bytes,
) -> FitStep:
    """The check behind the steps, with this digest, that carry out the plans over `before`."""
    placed = {name: tuple(path for path, _ in plan.placement.files) for name, plan in plans.items()}
    libraries: dict[bytes, str] = {}
    for layer, plan in plans.items():
        for path in [*placed[layer], *_all_removed(before, plan)]:
            if name := library_name(path):
                libraries[name] = layer
    tolerant = [layer.name for layer in layers if layer.definition.misfit is MisfitPolicy.WARN]
    whole = hashlib.sha256(_VERSION + digest + msgspec.msgpack.encode(tolerant)).digest()
    return FitStep(whole, repository, tree, before, placed, frozenset(tolerant), libraries)


def _all_removed(view: RootView, plan: Laid) -> list[bytes]:
    """What the layer removes, and what is below that."""
    found = []
    stack = list(plan.removed)
    while stack:
        path = stack.pop()
        found.append(path)
        stack += [path + b"/" + name for name in view.names(path)]
    return found


def _digest(head: ObjectId, layer: Layer) -> bytes:
    definition = layer.definition
    options = (layer.name, definition.replace, definition.remove)
    return hashlib.sha256(_VERSION + head + msgspec.msgpack.encode(options)).digest()


def describe_laid(laid: Laid) -> str:
    """'500 files, 2 replaced, 1 removed'."""
    text = f"{len(laid.placement.files)} files"
    if laid.placement.replaced:
        text += f", {len(laid.placement.replaced)} replaced"
    return f"{text}, {len(laid.removed)} removed" if laid.removed else text


def list_conflicts(conflicts: Iterable[Conflict], *, with_layer: bool = False) -> str:
    """A line for each, for a message."""
    return listed(
        [f"layer {found.layer}: {found}" if with_layer else str(found) for found in conflicts]
    )


def listed(lines: Sequence[str]) -> str:
    """Lines for a message, not too many."""
    shown = [f"  {line}" for line in lines[:SHOWN]]
    if len(lines) > SHOWN:
        shown.append(f"  and {len(lines) - SHOWN} more")
    return "\n".join(shown)
