"""Small ELF files in two versions each, made by the machine's compiler, and ways to break them.

In the second version a function grows, one is inserted and .bss grows, so that nearly every
address behind them differs.
"""

import random
import struct
import subprocess
from pathlib import Path
from typing import Final

FUNCTIONS: Final = 60


def c_source(version: int) -> str:
    """A library or program with calls, data, pointers, strings and switches."""
    lines = [
        "#include <stdio.h>",
        "#include <string.h>",
        f"static char zeros[{4096 * (1 + version)}];",
        "int counter = 7;",
    ]
    numbers = list(range(FUNCTIONS))
    if version:
        numbers.insert(FUNCTIONS // 3, 1000)
    for number in numbers:
        more = 'counter ^= x * 77; printf("more %d\\n", x);' * (version * (number == 5))
        cases = "".join(
            f'case {case}: counter += {number * case + 3}; puts("case {number} {case}"); break;'
            for case in range(9)
        )
        lines.append(
            f"int f{number}(int x) {{ {more} switch (x) {{ {cases} "
            f'default: printf("default {number} %d\\n", x); }} '
            f"zeros[x & 1023] += {number}; return counter + (int)strlen(zeros); }}"
        )
    lines.append(f"int (*const table[])(int) = {{ {', '.join(f'f{n}' for n in numbers)} }};")
    lines.append("int run(int x) { return table[x % (sizeof table / sizeof *table)](x); }")
    lines.append("int main(int count, char **v) { (void)v; return run(count); }")
    return "\n".join(lines)


def cxx_source(version: int) -> str:
    """A program that throws and catches."""
    lines = [
        "#include <string>",
        "#include <stdexcept>",
        "#include <cstdio>",
        "struct E { int i; };",
    ]
    for number in [*range(20), *([1000] if version else [])]:
        more = 'std::puts("longer");' * (3 * version * (number == 4))
        lines.append(
            f"__attribute__((noinline)) int g{number}(int x) {{ std::string s(x + {number}, 'a'); "
            f"try {{ {more} if (x > {number}) throw E{{x}}; "
            f'if (x == {number}) throw std::runtime_error(s + "{number}"); '
            "} catch (const E &e) { return e.i; } catch (const std::exception &e) { "
            "std::puts(e.what()); } return (int)s.size(); }"
        )
    calls = " + ".join(f"g{number}(c)" for number in range(20))
    lines.append(f"int main(int c, char **) {{ return {calls}; }}")
    return "\n".join(lines)


VARIANTS: Final = {
    "library": ("gcc", "c", ["-O2", "-shared", "-fPIC"]),
    "stripped library": ("gcc", "c", ["-O2", "-shared", "-fPIC", "-s"]),
    "program": ("gcc", "c", ["-O2", "-fPIE", "-pie", "-Wl,-z,lazy"]),
    "exceptions": ("g++", "c++", ["-O2", "-fPIE", "-pie", "-s"]),
    "object": ("gcc", "c", ["-O2", "-c", "-ffunction-sections", "-fdata-sections"]),
}


def build(variant: str, directory: Path) -> tuple[bytes, bytes]:
    """Both versions of one of `VARIANTS`."""
    compiler, language, options = VARIANTS[variant]
    made = []
    for version in (0, 1):
        source = (c_source if language == "c" else cxx_source)(version)
        out = directory / f"{variant}-{version}"
        command = [compiler, "-x", language, "-w", *options, "-o", str(out), "-"]
        subprocess.run(command, input=source.encode(), check=True)
        made.append(out.read_bytes())
    return made[0], made[1]


_NASTY: Final = [
    *(0, 1, 2, 3, 7, 8, 23, 24, 63, 64, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF),
    *(1 << 43, (1 << 44) - 1, 1 << 44, (1 << 63) - 1, 1 << 63, (1 << 64) - 1),
    0xFFFFFFFF80000000,
]


def mutate(data: bytes, chance: random.Random) -> bytes:
    """The file with a few lies in its headers and tables, or cut short."""
    broken = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 3, 8])):
        _lie(broken, chance)
    if chance.random() < 0.1:
        del broken[chance.randrange(len(broken)) :]
    return bytes(broken)


def _lie(data: bytearray, chance: random.Random) -> None:
    (table,) = struct.unpack_from("<Q", data, 40)
    (count,) = struct.unpack_from("<H", data, 60)
    kind = chance.randrange(8)
    if kind == 0:
        data[chance.randrange(64)] ^= 1 << chance.randrange(8)
    elif kind == 1:
        value = chance.choice([0, 1, count - 1, count + 1, 0xFFFF]) & 0xFFFF
        struct.pack_into("<H", data, chance.choice([58, 60, 62]), value)
    elif table + 64 * count > len(data) or count == 0:
        data[chance.randrange(len(data))] ^= 0xFF
    elif kind == 2:
        one, other = (table + 64 * chance.randrange(count) for _ in range(2))
        data[one : one + 64] = data[other : other + 64]
    elif kind in (3, 4, 5):
        header = table + 64 * chance.randrange(count)
        _lie_in_section(data, header, chance)
    else:
        header = table + 64 * chance.randrange(count)
        offset, size = struct.unpack_from("<QQ", data, header + 24)
        if size > 0 and offset + size <= len(data):
            for _ in range(chance.choice([1, 4, 40])):
                data[offset + chance.randrange(size)] = chance.randrange(256)


def _lie_in_section(data: bytearray, header: int, chance: random.Random) -> None:
    at, width = chance.choice(
        [(0, 4), (4, 4), (8, 8), (16, 8), (24, 8), (32, 8), (40, 4), (44, 4), (48, 8), (56, 8)]
    )
    value = chance.choice([*_NASTY, chance.randrange(20), chance.randrange(len(data))])
    if at == 24 and chance.random() < 0.5:
        # A section that covers the ELF header.
        value = chance.choice([0, 16, 64])
    data[header + at : header + at + width] = (value % (1 << (8 * width))).to_bytes(width, "little")
