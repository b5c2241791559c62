"""Gateways: the shipped configuration in real nginx, and the mirror through it."""
