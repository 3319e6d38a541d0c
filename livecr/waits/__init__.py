"""Interrupted system calls, the heart of livecr: what a task was blocked in, until when, and how it gets
back.

``restart`` knows the kernel's restart codes, ``catalog`` every blocking call, ``deadlines`` where the
remaining time is read, ``classify`` puts them together into a Wait, and ``rearm`` makes a task be inside
that call again.
"""
