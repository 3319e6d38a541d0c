"""What is known and not saved: how it is named in a refusal, and the way out of each.

By what the kernel calls it: the link of /proc/PID/fd, and of a socket its protocol (net/*/af_*.c, struct
proto). A row goes when its kind comes. Called by descriptors.
"""

from __future__ import annotations

__all__ = ["file", "socket"]

_UNKNOWN = "this version of livecr does not know this kind"
_CLOSE = "let the program close it; it can open another one afterwards"

# What the link starts with, the name, and the way out.
_FILES: tuple[tuple[str, str, str], ...] = (
    ("anon_inode:[fanotify]", "a fanotify group", "let the program close it, or use inotify, which is saved"),
    (
        "anon_inode:[userfaultfd]",
        "a userfaultfd",
        "let the program handle its page faults and close it first",
    ),
    ("anon_inode:[perf_event]", "a perf event", "let whoever measures the program end that first"),
    (
        "anon_inode:bpf-map",
        "a BPF map",
        "checkpoint the program without it, or let it pin the map and close it",
    ),
    ("anon_inode:bpf-prog", "a BPF program", "let the program pin it (bpf(2), BPF_OBJ_PIN) and close it"),
    ("anon_inode:bpf_link", "a BPF link", "let the program pin it (bpf(2), BPF_OBJ_PIN) and close it"),
    ("anon_inode:[landlock-ruleset]", "a Landlock ruleset", "let the program close it once it is in force"),
    ("anon_inode:[fscontext]", "a mount being configured (fsopen)", "let the program finish its mount"),
    ("anon_inode:seccomp notify", "a seccomp listener", "let the supervisor of the program end first"),
    ("anon_inode:kvm", "a virtual machine", "let the program end the virtual machine"),
    ("anon_inode:[io_uring]", "an io_uring", _UNKNOWN),
    ("anon_inode:sync_file", "a fence of a graphics device", "let the program end its graphics first"),
    ("/dmabuf:", "a buffer of a graphics device (dma-buf)", "let the program end its graphics first"),
    (
        "/secretmem",
        "secret memory (memfd_secret)",
        "nobody can read it but the program: let it end that first",
    ),
    ("net:", "a network namespace", _CLOSE),
    ("mnt:", "a mount namespace", _CLOSE),
    ("pid:", "a PID namespace", _CLOSE),
    ("user:", "a user namespace", _CLOSE),
    ("ipc:", "an IPC namespace", _CLOSE),
    ("uts:", "a UTS namespace", _CLOSE),
    ("time:", "a time namespace", _CLOSE),
    ("cgroup:", "a cgroup namespace", _CLOSE),
    ("anon_inode:", "", _UNKNOWN),
)

# The name of the protocol, ours, and the way out.
_SOCKETS: dict[str, tuple[str, str]] = {
    "PACKET": ("a packet socket", "let the program end its capture first"),
    "AF_VSOCK": ("a vsock socket", "let the program end its connection to the host first"),
    "ALG": ("a crypto socket (AF_ALG)", _CLOSE),
    "XDP": ("an XDP socket", "let the program end its capture first"),
    "MPTCP": ("a multipath TCP socket", "let the program use TCP: net.mptcp.enabled=0"),
    "MPTCPv6": ("a multipath TCP socket", "let the program use TCP: net.mptcp.enabled=0"),
    "SCTP": ("an SCTP socket", _CLOSE),
    "SCTPv6": ("an SCTP socket", _CLOSE),
}


def file(link: str) -> tuple[str, str]:
    """Name and way out of what is no socket."""
    for prefix, name, way_out in _FILES:
        if link.startswith(prefix):
            name = name or "a " + link.removeprefix(prefix).strip("[]")
            return f"{name} ({link})", way_out
    return link, _UNKNOWN


def socket(protocol: str, link: str) -> tuple[str, str]:
    """Name and way out of a socket."""
    name, way_out = _SOCKETS.get(protocol, (f"a socket of {protocol}", _UNKNOWN))
    return f"{name} ({link})", way_out
