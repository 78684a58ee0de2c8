"""Changes that need one another: which come only together, and an order of growing sets.

Pure. "a needs b": where a has changed, b must have changed too.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

Needs = Mapping[int, Collection[int]]


def group(count: int, needs: Needs) -> list[list[int]]:
    """The numbers below `count`, in groups that need one another, each group after all it needs.

    So any prefix of the result needs nothing beyond itself. Equal input, equal result. Tarjan's
    strongly connected components, whose order is this one, without recursion.
    """
    index: dict[int, int] = {}
    lowest: dict[int, int] = {}
    open_: list[int] = []
    is_open: set[int] = set()
    groups: list[list[int]] = []
    for start in range(count):
        if start in index:
            continue
        path: list[tuple[int, Iterator[int]]] = []

        def enter(number: int, path: list[tuple[int, Iterator[int]]] = path) -> None:
            index[number] = lowest[number] = len(index)
            open_.append(number)
            is_open.add(number)
            path.append((number, iter(sorted(needs.get(number, ())))))

        enter(start)
        while path:
            number, wanted = path[-1]
            for other in wanted:
                if other not in index:
                    enter(other)
                    break
                if other in is_open:
                    lowest[number] = min(lowest[number], index[other])
            else:
                path.pop()
                if path:
                    above = path[-1][0]
                    lowest[above] = min(lowest[above], lowest[number])
                if lowest[number] == index[number]:
                    members = [open_.pop()]
                    while members[-1] != number:
                        members.append(open_.pop())
                    is_open.difference_update(members)
                    groups.append(sorted(members))
    return groups


def close(numbers: Collection[int], needs: Needs) -> frozenset[int]:
    """The numbers and all that they need."""
    found = set(numbers)
    waiting = list(numbers)
    while waiting:
        for other in needs.get(waiting.pop(), ()):
            if other not in found:
                found.add(other)
                waiting.append(other)
    return frozenset(found)


def needs_of_groups(groups: Sequence[Sequence[int]], needs: Needs) -> dict[int, frozenset[int]]:
    """What each group needs of the others, both by their place in `groups`."""
    place = {number: at for at, members in enumerate(groups) for number in members}
    return {
        at: frozenset(place[other] for number in members for other in needs.get(number, ())) - {at}
        for at, members in enumerate(groups)
    }
