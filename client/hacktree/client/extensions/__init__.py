"""Packages of other systems, RPM and deb, installed on every new root."""
