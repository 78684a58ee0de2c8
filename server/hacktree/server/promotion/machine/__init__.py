"""A build booted in a virtual machine: its kernel, its root as a disk, a suite's command in it."""
