"""The tester's machine: pull, sysroot and deploy."""
