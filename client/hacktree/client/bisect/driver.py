"""The steps of a bisection on this machine: begin, bring and deploy a build, take its verdict.

Each step is written down before it is begun and after it is done, so whoever comes after a crash
finishes it: `advance` may be called at any time, and goes on with the same build. The caller holds
the bisection's lock. docs/bisect.md.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from hacktree.client.bisect.core.choice import Choice, choose
from hacktree.client.bisect.core.model import (
    Candidate,
    Descended,
    Session,
)
from hacktree.client.bisect.core.state import (
    Found,
    Inconclusive,
    Outcome,
    State,
    current_state,
    record,
)
from hacktree.client.bisect.deploying import (
    Roots,
    is_about_build,
    keep_started,
    make_root,
    remove_roots,
)
from hacktree.client.bisect.farm.ahead import builds_ahead
from hacktree.client.bisect.farm.fetching import bring_build, pin_build
from hacktree.client.bisect.farm.forecast import describe_orders
from hacktree.client.bisect.farm.lease import begin_lease, renew_lease
from hacktree.client.bisect.farm.lines import BuildsGoneError
from hacktree.client.bisect.farm.prefetch import (
    PrefetchLimits,
    build_under_way,
    let_finish,
    start_prefetch,
    stop_prefetch,
)
from hacktree.client.bisect.farm.reading import read_finer
from hacktree.client.bisect.farm.transfers import Transfers, keep_trees
from hacktree.client.bisect.holding import read_held, refuse_changes
from hacktree.client.bisect.store import (
    Ahead,
    Intent,
    Local,
    Saved,
    Step,
    find_bisection,
    write_bisection,
)
from hacktree.client.bisect.unattended import read_unit
from hacktree.client.keeping import PreviousPolicy
from hacktree.client.pull import PullReport
from hacktree.client.remote import Remote, load_remote
from hacktree.client.roots import read_roots
from hacktree.client.source import NotServedError, WrongBytesError
from hacktree.client.sysroot import Sysroot
from hacktree.common.delta.prefer import Prefer
from hacktree.common.errors import HacktreeError, SpaceError, UserError
from hacktree.common.objects.ids import parse_object_id
from hacktree.common.repository.config import format_size

_SKIP_HINT: Final = (
    "`hacktree bisect skip` takes another build, `hacktree bisect next` tries this one again."
)


class BisectionExistsError(UserError):
    """A bisection is under way already."""


class CandidateFailedError(HacktreeError):
    """The build that is to be tested can't be had or deployed: it may be skipped."""


class Listener:
    """Told what a bisection does; this one keeps silent."""

    def say(self, line: str) -> None:
        """A line for a person."""

    def chosen(self, choice: Choice) -> None:
        """This build is brought next, and why."""

    def descended(self, low: Candidate, high: Candidate, line: Sequence[Candidate]) -> None:
        """Nothing between the two is left to test; the search goes on in what they come from."""

    @property
    def pulling(self) -> PullReport:
        """Told how far the bytes are."""
        return PullReport()


class Machine(msgspec.Struct, frozen=True):
    """Where a bisection goes on. `clock` is in seconds since 1970 UTC."""

    sysroot: Sysroot
    transfers: Transfers
    listener: Listener = msgspec.field(default_factory=Listener)
    clock: Callable[[], float] = time.time

    @property
    def now(self) -> int:
        """The time, in whole seconds."""
        return int(self.clock())


class Ready(msgspec.Struct, frozen=True):
    """`candidate` waits for its test in the complete root `root`."""

    saved: Saved
    state: State
    candidate: Candidate
    root: str


class Finished(msgspec.Struct, frozen=True):
    """The search has ended."""

    saved: Saved
    state: State
    outcome: Outcome


Standing = Ready | Finished


def begin(machine: Machine, session: Session, ahead: Ahead, old_end: str | None = None) -> Saved:
    """Write the session down; `advance` does the rest. Raises `BisectionExistsError`.

    `old_end`: as in `Local`.
    """
    sysroot = machine.sysroot
    refuse_second(sysroot)
    live = read_roots(sysroot).live
    keeps = session.options.deploy and live is not None and not live.pinned
    started = "" if live is None else live.root
    local = Local(started=started, keeps_started=keeps, ahead=ahead, old_end=old_end)
    saved = Saved(session, local)
    write_bisection(sysroot, saved)
    machine.transfers.keep()
    begin_lease(sysroot.repository, session, machine.listener.say)
    return saved


def refuse_second(sysroot: Sysroot) -> None:
    """Raise `BisectionExistsError` if a bisection is under way."""
    if find_bisection(sysroot) is not None:
        raise BisectionExistsError(
            "a bisection is under way already",
            hint="`hacktree bisect next` goes on with it, `status` shows it, `reset` ends it.",
        )


def advance(machine: Machine, saved: Saved, *, accept_changes: bool = False) -> Standing:
    """Bring and deploy the build that is to be tested, unless the search has ended.

    Goes on where an earlier call was cut off. Raises `CandidateFailedError`, of which `saved`
    holds which build; `ChangedMeanwhileError`; and what bringing and deploying raise.
    """
    if saved.local.keeps_started:
        keep_started(machine.sysroot, saved.local.started)
    saved = _descend(machine, saved)
    state = current_state(saved.session)
    if state.outcome is not None:
        stop_prefetch(machine.sysroot.repository)
        if isinstance(state.outcome, Found):
            saved = _bring_found(machine, saved, state.outcome)
        return Finished(saved, state, state.outcome)
    saved = _hold_constant(machine, saved, accept=accept_changes)
    machine.transfers.learn(_remote(machine, saved), state.line)
    _let_finish(machine, saved, state)
    stop_prefetch(machine.sysroot.repository)
    saved = _bring_old_end(machine, saved, state)
    _keep_lower_bound(machine, state)
    saved = _choose(machine, saved, state)
    renew_lease(machine.sysroot.repository, saved.session, machine.listener.say)
    candidate = under_test(saved)
    assert candidate is not None  # noqa: S101
    try:
        saved = _bring(machine, saved, candidate)
        # A deploy takes seconds in which nothing is fetched.
        _bring_ahead(machine, saved, state)
        saved = _deploy(machine, saved, candidate)
    except HacktreeError as error:
        hint = f"{error.hint}\n{_SKIP_HINT}".lstrip()
        if not is_about_build(error):
            if isinstance(error, WrongBytesError | NotServedError):
                # The farm's damage may be in this build alone; a person can tell, a run stops.
                error.hint = hint
            raise
        raise CandidateFailedError(
            f"{candidate} can't be tested: {error.message}", hint=hint
        ) from error
    return Ready(saved, state, candidate, _intent(saved).root)


def under_test(saved: Saved) -> Candidate | None:
    """The build that is brought, deployed or tested now; None: none was chosen yet."""
    intent = saved.local.intent
    if intent is None:
        return None
    state = current_state(saved.session)
    return state.line[state.find(intent.commit)]


def leave_old_end(machine: Machine, saved: Saved) -> Saved:
    """The old end is no longer to be here before anything is tested."""
    return _set_old_end(machine, saved, "")


def write_answered(machine: Machine, saved: Saved, session: Session) -> Saved:
    """Write a session down that has another event: what was begun with a build is no more."""
    local = msgspec.structs.replace(saved.local, intent=None)
    return _write(machine, msgspec.structs.replace(saved, session=session, local=local))


def _descend(machine: Machine, saved: Saved) -> Saved:
    """Into the finer branch, for as long as nothing is left to test between two promoted builds.

    Also where builds between them were skipped: in the finer branch there are others.
    """
    while True:
        state = current_state(saved.session)
        if not isinstance(state.outcome, Found | Inconclusive):
            return saved
        low, high = state.before, state.last
        repository, remote = machine.sysroot.repository, _remote(machine, saved)
        try:
            read = read_finer(repository, remote, low, high)
        except BuildsGoneError as error:
            machine.listener.say(f"note: {error.message}")
            return saved
        line = read.value.builds
        if not line:
            return saved
        machine.listener.descended(low, high, line)
        session = record(saved.session, Descended(line, machine.now))
        keep_trees(repository, read.value.trees)
        machine.transfers.received += read.received
        saved = write_answered(machine, saved, session)


def _hold_constant(machine: Machine, saved: Saved, *, accept: bool) -> Saved:
    session = saved.session
    now = read_held(machine.sysroot)
    if now == session.options.constant:
        return saved
    if not accept:
        refuse_changes(session.options.constant, now)
    mixed = session.options.mixed or current_state(session).tests > 0
    options = msgspec.structs.replace(session.options, constant=now, mixed=mixed)
    session = msgspec.structs.replace(session, options=options)
    return _write(machine, msgspec.structs.replace(saved, session=session))


def _bring_old_end(machine: Machine, saved: Saved, state: State) -> Saved:
    """Have the old end of the suspects here before anything is tested (ADR 29)."""
    say, repository = machine.listener.say, machine.sysroot.repository
    wanted = saved.local.old_end
    if wanted is None:
        if saved.local.intent is not None:
            return saved
        wanted = state.before.commit
        saved = _set_old_end(machine, saved, wanted)
        orders = machine.transfers.orders(state, saved.session.priors)
        if orders is not None:
            say(describe_orders(orders, format_size))
    if not wanted or repository.has_meta(parse_object_id(wanted)):
        return saved
    build = next(each for line in saved.session.lines for each in line if each.commit == wanted)
    say(f"Bringing {build} before anything is tested")
    try:
        return _write(machine, _bring(machine, saved, build))
    except HacktreeError as error:
        if not isinstance(error, SpaceError) and not is_about_build(error):
            raise
        say(f"note: {build} is not brought first: {error.message}")
        return leave_old_end(machine, saved)


def _keep_lower_bound(machine: Machine, state: State) -> None:
    """Pin the last build that is like the old end, if it is here: it may be so by a root alone,
    which somebody removes meanwhile."""
    repository, commit = machine.sysroot.repository, parse_object_id(state.before.commit)
    if repository.has_meta(commit):
        pin_build(repository, commit)


def _set_old_end(machine: Machine, saved: Saved, old_end: str) -> Saved:
    local = msgspec.structs.replace(saved.local, old_end=old_end)
    return _write(machine, msgspec.structs.replace(saved, local=local))


def _let_finish(machine: Machine, saved: Saved, state: State) -> None:
    """Wait a moment for what is brought ahead, if it would be tested next and nothing slows it."""
    transfers, repository = machine.transfers, machine.sysroot.repository
    build = build_under_way(repository)
    if build is None or saved.local.ahead.rate or saved.local.intent is not None:
        return
    costs = {**transfers.costs(state.line), build.hex(): 0}
    choice = choose(state, costs, saved.session.priors)
    if choice is not None and choice.candidate.commit == build.hex():
        machine.listener.say(f"Waiting for {choice.candidate}, which is on its way")
        let_finish(repository, build)


def _choose(machine: Machine, saved: Saved, state: State) -> Saved:
    transfers = machine.transfers
    if saved.local.intent is not None:
        return saved
    if note := transfers.take_note():
        machine.listener.say(f"note: {note}")
    choice = choose(state, transfers.costs(state.line), saved.session.priors)
    assert choice is not None  # noqa: S101
    machine.listener.chosen(choice)
    return _intend(machine, saved, Intent(choice.candidate.commit, Step.BRINGING, time=machine.now))


def _bring(machine: Machine, saved: Saved, candidate: Candidate) -> Saved:
    request = machine.transfers.request(candidate)
    _, traffic = bring_build(
        machine.sysroot.repository, _remote(machine, saved), request, machine.listener.pulling
    )
    received = saved.local.received + traffic.bytes + machine.transfers.received
    machine.transfers.received = 0
    return msgspec.structs.replace(
        saved, local=msgspec.structs.replace(saved.local, received=received)
    )


def _bring_found(machine: Machine, saved: Saved, found: Found) -> Saved:
    """Have both builds here that a report compares.

    One of a finer branch may not be, which has the tree of one that was tested; nor one that was
    answered for by name, or an end that is believed.
    """
    before = saved.local.received
    for build in (found.before, found.first):
        try:
            saved = _bring(machine, saved, build)
        except HacktreeError as error:
            machine.listener.say(f"note: {build} is not here to be compared: {error.message}")
    return saved if saved.local.received == before else _write(machine, saved)


def _bring_ahead(machine: Machine, saved: Saved, state: State) -> None:
    """While the build is tested, bring those that may come next."""
    remote, ahead = _remote(machine, saved), saved.local.ahead
    if not ahead.enabled or remote.local_path is not None:
        return
    transfers = machine.transfers
    index = state.find(_intent(saved).commit)
    builds = builds_ahead(
        state, index, transfers.trees, transfers.held(), transfers.edges, saved.session.priors
    )
    # Nobody waits for these, and some of them come in vain.
    wishes = [transfers.request(build, Prefer.BYTES) for build in builds]
    limits = PrefetchLimits(ahead.rate or None, ahead.space)
    start_prefetch(machine.sysroot.repository, remote.name, wishes, limits)


def _remote(machine: Machine, saved: Saved) -> Remote:
    return load_remote(machine.sysroot.repository, saved.session.remote)


def _deploy(machine: Machine, saved: Saved, candidate: Candidate) -> Saved:
    options = saved.session.options
    booted = options.deploy and bool(saved.local.started)
    unit = read_unit(machine.sysroot)
    roots = Roots(machine.sysroot, options, machine.listener.say, booted, unit)
    commit = candidate.commit

    def announce(name: str) -> None:
        nonlocal saved
        names = (*saved.local.roots, name) if name not in saved.local.roots else saved.local.roots
        saved = _intend(machine, saved, Intent(commit, Step.DEPLOYING, name, machine.now), names)

    root = make_root(roots, candidate, announce)
    others = [name for name in saved.local.roots if name != root]
    stay = remove_roots(machine.sysroot, others, PreviousPolicy.REFUSE, machine.listener.say)
    names = (*stay, *(name for name in saved.local.roots if name == root))
    return _intend(machine, saved, Intent(commit, Step.TESTING, root, machine.now), names)


def _intend(
    machine: Machine, saved: Saved, intent: Intent, roots: Sequence[str] | None = None
) -> Saved:
    names = saved.local.roots if roots is None else tuple(roots)
    local = msgspec.structs.replace(saved.local, intent=intent, roots=names)
    return _write(machine, msgspec.structs.replace(saved, local=local))


def _intent(saved: Saved) -> Intent:
    intent = saved.local.intent
    assert intent is not None  # noqa: S101
    return intent


def _write(machine: Machine, saved: Saved) -> Saved:
    write_bisection(machine.sysroot, saved)
    return saved
