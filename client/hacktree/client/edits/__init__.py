"""What is written in a root while it is used: its /etc overlay, the sysroot's /var, kept copies."""
