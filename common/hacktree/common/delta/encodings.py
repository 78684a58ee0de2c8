"""How a reference's value stands in its field: whole, or as bits of an instruction's word.

A value of `bits` bits is taken modulo 2**bits, as a signed integer. Immediates of A64 instructions
are named after the Arm Architecture Reference Manual, C6.2.
"""

import enum
from typing import Final

import msgspec

from hacktree.common.delta.varint import I64

PAGE_BITS: Final = 12
PAGE_MASK: Final = (1 << PAGE_BITS) - 1
"""Pages as ADRP counts them, whatever pages the kernel has."""


class _Part(msgspec.Struct, frozen=True):
    """Bits `value` to `value + count - 1` of the value, at bit `word` of the word."""

    value: int
    word: int
    count: int


class Encoding(enum.Enum):
    """Which bits of its field hold the value."""

    WHOLE = enum.auto()
    """All of them."""
    BRANCH26 = enum.auto()
    """imm26 of B and BL, in words."""
    BRANCH19 = enum.auto()
    """imm19 of B.cond, CBZ, CBNZ and LDR (literal), in words."""
    BRANCH14 = enum.auto()
    """imm14 of TBZ and TBNZ, in words."""
    NEAR21 = enum.auto()
    """immhi:immlo of ADR, in bytes."""
    PAGE21 = enum.auto()
    """immhi:immlo of ADRP, in pages of 4096 bytes: the target's page less the instruction's."""
    LOW12 = enum.auto()
    """imm12 of ADD, LDR or STR behind an ADRP: the target's place in its page."""

    @property
    def is_partial(self) -> bool:
        """Whether a field says only a part of its target, as those of a pair do."""
        return self in (Encoding.PAGE21, Encoding.LOW12)

    def bits(self, width: int) -> int:
        """Of the value, in a field of `width` bytes."""
        return sum(part.count for part in _PARTS[self]) or 8 * width

    def extract(self, words: I64) -> I64:
        """The values in fields that hold `words`, sign-extended."""
        if self is Encoding.WHOLE:
            return words
        values = words & 0
        for part in _PARTS[self]:
            values |= (words >> part.word & (1 << part.count) - 1) << part.value
        return wrap(values, self.bits(4))

    def insert(self, words: I64, values: I64) -> I64:
        """`words` with the values in place of those that they hold; other bits stay."""
        if self is Encoding.WHOLE:
            return values
        for part in _PARTS[self]:
            mask = (1 << part.count) - 1
            words = words & ~(mask << part.word) | (values >> part.value & mask) << part.word
        return words


_PARTS: Final = {
    Encoding.WHOLE: (),
    Encoding.BRANCH26: (_Part(0, 0, 26),),
    Encoding.BRANCH19: (_Part(0, 5, 19),),
    Encoding.BRANCH14: (_Part(0, 5, 14),),
    Encoding.NEAR21: (_Part(0, 29, 2), _Part(2, 5, 19)),
    Encoding.PAGE21: (_Part(0, 29, 2), _Part(2, 5, 19)),
    Encoding.LOW12: (_Part(0, 10, 12),),
}


def wrap(values: I64, bits: int) -> I64:
    """The values modulo 2**bits, as signed integers of so many bits."""
    spare = 64 - bits
    return values << spare >> spare if spare else values
