"""What the pulls of one process leave to the next one in it.

Nothing of it is believed of a disk that may have changed: trees are what their ids say wherever
they are, and directories of objects/ are listed again unless their mtimes are those of before.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hacktree.client.inventory import Inventory
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.tree import Tree
from hacktree.common.objects.walk import Extent


@dataclass(slots=True)
class Memory:
    """`trees`: those of the commit that was pulled last, decoded, and `encoded`, their bytes.
    `extents`: what trees were found to unfold to. `inventory`: the last one.
    """

    trees: Mapping[ObjectId, Tree] = field(default_factory=dict, repr=False)
    encoded: Mapping[ObjectId, bytes] = field(default_factory=dict, repr=False)
    extents: dict[ObjectId, Extent] = field(default_factory=dict, repr=False)
    inventory: Inventory | None = field(default=None, repr=False)
